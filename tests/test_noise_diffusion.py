"""NoiseDiffusion: what inverts keyframes, and how their noise is mixed. Its equations are in test_schemes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import QUICK, contents, latents, picture, tiny_interpolator
from tiny_flow import FAMILIES
from torch import Tensor

from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.method.noise import Noise
from segue.method.noise_diffusion import mix_noise
from segue.method.tree import FrameKey
from segue.models.backbone import Sampling

SETTINGS: dict[str, Any] = {**QUICK, "scheme": "noise-diffusion"}


def draw(number: int) -> Tensor:
    return Noise(0)("midpoint", FrameKey(number), shape=(4, 8, 8))


def test_with_no_mixing_it_is_the_encoded_noise() -> None:
    """At the ends and without the strength above 1, but for the values that no Gaussian has."""
    x, y, z, w = (draw(i) for i in range(4))
    assert torch.allclose(mix_noise(x, y, z, w, 0.0, strength=1), x.clamp(-2, 2), atol=1e-6)
    assert torch.allclose(mix_noise(x, y, z, w, 1.0, strength=1), y.clamp(-2, 2), atol=1e-6)


def test_the_mix_keeps_the_variance_of_noise_and_the_sum_of_the_clean_latents() -> None:
    x, y, zero = draw(0) / 4, draw(1) / 4, torch.zeros(4, 8, 8)
    assert float(mix_noise(x, y, zero, zero, 0.3).std() / x.std()) == pytest.approx(1, abs=0.1)
    flat = torch.full((4, 8, 8), 0.5)  # latents that hold nothing but the clean one
    for position in (0.0, 0.3, 0.5, 1.0):
        assert torch.allclose(mix_noise(flat, flat, flat, flat, position), 1.2 * flat, atol=1e-6)


@pytest.mark.parametrize("family", ["unet", "flow"])
def test_inversion_is_taken_back_by_denoising(family: str) -> None:
    """The more steps, the nearer: both go by the same points."""
    model = (tiny_interpolator() if family == "unet" else Interpolator(FAMILIES["sd3"].make(0))).backbone
    words = model.embed(["a cat"], [""])
    point = model.point(0.55)
    z = Noise(0)("midpoint", FrameKey(0), shape=(1, model.latent_channels, 8, 8)) / 2
    errors = []
    for steps in (20, 200):
        sampling = Sampling(solver="ddim", num_inference_steps=steps, guidance_scale=1.0)
        noisy = model.invert(z, words, point, sampling=sampling)
        assert not torch.allclose(noisy, z, atol=0.1)
        errors.append(float((model.denoise(noisy, words, point, sampling=sampling) - z).abs().max()))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.05


def test_keyframes_are_inverted_once_and_kept(tmp_path: Path) -> None:
    """The film made again without its frames computes the frames alone, to the byte."""
    images = picture(0), picture(1)
    calls: list[Any] = []
    tiny_interpolator()(*images, output=tmp_path / "run", callback=calls.append, **SETTINGS)
    whole = contents(tmp_path / "run", "frames/", "latents/")
    for path in (tmp_path / "run" / "frames").glob("000.[1-9]*"):
        path.unlink()
    tiny_interpolator()(*images, output=tmp_path / "run", **SETTINGS)
    assert contents(tmp_path / "run", "frames/", "latents/") == whole


def test_a_loop_closes(tmp_path: Path) -> None:
    """Between a keyframe and the next in either direction there are the same frames."""
    settings = {**SETTINGS, "loop": True, "align": False, "num_frames": 3, "detail": 0.0}
    morph = tiny_interpolator()(picture(0), picture(1), output=tmp_path / "run", **settings)
    there, back = latents(tmp_path / "run").values()
    assert len(morph.frames) == 4
    assert torch.allclose(there, back, atol=1e-4)


def test_what_branching_alone_can_do_is_refused(tmp_path: Path) -> None:
    images = picture(0), picture(1)
    for settings, line in (
        ({"candidates": 2}, "candidates need the scheme branching, not noise-diffusion"),
        ({"noise": (0.5, 0.4, 0.3)}, "noise: noise-diffusion takes a range of two numbers"),
        ({"refine": 2}, "refine needs the scheme branching"),
    ):
        with pytest.raises(SegueError, match=line):
            tiny_interpolator()(*images, **SETTINGS, **settings)
    tiny_interpolator()(*images, output=tmp_path / "run", **SETTINGS)
    with pytest.raises(SegueError, match="can be made again, not by noise-diffusion"):
        tiny_interpolator().remake(tmp_path / "run", FrameKey.at("1/2"))

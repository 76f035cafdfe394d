"""Stable Diffusion XL against diffusers' own pipelines, and films by it."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from shapes import QUICK, picture
from tiny import batch_sizes, tiny_controlnet, tiny_xl_pipe
from torch import Tensor

from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.method.conditioning import Conditioning, Control
from segue.method.tree import FrameKey
from segue.models.backbone import Sampling
from segue.models.families import backbone_of
from segue.models.loading import load
from segue.models.stable_diffusion_xl import StableDiffusionXL
from segue.run.journal import Edit

STEPS = 8
Prediction = Literal["epsilon", "v_prediction"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampling(steps: int = STEPS, guidance: float = 5.0) -> Sampling:
    return Sampling(solver="ddim", num_inference_steps=steps, guidance_scale=guidance)


def trailing(scheduler: Any) -> Any:
    """A scheduler on the grid of a leg from the last timestep of training to clean."""
    return DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True)


@pytest.mark.parametrize("negative", ["", "a dog"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_from_noise_to_an_image_equals_the_pipe(prediction: Prediction, negative: str) -> None:
    pipe = tiny_xl_pipe(prediction)
    backbone = StableDiffusionXL(pipe)
    pipe.scheduler = trailing(pipe.scheduler)
    eps = randn(1, 4, 8, 8)
    # The pipe's last timestep is the leg's own start; DDIM's sigma there is the schedule's.
    start = backbone.schedule.noise_point(999)
    expected = pipe(
        "a cat",
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        negative_prompt=negative or None,
        latents=eps,
        output_type="pt",
    ).images
    words = backbone.embed(["a cat"], [negative])
    z = backbone.denoise(eps, words, start, sampling=sampling())
    assert torch.allclose(backbone.decode(z) / 2 + 0.5, expected, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_image_to_image_equals_the_pipe(prediction: Prediction) -> None:
    pipe = StableDiffusionXLImg2ImgPipeline(**tiny_xl_pipe(prediction).components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = trailing(pipe.scheduler)
    backbone: Any = backbone_of(pipe)
    z = backbone.encode(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1)
    expected = pipe(
        "a cat",
        image=z,
        strength=0.5,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),  # of which the pipe draws the noise alone
        output_type="pt",
    ).images
    pipe.scheduler.set_timesteps(STEPS)
    start = backbone.schedule.noise_point(int(pipe.scheduler.timesteps[STEPS // 2]))
    noisy = start.alpha * z + start.sigma * randn(1, 4, 8, 8, seed=7)
    got = backbone.denoise(noisy, backbone.embed(["a cat"], [""]), start, sampling=sampling())
    assert torch.allclose(backbone.decode(got) / 2 + 0.5, expected, atol=1e-4)


def test_latents_are_normalised_by_mean_and_deviation_where_the_vae_has_them() -> None:
    pipe = tiny_xl_pipe()
    plain = StableDiffusionXL(pipe)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    z, scaling = plain.encode(image), pipe.vae.config.scaling_factor
    mean, deviation = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([0.5, 2.0, 1.5, 1.0])
    pipe.vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    shape = (1, 4, 1, 1)
    expected = (z / scaling - mean.reshape(shape)) * scaling / deviation.reshape(shape)
    assert torch.allclose(plain.encode(image), expected, atol=1e-5)
    assert torch.allclose(plain.decode(expected), decoded(pipe, z / scaling), atol=1e-4)


def decoded(pipe: Any, latents: Tensor) -> Tensor:
    with torch.no_grad():
        images: Tensor = pipe.vae.decode(latents).sample
    return images.clamp(-1, 1)


def test_a_half_precision_vae_works_in_float32_and_stays_half() -> None:
    pipe = tiny_xl_pipe()
    z = StableDiffusionXL(pipe).encode(torch.zeros(1, 3, 64, 64))
    halved = tiny_xl_pipe()
    halved.vae.half()
    found = StableDiffusionXL(halved).decode(z)
    assert halved.vae.dtype == torch.float16
    halved.vae.float()
    assert torch.equal(found, StableDiffusionXL(halved).decode(z))


def test_words_of_both_encoders_are_blended_each_by_its_rule() -> None:
    words = StableDiffusionXL(tiny_xl_pipe()).embed(["a cat", "a dog"], ["", "grey"])
    a, b = words.sample(0), words.sample(1)
    assert words.text.shape == (2, 77, 80)
    assert not a.negative["pooled"].any()
    assert not a.negative_text.any()
    assert b.negative_text.any()
    blend = a.blend(b, 0.25)
    assert torch.allclose(blend.positive["pooled"], 0.75 * a.positive["pooled"] + 0.25 * b.positive["pooled"])
    assert not torch.allclose(blend.text, torch.lerp(a.text, b.text, 0.25), atol=1e-4)


def test_a_batch_equals_its_samples_and_guidance_is_one_call() -> None:
    backbone = StableDiffusionXL(tiny_xl_pipe())
    words = backbone.embed(["a cat", "a dog", ""], ["", "grey", ""])
    start, z = backbone.point(0.5), randn(3, 4, 8, 12)
    with batch_sizes(backbone.pipe.unet) as seen:
        together = backbone.denoise(z, words, start, sampling=sampling())
    assert set(seen) == {6}
    for i in range(3):
        alone = backbone.denoise(z[i : i + 1], words.sample(i), start, sampling=sampling())
        assert torch.allclose(together[i : i + 1], alone, atol=1e-4)


def test_a_controlnet_equals_the_pipes() -> None:
    base = tiny_xl_pipe()
    network = tiny_controlnet(base)
    pipe = StableDiffusionXLControlNetPipeline(**base.components, controlnet=network, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = trailing(pipe.scheduler)
    hint, eps = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)), randn(1, 4, 8, 8)
    expected = pipe(
        "a cat",
        image=hint,
        controlnet_conditioning_scale=0.8,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        latents=eps,
        output_type="latent",
    ).images
    backbone: Any = backbone_of(base, network)
    words = backbone.embed(["a cat"], [""])
    controlled = Conditioning(words.positive, words.negative, (Control(hint, torch.tensor([0.8])),))
    start = backbone.schedule.noise_point(999)
    found = backbone.denoise(eps, controlled, start, sampling=sampling())
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, backbone.denoise(eps, words, start, sampling=sampling()), atol=1e-2)


def test_a_refiner_is_refused() -> None:
    pipe = tiny_xl_pipe()
    pipe.unet.register_to_config(addition_time_embed_dim=9)
    with pytest.raises(SegueError, match="a refiner, for instance"):
        backbone_of(pipe)


SCHEMES = (
    "branching",
    "interpolate",
    "interpolate-denoise",
    "denoise-interpolate-denoise",
    "denoise-interpolate-denoise-unshared",
    "noise-diffusion",
)
FILM: Any = {**QUICK, "network_size": "64x64", "noise": (0.4, 0.5), "guidance_scale": 3.0, "seed": 2}


@pytest.fixture(scope="module")
def interpolator() -> Interpolator:
    pipe = tiny_xl_pipe()
    return Interpolator(pipe, controlnet=tiny_controlnet(pipe))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_films_by_every_scheme_resume_to_the_byte(interpolator: Interpolator, tmp_path: Path, scheme: Any) -> None:
    def film(name: str, stop_after: int | None = None) -> list[bytes]:
        def stop(progress: Any) -> None:
            nonlocal stop_after
            if stop_after is not None and getattr(progress, "frame", None) is not None:
                stop_after -= 1
                if stop_after < 0:
                    raise KeyboardInterrupt

        interpolator(picture(1), picture(2), output=tmp_path / name, scheme=scheme, callback=stop, **FILM)
        return [path.read_bytes() for path in sorted((tmp_path / name / "frames").glob("*.png"))]

    whole = film("whole")
    assert len(whole) == 5
    with pytest.raises(KeyboardInterrupt):
        film("stopped", stop_after=1)
    assert film("stopped") == whole


def test_alignment_inversion_poses_candidates_and_remake(interpolator: Interpolator, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hints = [tmp_path / f"hint{i}.png" for i in range(2)]
    for i, hint in enumerate(hints):
        picture(i + 3).save(hint)
    options = {**FILM, "inversion": 3, "align": True, "candidates": 2, "control_image": [str(hint) for hint in hints]}
    film = interpolator(picture(1), picture(2), output=run, **options)
    before = [path.read_bytes() for path in sorted((run / "frames").glob("*.png"))]
    assert len(list(film.frames)) == 5
    interpolator.remake(run, FrameKey(0, Fraction(1, 2)), Edit(prompt="a fish"))
    after = [path.read_bytes() for path in sorted((run / "frames").glob("*.png"))]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, False, True]
    interpolator.undo(run)
    assert [path.read_bytes() for path in sorted((run / "frames").glob("*.png"))] == before


def test_a_folder_is_loaded_with_and_without_a_controlnet(tmp_path: Path) -> None:
    pipe = tiny_xl_pipe()
    pipe.save_pretrained(tmp_path / "xl")
    tiny_controlnet(pipe).save_pretrained(tmp_path / "control")
    whole = backbone_of(load(tmp_path / "xl", dtype="float32", device="cpu"))
    assert whole.fingerprint() == backbone_of(pipe).fingerprint()
    controlled = backbone_of(load(tmp_path / "xl", controlnet=tmp_path / "control", dtype="float32", device="cpu"))
    assert len(controlled.controlnets) == 1
    spared = backbone_of(load(tmp_path / "xl", dtype="float32", device="cpu", low_memory=True))
    image = torch.zeros(2, 3, 64, 64)
    assert torch.allclose(spared.encode(image), whole.encode(image), atol=1e-5)


def test_a_folder_without_its_second_encoder_is_refused(tmp_path: Path) -> None:
    tiny_xl_pipe().save_pretrained(tmp_path / "xl")
    shutil.rmtree(tmp_path / "xl" / "text_encoder_2")
    with pytest.raises(SegueError, match="text_encoder_2 is missing"):
        load(tmp_path / "xl", dtype="float32", device="cpu")


def test_settings_of_the_pipe_that_change_the_words_are_in_the_fingerprint() -> None:
    pipe = tiny_xl_pipe()
    before = backbone_of(pipe).fingerprint()
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert backbone_of(pipe).fingerprint() != before

"""What saves work and memory must not change the images: guidance intervals, tiles, batches, low memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import QUICK, picture, tiny_interpolator
from tiny import batch_sizes, text_conditioning, tiny_controlnet, tiny_pipe
from torch import Tensor

from segue import machine
from segue.engine.interpolator import Interpolator
from segue.machine import allowed_cpus, limit_threads
from segue.method.conditioning import Conditioning, Control
from segue.models import loading, unet
from segue.models import pipe as pipes
from segue.models.backbone import Sampling
from segue.models.stable_diffusion import StableDiffusion
from segue.settings.kinds import MorphSettings, parse_settings

SAMPLING = Sampling(num_inference_steps=16, guidance_scale=6.0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    return StableDiffusion(tiny_pipe())


@pytest.fixture(scope="module")
def words(backbone: StableDiffusion) -> Conditioning:
    return backbone.embed(["a cat", "a tiger"], ["blurry", ""])


# Guidance over a share of the leg.


def denoise(backbone: StableDiffusion, words: Conditioning, **options: Any) -> tuple[Tensor, list[int]]:
    sampling = Sampling(**{**vars(SAMPLING), **options})
    with batch_sizes(backbone.pipe.unet) as seen:
        return backbone.denoise(randn(2, 4, 4, 4), words, backbone.point(0.5), sampling=sampling), seen


def test_guidance_over_all_of_the_leg_is_the_default(backbone: StableDiffusion, words: Conditioning) -> None:
    plain, calls = denoise(backbone, words)
    full, same = denoise(backbone, words, guidance_start=0.0, guidance_end=1.0)
    assert torch.equal(plain, full)
    assert calls == same == [4] * 9


def test_guidance_over_nothing_is_no_guidance(backbone: StableDiffusion, words: Conditioning) -> None:
    without, calls = denoise(backbone, words, guidance_scale=1.0)
    nowhere, same = denoise(backbone, words, guidance_start=0.0, guidance_end=0.0)
    assert torch.equal(without, nowhere)
    assert calls == same == [2] * 9


def test_only_steps_inside_are_guided(backbone: StableDiffusion, words: Conditioning) -> None:
    z, calls = denoise(backbone, words, guidance_start=0.3, guidance_end=0.7)
    assert calls == [2, 2, 2, 4, 4, 4, 2, 2, 2]
    assert not torch.allclose(z, denoise(backbone, words)[0], atol=1e-3)
    late, _ = denoise(backbone, words, guidance_start=0.5)
    early, _ = denoise(backbone, words, guidance_end=0.5)
    assert not torch.allclose(late, early, atol=1e-3)


def test_unguided_steps_keep_their_controls(words: Conditioning) -> None:
    pipe = tiny_pipe()
    backbone = StableDiffusion(pipe, tiny_controlnet(pipe))
    control = Control(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0, 0.5]))
    controlled = text_conditioning(words.text, words.negative_text, (control,))
    nowhere, _ = denoise(backbone, controlled, guidance_end=0.0)
    without, _ = denoise(backbone, controlled, guidance_scale=1.0)
    assert torch.equal(nowhere, without)
    assert not torch.allclose(nowhere, denoise(backbone, words, guidance_end=0.0)[0], atol=1e-3)


def test_the_settings_reach_the_sampling(tmp_path: Path) -> None:
    unet: Any = tiny_interpolator().backbone.pipe.unet  # type: ignore[attr-defined]
    with batch_sizes(unet) as seen:
        tiny_interpolator()(
            picture(0), picture(1), output=tmp_path / "a", guidance_end=0.0, align=False, detail=0.0, **QUICK
        )
    assert set(seen) == {1, 2}  # the levels' frames, no second branch
    with pytest.raises(Exception, match=r"guidance_start \(0.6\) lies behind guidance_end \(0.4\)"):
        parse_settings(MorphSettings, {"guidance_start": 0.6, "guidance_end": 0.4})


# Tiles.


def test_large_images_are_coded_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = StableDiffusion(tiny_pipe())
    vae = backbone.pipe.vae
    vae.tile_sample_min_size, vae.tile_latent_min_size = 64, 8
    tiled: list[bool] = []
    for name in ("encoder", "decoder"):
        getattr(vae, name).register_forward_pre_hook(lambda _module, arguments: tiled.append(vae.use_tiling))
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    backbone.decode(backbone.encode(image))
    assert tiled == [False, False]
    tiled.clear()
    monkeypatch.setattr(pipes, "TILED_PIXELS", 128 * 128 - 1)
    backbone.decode(backbone.encode(image))
    assert len(tiled) > 8
    assert all(tiled)
    assert not vae.use_tiling


# Batches.


def test_the_batch_follows_from_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipe()
    backbone = StableDiffusion(pipe)
    free = [1e12]
    monkeypatch.setattr(pipes, "free_memory", lambda _device: free[0])
    assert backbone.frames_at_once((256, 256)) == 16  # a million pixels
    assert backbone.frames_at_once((512, 512)) == 4
    assert backbone.frames_at_once((2048, 2048)) == 1
    one = 2 * 256 * 256 * unet.BYTES_PER_PIXEL * 32 / unet.WIDTH
    for free[0], frames in ((5 * one / 0.69, 4), (4 * one / 0.71, 2), (0.1 * one, 1)):
        assert backbone.frames_at_once((256, 256)) == frames
    pipe.unet.to(torch.bfloat16)
    free[0] = 4 * one / 0.71
    assert backbone.frames_at_once((256, 256)) == 4


# Runs.


def test_a_finished_film_embeds_no_words(tmp_path: Path) -> None:
    pipe: Any = tiny_interpolator().backbone.pipe  # type: ignore[attr-defined]
    calls: list[int] = []
    handles = [
        network.register_forward_pre_hook(lambda *_arguments, **_options: calls.append(1), with_kwargs=True)
        for network in (pipe.text_encoder, pipe.unet)
    ]
    try:
        tiny_interpolator()(picture(0), picture(1), output=tmp_path / "a", **QUICK)
        assert calls
        calls.clear()
        morph = tiny_interpolator()(picture(0), picture(1), output=tmp_path / "a", **QUICK)
    finally:
        for handle in handles:
            handle.remove()
    assert not calls
    assert len(morph) == 5


def test_a_run_that_is_older_than_a_setting_is_continued(tmp_path: Path) -> None:
    tiny_interpolator()(picture(0), picture(1), output=tmp_path / "a", **QUICK)
    file = tmp_path / "a" / "run.json"
    data = json.loads(file.read_text())
    del data["settings"]["guidance_start"]
    file.write_text(json.dumps(data))
    with batch_sizes(tiny_interpolator().backbone.pipe.unet) as seen:  # type: ignore[attr-defined]
        tiny_interpolator()(picture(0), picture(1), output=tmp_path / "a", **QUICK)
    assert not seen
    with pytest.raises(Exception, match=r"guidance_start: 0.0, now 0.5"):
        tiny_interpolator()(picture(0), picture(1), output=tmp_path / "a", **{**QUICK, "guidance_start": 0.5})


# Low memory.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    with loading.quiet():
        tiny_pipe().save_pretrained(folder)
    return folder


def test_low_memory_gives_equal_frames(saved: Path, tmp_path: Path) -> None:
    plain, low = (
        Interpolator.from_pretrained(saved, dtype="float32", device="cpu", low_memory=spare) for spare in (False, True)
    )
    films = [
        interpolator(picture(0), picture(1), output=tmp_path / name, **QUICK)
        for name, interpolator in zip("ab", (plain, low), strict=True)
    ]
    for a, b in zip(*(film.frames for film in films), strict=True):
        assert abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1
    sizes = [json.loads((tmp_path / name / "run.json").read_text())["batch_size"] for name in "ab"]
    assert sizes == [16, 1]
    vaes: list[Any] = [interpolator.backbone.pipe.vae for interpolator in (plain, low)]  # type: ignore[attr-defined]
    assert [(vae.use_slicing, vae.use_tiling) for vae in vaes] == [(False, False), (True, True)]


def test_low_memory_offloads_to_an_accelerator(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    kind = type(tiny_pipe())
    monkeypatch.setattr(loading, "device_of", lambda _name: torch.device("cuda"))
    monkeypatch.setattr(kind, "enable_model_cpu_offload", lambda _pipe, device: asked.append(device))
    pipe = loading.load(saved, dtype="bfloat16", low_memory=True)
    assert asked == [torch.device("cuda")]
    assert pipe.unet.device == torch.device("cpu")  # nothing was moved beforehand


# Threads.


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("max 100000", None), ("", None)],
)
def test_a_containers_quota(text: str, allowed: int | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert allowed_cpus(tmp_path / "cpu.max") == allowed
    assert allowed_cpus(tmp_path / "none") is None


def test_threads_are_limited_unless_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000")
    taken: list[int] = []
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    limit_threads()
    assert not taken
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads()
    assert taken == [1]

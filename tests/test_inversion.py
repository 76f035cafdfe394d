import colorsys
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from notices import SegueWarning
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import text_conditioning, tiny_pipe

import segue.words.inversion
from segue.errors import SegueError
from segue.method.conditioning import Conditioning
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.stable_diffusion import StableDiffusion
from segue.pictures.tensors import to_tensor
from segue.settings.kinds import MorphSettings, parse_settings, update_settings
from segue.words.inversion import Inverted, augment, denoising_loss, invert

KEYS = [FrameKey(0), FrameKey(1), FrameKey(2)]
FEW = MorphSettings(inversion=3, inversion_learning_rate=1e-2)


def pictures(count: int = 3) -> list[Image.Image]:
    noise = np.random.default_rng(5).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((64, 64)) for pixels in noise]


def prepare(backbone: StableDiffusion, count: int = 3) -> tuple[torch.Tensor, Conditioning]:
    """Latents (N, 4, 8, 8) and the words of N keyframes."""
    prompts = ["a cat", "a dog", "the sun"][:count]
    return backbone.encode(to_tensor(pictures(count))), backbone.embed(prompts, [""] * count)


def fit(backbone: StableDiffusion, settings: MorphSettings = FEW, count: int = 3, **options: Any) -> Inverted:
    latents, words = prepare(backbone, count)
    return invert(backbone, latents, words, settings, Noise(0), KEYS[:count], **options)


# The loss and its gradient.


def double_backbone(prediction_type: Any) -> StableDiffusion:
    return StableDiffusion(tiny_pipe(prediction_type).to(torch.float64))


def doubles(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_and_its_gradient_are_those_of_the_formula(prediction_type: str, guidance_scale: float) -> None:
    backbone = double_backbone(prediction_type)
    unet, schedule = backbone.pipe.unet, backbone.pipe.scheduler.alphas_cumprod.double()
    z_0, eps = doubles(2, 4, 8, 8, seed=1), doubles(2, 4, 8, 8, seed=2)
    prompt, negative = doubles(2, 77, 32, seed=3), doubles(1, 77, 32, seed=4)
    times = [200, 700]

    def formula(prompt: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """Written out for one sample at a time, with the network alone."""
        losses = []
        for i, t in enumerate(times):
            alpha, sigma = schedule[t].sqrt(), (1 - schedule[t]).sqrt()
            z_t = alpha * z_0[i : i + 1] + sigma * eps[i : i + 1]
            outputs = [unet(z_t, t, encoder_hidden_states=c).sample for c in (prompt[i : i + 1], negative)]
            if prediction_type == "v_prediction":
                outputs = [alpha * v + sigma * z_t for v in outputs]
            hat = outputs[0] if guidance_scale == 1 else outputs[1] + guidance_scale * (outputs[0] - outputs[1])
            losses.append((hat - eps[i : i + 1]).square().mean())
        return torch.stack(losses)

    def loss(prompt: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        words = text_conditioning(prompt, negative.expand(2, -1, -1))
        points = [backbone.schedule.noise_point(t) for t in times]
        return denoising_loss(backbone, z_0, words, points, eps, guidance_scale)

    with torch.no_grad():
        assert torch.allclose(loss(prompt, negative), formula(prompt, negative), rtol=1e-5)
    guided = guidance_scale > 1
    masters = [prompt.requires_grad_(), negative.requires_grad_(guided)]
    gradients = torch.autograd.grad(loss(*masters).sum(), masters[: 1 + guided])
    h = 1e-5
    for which, gradient in enumerate(gradients):
        for seed in range(3):
            direction = doubles(*gradient.shape, seed=10 + seed)
            with torch.no_grad():
                above, below = (
                    formula(*(m + side * direction if i == which else m for i, m in enumerate(masters))).sum()
                    for side in (h, -h)
                )
            numerical = (above - below) / (2 * h)
            assert float((gradient * direction).sum()) == pytest.approx(float(numerical), rel=1e-4, abs=1e-9)
            assert abs(numerical) > 1e-7


@pytest.mark.parametrize("guidance", [False, True])
def test_iterations_are_adam_on_the_gradient_of_the_drawn_losses(guidance: bool) -> None:
    """Against a loop written out: one loss at a time, the means over the draws summed over the keyframes."""
    backbone = StableDiffusion(tiny_pipe())
    latents, words = prepare(backbone, 2)
    settings = update_settings(FEW, {"inversion_batch": 2, "inversion_guidance": guidance, "guidance_scale": 3.0})
    found = invert(backbone, latents, words, settings, Noise(4), KEYS[:2])

    prompt, negative = words.text.clone().requires_grad_(), words.negative_text[:1].clone().requires_grad_()
    adam = torch.optim.Adam([prompt, negative], lr=1e-2)
    curve = []
    for i in range(3):
        adam.zero_grad()
        own = []
        for k in range(2):
            for draw in range(2):
                generator = Noise(4).generator("inversion", KEYS[k], candidate=draw, step=i)
                point = backbone.point(torch.rand((), generator=generator).item())
                eps = torch.randn(1, *latents.shape[1:], generator=generator)
                sample = text_conditioning(prompt[k : k + 1], negative)
                own.append(denoising_loss(backbone, latents[k : k + 1], sample, point, eps, 3.0 if guidance else 1.0))
                torch.autograd.backward(own[-1] / 2)
                if not guidance:
                    sample = text_conditioning(negative, negative)
                    torch.autograd.backward(denoising_loss(backbone, latents[k : k + 1], sample, point, eps) / 2)
        curve.append(float(torch.cat(own).detach().mean()))
        adam.step()
    assert found.losses == pytest.approx(curve, rel=1e-4)
    # Adam's steps are of the learning rate's size whatever the gradient's, so rounding shows where it is near zero.
    for part, expected in ((found.words.text, prompt), (found.words.negative_text, negative.expand(2, -1, -1))):
        difference = (part - expected.detach()).abs()
        assert float((difference < 1e-4).float().mean()) > 0.99


def test_the_held_out_loss_falls() -> None:
    backbone = StableDiffusion(tiny_pipe())
    latents, words = prepare(backbone)
    settings = update_settings(FEW, {"inversion": 30, "inversion_learning_rate": 3e-2})
    found = invert(backbone, latents, words, settings, Noise(0), KEYS)

    def held_out(words: Conditioning) -> list[float]:
        points = [backbone.point(f) for f in (0.2, 0.4, 0.6, 0.8)]
        eps = [Noise(99)("held-out", KEYS[0], shape=latents.shape, step=i) for i in range(4)]
        with torch.no_grad():
            losses = [denoising_loss(backbone, latents, words, p, e) for p, e in zip(points, eps, strict=True)]
        return torch.stack(losses).mean(0).tolist()

    for before, after in zip(held_out(words), held_out(found.words), strict=True):
        assert after < before
    negative = text_conditioning(words.negative_text, words.negative_text)
    fitted_negative = text_conditioning(found.words.negative_text, found.words.negative_text)
    assert sum(held_out(fitted_negative)) < sum(held_out(negative))


# What is fitted, and from what.


def test_without_iterations_the_words_are_as_they_were() -> None:
    backbone = StableDiffusion(tiny_pipe())
    latents, words = prepare(backbone)
    found = invert(backbone, latents, words, MorphSettings(), Noise(0), KEYS)
    assert found.words is words
    assert found.losses == []


def test_all_keyframes_share_one_negative() -> None:
    found = fit(StableDiffusion(tiny_pipe()))
    assert found.words.text.shape == found.words.negative_text.shape == (3, 77, 32)
    assert found.words.text.dtype == torch.float32
    assert not found.words.text.requires_grad
    assert torch.equal(found.words.negative_text[0], found.words.negative_text[2])
    assert not torch.equal(found.words.text[0], found.words.text[2])


def test_the_negative_stays_where_it_is_not_fitted() -> None:
    backbone = StableDiffusion(tiny_pipe())
    _, words = prepare(backbone)
    for guidance in (False, True):
        found = fit(backbone, update_settings(FEW, {"inversion_negative": False, "inversion_guidance": guidance}))
        assert torch.equal(found.words.negative_text, words.negative_text)
        assert not torch.equal(found.words.text, words.text)


def test_a_keyframe_does_not_depend_on_the_others() -> None:
    backbone = StableDiffusion(tiny_pipe())
    settings = update_settings(FEW, {"inversion_learning_rate": 1e-3})
    together, alone = fit(backbone, settings).words, fit(backbone, settings, count=1).words
    # Adam's first steps are of equal size whatever the gradient's, so rounding shows where it is near zero.
    assert float(((together.text[0] - alone.text[0]).abs() < 1e-5).float().mean()) > 0.99


def test_timesteps_are_drawn_over_the_schedule_or_from_its_middle_third() -> None:
    backbone = StableDiffusion(tiny_pipe())
    for timesteps, low, high in (("all", 1, 999), ("middle", 333, 667)):
        settings = parse_settings(MorphSettings, {"inversion_timesteps": timesteps, "inversion_batch": 64})
        drawn = [
            point.timestep
            for step in range(4)
            for point in segue.words.inversion._draw(backbone, settings, Noise(0), KEYS, (4, 2, 2), step)[0]
        ]
        assert len(drawn) == 64 * 3 * 4
        assert low <= min(drawn) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(drawn) <= high
        assert np.mean(drawn) == pytest.approx((low + high) / 2, rel=0.05)


def test_noise_is_named_by_keyframe_draw_and_iteration() -> None:
    backbone = StableDiffusion(tiny_pipe())

    def draw(keys: list[FrameKey], batch: int, step: int) -> tuple[list[float], torch.Tensor]:
        settings = MorphSettings(inversion_batch=batch)
        points, eps = segue.words.inversion._draw(backbone, settings, Noise(0), keys, (4, 2, 2), step)
        return [point.timestep for point in points], eps

    times, eps = draw(KEYS, 3, 0)
    one_time, one = draw(KEYS[1:2], 1, 0)
    assert one_time == times[3:4]
    assert torch.equal(one[0], eps[3])
    assert len({tuple(e.flatten().tolist()) for e in [*eps, *draw(KEYS, 3, 1)[1]]}) == 18


def test_progress_is_told_after_each_iteration() -> None:
    told: list[tuple[int, int]] = []
    found = fit(StableDiffusion(tiny_pipe()), progress=lambda i, n: told.append((i, n)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert len(found.losses) == 3


# Precision and memory.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masters_are_float32_over_a_network_of_half_precision(dtype: torch.dtype) -> None:
    settings = update_settings(FEW, {"inversion_learning_rate": 1e-5})  # lost at once in half precision
    backbone = StableDiffusion(tiny_pipe())
    latents, words = prepare(backbone)
    whole = invert(backbone, latents, words, settings, Noise(0), KEYS).words
    backbone.pipe.unet.to(dtype)
    half = invert(backbone, latents, words, settings, Noise(0), KEYS).words
    assert half.text.dtype == torch.float32
    step, half_step = whole.text - words.text, half.text - words.text
    assert float((half_step != 0).float().mean()) > 0.95
    assert float(torch.cosine_similarity(step.flatten(), half_step.flatten(), dim=0)) > 0.8


def test_a_loss_that_is_not_finite_is_named_in_one_line() -> None:
    backbone = StableDiffusion(tiny_pipe())
    latents, words = prepare(backbone)
    with torch.no_grad():
        backbone.pipe.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(SegueError, match="is not finite in iteration 1; load it with dtype") as caught:
        invert(backbone, latents, words, FEW, Noise(0), KEYS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("on_before", [False, True])
def test_large_networks_are_checkpointed_meanwhile(monkeypatch: pytest.MonkeyPatch, on_before: bool) -> None:
    backbone = StableDiffusion(tiny_pipe())
    unet = backbone.pipe.unet
    plain = fit(backbone)
    if on_before:
        unet.enable_gradient_checkpointing()
    before = [dict(vars(module)) for module in unet.modules()]
    inside: list[bool] = []
    monkeypatch.setattr(segue.words.inversion, "LARGE", 1000)
    found = fit(backbone, progress=lambda _i, _n: inside.append(unet.down_blocks[0].gradient_checkpointing))
    assert inside == [True] * 3
    assert torch.allclose(found.words.text, plain.words.text, atol=1e-4)
    assert unet.is_gradient_checkpointing == on_before
    for module, values in zip(unet.modules(), before, strict=True):
        assert vars(module).keys() == values.keys()
        assert all(vars(module)[name] is value for name, value in values.items() if "checkpoint" in name)


# Nothing is left changed.


def state(backbone: StableDiffusion) -> dict[str, Any]:
    parts = {name: part for name, part in backbone.pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {
        "training": {name: [m.training for m in part.modules()] for name, part in parts.items()},
        "tracked": {name: [p.requires_grad for p in part.parameters()] for name, part in parts.items()},
        "gradients": {name: [p.grad for p in part.parameters()] for name, part in parts.items()},
        "weights": {
            name: [float(p.detach().double().sum()) for p in part.parameters()] for name, part in parts.items()
        },
        "hooks": {
            name: [
                (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for m in part.modules()
            ]
            for name, part in parts.items()
        },
        "checkpointing": backbone.pipe.unet.is_gradient_checkpointing,
        "grad mode": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
    }


def stop(iteration: int, _iterations: int) -> None:
    if iteration == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("progress", [None, stop])
@pytest.mark.parametrize("grad", [True, False])
def test_what_was_touched_is_restored(
    monkeypatch: pytest.MonkeyPatch, progress: Callable[[int, int], None] | None, grad: bool
) -> None:
    monkeypatch.setattr(segue.words.inversion, "LARGE", 1000)
    backbone = StableDiffusion(tiny_pipe())
    unet = backbone.pipe.unet
    unet.train()
    unet.mid_block.eval()
    unet.conv_in.requires_grad_(False)
    unet.register_forward_hook(lambda *_: None)
    latents, words = prepare(backbone)
    kept = latents.clone(), words.text.clone(), words.negative_text.clone()
    before = state(backbone)
    with torch.set_grad_enabled(grad):
        try:
            invert(
                backbone,
                latents,
                words,
                update_settings(FEW, {"inversion_augment": True}),
                Noise(0),
                KEYS,
                pictures=pictures(),
                progress=progress,
            )
        except KeyboardInterrupt:
            assert progress is stop
        assert torch.is_grad_enabled() == grad
    assert state(backbone) == before
    for tensor, same in zip((latents, words.text, words.negative_text), kept, strict=True):
        assert torch.equal(tensor, same)
        assert not tensor.requires_grad


# Augmentation.


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def plain(monkeypatch: pytest.MonkeyPatch, **jitter: float) -> None:
    """No changes of colour but those named."""
    none = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    monkeypatch.setattr(segue.words.inversion, "JITTER", {**none, **jitter})


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No crops."""
    monkeypatch.setattr(segue.words.inversion, "SMALLEST_CROP", 1.0)
    monkeypatch.setattr(segue.words.inversion, "ASPECTS", (1.0, 1.0))


def test_crops_have_the_released_areas_and_aspects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ramps along both sides: their slope after the crop is the crop's side.

    The released code draws area and the logarithm of the aspect evenly, and again while the crop is larger than the
    image; the expected means are those of that rule, drawn here with numpy.
    """
    plain(monkeypatch)
    height, width, count = 96, 128, 400
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    images = torch.stack([y, x, torch.zeros_like(x)])[None].repeat(count, 1, 1, 1)
    found = augment(images, generators(count))
    assert found.shape == images.shape
    inner = found[:, :, 10:-10, 10:-10]
    sides_y = (inner[:, 0, -1].mean(1) - inner[:, 0, 0].mean(1)) / (y[-11, 0] - y[10, 0])
    sides_x = (inner[:, 1, :, -1].mean(1) - inner[:, 1, :, 0].mean(1)) / (x[0, -11] - x[0, 10])
    areas, aspects = sides_y * sides_x, sides_x / sides_y  # of the image's own aspect
    rng = np.random.default_rng(0)
    share, log = rng.uniform(0.7, 1, 100_000), rng.uniform(-np.log(4 / 3), np.log(4 / 3), 100_000)
    fits = np.abs(log) <= -np.log(share)
    assert 0.69 < areas.min() < 0.72
    assert 0.93 < areas.max() < 1.01
    assert areas.mean() == pytest.approx(share[fits].mean(), abs=0.01)
    assert 3 / 4 - 0.02 < aspects.min() < 0.8
    assert 1.25 < aspects.max() < 4 / 3 + 0.02
    assert aspects.log().std() == pytest.approx(log[fits].std(), abs=0.015)
    middles = found[:, :2, 48, 64]
    assert middles.min() < -0.03
    assert middles.max() > 0.03
    assert middles.abs().max() < 0.3


@pytest.mark.parametrize(("name", "limit"), [("brightness", 0.1), ("contrast", 0.2), ("saturation", 0.2), ("hue", 0.1)])
def test_colours_change_as_released(name: str, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, against the formula of its kind on one pixel; evenly up to the limit on both sides."""
    whole(monkeypatch)
    plain(monkeypatch, **{name: segue.words.inversion.JITTER[name]})
    colours = torch.tensor([[0.7, 0.5, 0.3], [0.3, 0.5, 0.6]]).T.reshape(3, 1, 2) * 2 - 1
    found = (augment(colours.expand(400, 3, 1, 2), generators(400)) + 1) / 2
    a, b = found[:, :, 0, 0].double(), found[:, :, 0, 1].double()
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    greys = (0.7 * 0.299 + 0.5 * 0.587 + 0.3 * 0.114, 0.3 * 0.299 + 0.5 * 0.587 + 0.6 * 0.114)
    match name:
        case "brightness":
            changes = a[:, 0] / 0.7 - 1
            assert torch.allclose(b[:, 2], 0.6 * (1 + changes), atol=1e-5)
        case "contrast":
            mean = sum(greys) / 2
            changes = (a[:, 0] - mean) / (0.7 - mean) - 1
            assert torch.allclose(b[:, 0], mean + (1 + changes) * (0.3 - mean), atol=1e-5)
        case "saturation":
            changes = (a[:, 0] - a[:, 2]) / 0.4 - 1
            assert torch.allclose(a @ luma, torch.full((400,), greys[0], dtype=torch.float64), atol=1e-5)
        case _:
            hues = [colorsys.rgb_to_hsv(*pixel) for pixel in a.tolist()]
            before = colorsys.rgb_to_hsv(0.7, 0.5, 0.3)
            changes = torch.tensor([(hue - before[0] + 0.5) % 1 - 0.5 for hue, _, _ in hues])
            assert np.allclose([rest for _, *rest in hues], before[1:], atol=1e-5)
            expected = colorsys.hsv_to_rgb((colorsys.rgb_to_hsv(0.3, 0.5, 0.6)[0] + float(changes[7])) % 1, 0.5, 0.6)
            assert b[7].tolist() == pytest.approx(expected, abs=1e-5)
    assert changes.abs().max() <= limit + 1e-5
    assert changes.min() < -0.95 * limit
    assert changes.max() > 0.95 * limit
    assert changes.abs().mean() == pytest.approx(limit / 2, rel=0.1)


def test_hues_of_every_sector_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against Python's own HSV, greys, black and white among the colours."""
    rng = np.random.default_rng(1)
    colours = np.concatenate([rng.random((60, 3)), [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 1]]])
    pixels = torch.tensor(colours, dtype=torch.float32).T[:, None]
    for turns in (-0.1, 0.04, 0.1):
        found = segue.words.inversion._turn_hue(pixels, turns)[:, 0].T
        for colour, turned in zip(colours, found.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*colour)
            assert turned == pytest.approx(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), abs=1e-5)


def test_augmentations_draw_from_the_keyframes_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seed, "augment", its key and the iteration: whatever other keyframes there are."""
    seen: list[torch.Tensor] = []
    real = augment

    def watch(images: torch.Tensor, given: list[torch.Generator]) -> torch.Tensor:
        seen.append(real(images, given))
        return seen[-1]

    monkeypatch.setattr(segue.words.inversion, "augment", watch)
    fit(StableDiffusion(tiny_pipe()), update_settings(FEW, {"inversion_augment": True}), pictures=pictures())
    images = to_tensor(pictures())
    for step, found in enumerate(seen):
        for i, key in enumerate(KEYS):
            own = Noise(0).generator("augment", key, step=step)
            assert torch.equal(found[i : i + 1], real(images[i : i + 1], [own]))
    assert len(seen) == FEW.inversion


def test_augmentation_is_named_and_stays_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    images = to_tensor(pictures())
    found = augment(images, generators(3))
    assert torch.equal(found, augment(images, generators(3)))
    assert torch.equal(found[1:2], augment(images[1:2], generators(3)[1:2]))
    assert found.abs().max() <= 1
    plain(monkeypatch)
    whole(monkeypatch)
    assert torch.allclose(augment(images, generators(3)), images, atol=1e-5)


def test_augmentation_encodes_the_changed_pictures_anew() -> None:
    backbone = StableDiffusion(tiny_pipe())
    changed = fit(backbone, update_settings(FEW, {"inversion_augment": True}), pictures=pictures())
    assert not torch.equal(changed.words.text, fit(backbone).words.text)
    again = fit(backbone, update_settings(FEW, {"inversion_augment": True}), pictures=pictures())
    assert torch.equal(changed.words.text, again.words.text)
    with pytest.raises(ValueError, match="needs the pictures of all 3 keyframes"):
        fit(backbone, update_settings(FEW, {"inversion_augment": True}))


# What is kept.


def test_a_second_run_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = StableDiffusion(tiny_pipe())
    first = fit(backbone, pictures=pictures(), folder=tmp_path / "words")
    assert len(list((tmp_path / "words").iterdir())) == 1
    latents, words = prepare(backbone)
    monkeypatch.setattr(backbone, "predict", lambda *_a, **_k: pytest.fail("the network was called"))
    second = invert(backbone, latents, words, FEW, Noise(0), KEYS, pictures=pictures(), folder=tmp_path / "words")
    assert torch.equal(first.words.text, second.words.text)
    assert torch.equal(first.words.negative_text, second.words.negative_text)
    assert first.losses == second.losses


def test_whatever_determines_the_result_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = StableDiffusion(tiny_pipe())
    latents, words = prepare(backbone)
    monkeypatch.setattr(segue.words.inversion, "_fit", lambda _b, _z, words, *_rest: Inverted(words, [1.0]))

    def files(**changes: Any) -> int:
        options = {
            "backbone": backbone,
            "latents": latents,
            "words": words,
            "settings": FEW,
            "noise": Noise(0),
            "keys": KEYS,
            "pictures": pictures(),
        }
        invert(**{**options, **changes}, folder=tmp_path)
        return len(list(tmp_path.iterdir()))

    assert files() == 1
    other = tiny_pipe(seed=1)
    changes: list[dict[str, Any]] = [
        {"backbone": StableDiffusion(other)},
        {"words": text_conditioning(words.text.flip(0), words.negative_text)},
        {"words": text_conditioning(words.text, words.negative_text + 1)},
        {"settings": update_settings(FEW, {"inversion": 4})},
        {"settings": update_settings(FEW, {"inversion_learning_rate": 1e-3})},
        {"settings": update_settings(FEW, {"inversion_batch": 2})},
        {"settings": update_settings(FEW, {"inversion_timesteps": "middle"})},
        {"settings": update_settings(FEW, {"inversion_augment": True})},
        {"settings": update_settings(FEW, {"inversion_negative": False})},
        {"settings": update_settings(FEW, {"inversion_guidance": True})},
        {"settings": update_settings(FEW, {"inversion_guidance": True, "guidance_scale": 9.0})},
        {"noise": Noise(1)},
        {"keys": [FrameKey(0), FrameKey(1), FrameKey(3)]},
        {"pictures": pictures()[::-1]},
        {"pictures": [picture.resize((32, 128)) for picture in pictures()]},
        {"pictures": (), "latents": latents},
        {"pictures": (), "latents": latents + 1},
    ]
    for i, change in enumerate(changes):
        assert files(**change) == i + 2, change
    # What does not matter makes no other result: the film's settings, guidance outside the loss, latents' rounding.
    same: list[dict[str, Any]] = [
        {"settings": update_settings(FEW, {"num_frames": 9})},
        {"settings": update_settings(FEW, {"guidance_scale": 9.0})},
        {"latents": latents + 1e-6},
    ]
    for change in same:
        assert files(**change) == len(changes) + 1, change


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lose_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["negative"]
    save_file(tensors, path)


def reshape(path: Path) -> None:
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize("damage", [cut_short, empty, lose_a_tensor, reshape])
def test_a_damaged_result_is_ignored_with_a_warning_and_made_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    backbone = StableDiffusion(tiny_pipe())
    first = fit(backbone, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path)
    with pytest.warns(SegueWarning, match="is damaged and made again") as caught:
        again = fit(backbone, folder=tmp_path)
    assert str(path) in str(caught[0].message)
    assert torch.equal(first.words.text, again.words.text)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(StableDiffusion(tiny_pipe()), folder=tmp_path / "words", progress=stop)
    assert not (tmp_path / "words").exists() or not list((tmp_path / "words").iterdir())


@pytest.mark.parametrize("negative", [True, False])
def test_an_interrupted_fit_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, negative: bool
) -> None:
    backbone = StableDiffusion(tiny_pipe())
    settings = update_settings(FEW, {"inversion": 5, "inversion_negative": negative})
    unbroken = fit(backbone, settings)
    monkeypatch.setattr(segue.words.inversion, "KEPT_SECONDS", 0.0)

    def stop_at(step: int, _steps: int) -> None:
        steps.append(step)
        if step == 3:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fit(backbone, settings, folder=tmp_path, progress=stop_at)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".unfinished"
    resumed = fit(backbone, settings, folder=tmp_path, progress=lambda step, _steps: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]
    assert torch.equal(resumed.words.text, unbroken.words.text)
    assert torch.equal(resumed.words.negative_text, unbroken.words.negative_text)
    assert resumed.losses == unbroken.losses
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]

    left.write_bytes(b"damaged")  # it is begun anew
    next(tmp_path.glob("*.safetensors")).unlink()
    assert fit(backbone, settings, folder=tmp_path).losses == unbroken.losses


def test_places_of_keys_are_exact() -> None:
    """A loop's closing keyframe has a key of its own, so a key is not confused with another's."""
    generators = [Noise(0).generator("inversion", FrameKey.at(Fraction(i))) for i in range(2)]
    assert generators[0].initial_seed() != generators[1].initial_seed()

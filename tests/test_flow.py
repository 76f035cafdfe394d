"""Flow-matching families against diffusers' own pipelines, and films by them."""

import inspect
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from notices import SegueWarning
from shapes import QUICK, picture
from test_stable_diffusion_xl import SCHEMES
from tiny import tiny_pipe
from tiny_flow import FAMILIES
from torch import Tensor

from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.method.conditioning import Conditioning, Control
from segue.method.diffusion import CLEAN, NoisePoint
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.backbone import Sampling
from segue.models.checkpoints import pocket_folder
from segue.models.families import backbone_of
from segue.models.flow import FlowLeg, FlowSchedule, unshifted
from segue.models.loading import load
from segue.models.solvers import Schedule
from segue.settings.kinds import MorphSettings
from segue.words.inversion import invert

STEPS = 4
NAMES = list(FAMILIES)


@cache
def backbone(name: str) -> Any:
    return backbone_of(FAMILIES[name].make(0))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampling(steps: int = STEPS, guidance: float = 3.0, solver: str = "euler") -> Sampling:
    return Sampling(solver=solver, num_inference_steps=steps, guidance_scale=guidance)


def latents(of: Any, count: int = 1, seed: int = 0) -> Tensor:
    """Latents of 64 x 96 pixels, as the backbone encodes them."""
    return randn(*of.encode(torch.zeros(count, 3, 64, 96)).shape, seed=seed)


@pytest.mark.parametrize("start", [1.0, 0.6], ids=["noise", "middle"])
@pytest.mark.parametrize("name", NAMES)
def test_denoising_equals_the_pipe(name: str, start: float) -> None:
    """From pure noise, and from a noise point in the middle, which the pipe is given as its first sigma."""
    of, tiny = backbone(name), FAMILIES[name]
    z = latents(of)
    leg = of._leg(FlowSchedule().noise_point(start), CLEAN, sampling(), z)
    shift = of._shift(z.shape[-2] * z.shape[-1] // of.PATCH**2, STEPS)
    sigmas = [unshifted(time / 1000, shift) for time in leg.timesteps]
    assert len(sigmas) == math.ceil(STEPS * start)
    expected = of.pipe(
        prompt="a cat",
        height=64,
        width=96,
        sigmas=sigmas,
        num_inference_steps=STEPS,  # what FLUX.2 spaces its steps by; the sigmas are those to make
        latents=tiny.latents(z),
        output_type="pt",
        **tiny.options(3.0),
    ).images
    words = of.embed(["a cat"], [""])
    found = of.denoise(z, words, FlowSchedule().noise_point(start), sampling=sampling())
    assert not torch.allclose(found, z, atol=0.1)
    assert torch.allclose(of.decode(found) / 2 + 0.5, expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_samples(name: str) -> None:
    of = backbone(name)
    prompts = ["a cat", "", "two dogs on a hill", "x", "a cat"]
    z, start = latents(of, 5), of.point(0.5)
    words = of.embed(prompts, ["", "", "grey", "", ""])
    apart = [of.denoise(z[i : i + 1], words.sample(i), start, sampling=sampling()) for i in range(5)]
    for count in (2, 5):
        together = of.denoise(z[:count], words.take(range(count)), start, sampling=sampling())
        assert torch.allclose(together, torch.cat(apart[:count]), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_encoding_is_the_inverse_of_decodings_scaling(name: str) -> None:
    of = backbone(name)
    mean = latents(of, 2)
    assert torch.allclose(of._normalise(of._denormalise(mean)), mean, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_a_pixel_for_each_token_and_differ_by_place(name: str) -> None:
    of = backbone(name)
    image = torch.zeros(2, 3, 64, 96)
    image[1, :, :32] = 1.0
    (found,) = of.features(image)
    side = of.latent_scale * of.PATCH
    assert found.shape[0] == 2
    assert found.shape[2:] == (64 // side, 96 // side)
    assert float((found[1] - found[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_eps_hat_follows_from_the_velocity_and_has_a_gradient(name: str) -> None:
    of, point = backbone(name), FlowSchedule().noise_point(0.4)
    z, words = latents(of), of.embed(["a cat"], [""])
    text = words.text.clone().requires_grad_()
    with torch.enable_grad():
        eps = of.predict(z, point, words.with_text(text, words.negative_text), 1.0)
        (gradient,) = torch.autograd.grad(eps.square().mean(), text)
    assert gradient.abs().max() > 0
    # One Euler step to clean makes z_0 = z - sigma v = (z - sigma eps_hat) / alpha.
    clean = of.denoise(z, words, point, sampling=sampling(1, guidance=1.0))
    assert torch.allclose(clean, ((z - point.sigma * eps) / point.alpha).detach(), atol=1e-4)


def test_the_masks_of_two_prompts_unite() -> None:
    of = backbone("chroma")
    short, long = of.embed(["a"], [""]), of.embed(["a cat on a hill"], ["grey"])
    between = short.blend(long, 0.5)
    assert int(short.positive["mask"].sum()) == 3  # a letter, the end and the first of the padding
    assert torch.equal(between.positive["mask"], long.positive["mask"])
    assert torch.equal(between.negative["mask"], long.negative["mask"])


@pytest.mark.parametrize("name", ["chroma", "flux2", "flux2-klein"])
def test_a_folder_is_loaded_as_its_own_pipe(name: str, tmp_path: Path) -> None:
    of = backbone(name)
    of.pipe.save_pretrained(tmp_path)
    loaded: Any = backbone_of(load(tmp_path, dtype="float32", device="cpu"))
    assert type(loaded.pipe) is type(of.pipe)
    z = latents(of)
    first, again = (
        one.denoise(z, one.embed(["a"], [""]), one.point(0.5), sampling=sampling(2)) for one in (of, loaded)
    )
    assert torch.allclose(again, first, atol=1e-5)
    with pytest.raises(SegueError, match="ControlNets of"):
        load(tmp_path, controlnet=pocket_folder() / "controlnet", device="cpu")


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("name", ["qwen-image", "z-image", "sana"])
def test_a_folder_is_loaded_with_the_same_weights(name: str, low_memory: bool, tmp_path: Path) -> None:
    of = backbone(name)
    of.pipe.save_pretrained(tmp_path)
    loaded = Interpolator.from_pretrained(tmp_path, device="cpu", dtype="float32", low_memory=low_memory).backbone
    assert loaded.fingerprint() == of.fingerprint()
    words, other = (one.embed(["a cat"], ["grey"]) for one in (of, loaded))
    assert words.is_close(other, 1e-5)
    z = latents(of)
    assert torch.allclose(loaded.decode(z), of.decode(z), atol=1e-4)


# Words of unequal lengths.

RAGGED = ["qwen-image", "z-image", "sana"]
LONGER = "two dogs on a hill in the sun"


@pytest.mark.parametrize("name", RAGGED)
def test_tokens_outside_of_the_mask_count_for_nothing(name: str) -> None:
    of, z = backbone(name), latents(backbone(name))
    short, point = of.embed(["a cat"], ["grey"]), FlowSchedule().noise_point(0.5)
    padded = Conditioning.stack([short, of.embed([LONGER], [LONGER])]).sample(0)
    assert (
        padded.positive["mask"].sum() == short.positive["mask"].sum() < of.embed([LONGER], [""]).positive["mask"].sum()
    )
    outside = ~padded.positive["mask"][..., None]
    spoilt = padded.with_text(padded.text + outside * randn(*padded.text.shape), padded.negative_text)
    assert not torch.equal(spoilt.text, padded.text)
    expected = of.predict(z, point, short, 3.0)
    for words in (padded, spoilt):
        assert torch.allclose(of.predict(z, point, words, 3.0), expected, atol=1e-4)
    assert not torch.allclose(of.predict(z, point, of.embed([LONGER], ["grey"]), 3.0), expected, atol=1e-4)


@pytest.mark.parametrize("guidance", [False, True])
@pytest.mark.parametrize("name", RAGGED)
def test_inversion_fits_each_prompt_as_if_it_were_alone(name: str, guidance: bool) -> None:
    of, settings = (
        backbone(name),
        MorphSettings(inversion=2, inversion_guidance=guidance, inversion_negative=not guidance),
    )
    z, words = latents(of, 2), of.embed(["a cat", LONGER], [""] * 2)
    keys = [FrameKey(0), FrameKey(1)]
    found = invert(of, z, words, settings, Noise(0), keys).words
    for i, key in enumerate(keys):
        alone = invert(of, z[i : i + 1], words.sample(i), settings, Noise(0), [key]).words
        near = (found.text[i] - alone.text[0]).abs() < 1e-5
        assert near.float().mean() > 0.98  # where a gradient is near zero, rounding shows in Adam's steps
        real, moved = words.positive["mask"][i], (found.text[i] - words.text[i]).abs().amax(-1)
        assert moved[real].min() > 1e-5
        assert not moved[~real].any()


# Legs.


def gaussian(x: Tensor, sigma: float, spread: float) -> Tensor:
    """The exact v where z_0 is normal with mean 0 and a standard deviation: E[eps - z_0 | x]."""
    alpha = 1 - sigma
    variance = (alpha * spread) ** 2 + sigma**2
    return x * (sigma - alpha * spread**2) / variance


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("dpm++", 2)])
@pytest.mark.parametrize("stop", [0.0, 0.3])
def test_legs_converge_to_the_exact_solution(solver: str, order: int, stop: float) -> None:
    """Of a normal distribution: x scales with its standard deviation at each sigma."""
    spread, start = 0.5, 0.8
    schedule = FlowSchedule()
    end = CLEAN if stop == 0 else schedule.noise_point(stop)
    x = randn(1, 1, 8, 8).double()
    exact = x * math.hypot((1 - stop) * spread, stop) / math.hypot((1 - start) * spread, start)
    errors = []
    for steps in (40, 80):
        leg = FlowLeg(schedule.noise_point(start), end, steps, 1.0, {"euler": 1, "dpm++": 2}[solver])
        z = x
        for time in leg.timesteps:
            z = leg.step(gaussian(z, time / 1000, spread), z)
        errors.append(float((z - exact).abs().max()))
    assert errors[1] < 0.05
    assert errors[0] / errors[1] > {1: 1.7, 2: 3.0}[order]


def test_noise_levels_have_stable_diffusions_signal_to_noise() -> None:
    for f, sigma in ((0.30, 0.454), (0.425, 0.557), (0.55, 0.656)):
        point = FlowSchedule().point(f)
        assert point == NoisePoint(1000 * point.sigma, 1 - point.sigma, point.sigma)
        assert point.sigma == pytest.approx(sigma, abs=2e-3)


def test_a_shift_multiplies_the_ratio_of_noise_to_signal() -> None:
    level = FlowSchedule().point(0.4)
    point = FlowSchedule().point(0.4, shift=3.0)
    assert point.sigma / point.alpha == pytest.approx(3.0 * level.sigma / level.alpha)
    schedule = Schedule.of(tiny_pipe().scheduler)
    level = schedule.point(0.4)
    point = schedule.point(0.4, shift=3.0)
    assert point.sigma / point.alpha == pytest.approx(3.0 * level.sigma / level.alpha, rel=0.005)
    assert schedule.point(0.4, shift=1.0) == level


@pytest.mark.parametrize("steps", [4, 30])
def test_legs_of_qwen_image_and_sana_have_the_sigmas_of_their_schedulers(steps: int) -> None:
    noise, sampled = FlowSchedule().noise_point(1.0), sampling(steps)
    qwen, sana = backbone("qwen-image"), backbone("sana")
    scheduler = qwen.pipe.scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=0.5 + 0.4 * (4096 - 256) / (8192 - 256))
    assert qwen.leg(noise, CLEAN, sampled).timesteps == pytest.approx(scheduler.timesteps.tolist(), abs=1e-2)
    assert qwen.leg(noise, CLEAN, sampled).timesteps[-1] == pytest.approx(20)
    # Sana's own scheduler begins at a sigma of 0.9997 and not 1.
    solver = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    solver.set_timesteps(steps)
    expected = sana.leg(noise, CLEAN, sampled).timesteps
    assert (solver.sigmas[:-1] * 1000).tolist() == pytest.approx(expected, abs=1)
    sana.pipe.scheduler, kept = solver, sana.pipe.scheduler
    assert sana.leg(noise, CLEAN, sampled).timesteps == expected
    sana.pipe.scheduler = kept


def test_a_leg_to_a_point_is_not_stretched() -> None:
    schedule = FlowSchedule()
    start, stop = schedule.noise_point(0.8), schedule.noise_point(0.3)
    assert FlowLeg(start, stop, 5, 2.0, 1, 0.02).timesteps == FlowLeg(start, stop, 5, 2.0, 1).timesteps
    assert FlowLeg(start, CLEAN, 5, 2.0, 1, 0.02).timesteps[0] == 800
    assert FlowLeg(start, CLEAN, 5, 2.0, 1, 0.02).timesteps[-1] == pytest.approx(20)


def test_solvers_that_flow_does_not_have_are_refused() -> None:
    with pytest.raises(SegueError, match="lcm is not a solver for Stable Diffusion 3; choose"):
        backbone("sd3").check(sampling(solver="lcm"))


# Films.

FILM: Any = {
    **QUICK,
    "network_size": "64x64",
    "noise": (0.4, 0.5),
    "num_inference_steps": 3,
    "seed": 2,
    "prompt": ("a cat", "two dogs"),  # of unequal lengths
}


def frames_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "frames").glob("*.png"))]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_films_by_every_scheme(name: str, tmp_path: Path, scheme: Any) -> None:
    interpolator = Interpolator(backbone(name).pipe)
    options = {**FILM, "num_frames": 3, "num_inference_steps": 2, "align": False, "scheme": scheme}
    interpolator(picture(1), picture(2), output=tmp_path, **options)
    left, middle, right = frames_of(tmp_path)
    assert left != middle != right


@pytest.mark.parametrize("name", NAMES)
def test_an_aligned_film_resumes_to_the_byte(name: str, tmp_path: Path) -> None:
    interpolator = Interpolator(backbone(name).pipe)

    def stop(progress: Any) -> None:
        if getattr(progress, "frame", None) is not None:
            raise KeyboardInterrupt

    interpolator(picture(1), picture(2), output=tmp_path / "whole", **FILM)
    with pytest.raises(KeyboardInterrupt):
        interpolator(picture(1), picture(2), output=tmp_path / "stopped", callback=stop, **FILM)
    interpolator(picture(1), picture(2), output=tmp_path / "stopped", **FILM)
    assert len(frames_of(tmp_path / "whole")) == 5
    assert frames_of(tmp_path / "stopped") == frames_of(tmp_path / "whole")


# ControlNets.


def sd3_controlnet(pipe: Any, **config: Any) -> Any:
    own = {**pipe.transformer.config, "num_layers": 2, "extra_conditioning_channels": 0, **config}
    known = inspect.signature(SD3ControlNetModel.__init__).parameters
    return SD3ControlNetModel(**{name: value for name, value in own.items() if name in known})


def flux_controlnet(pipe: Any, **config: Any) -> Any:
    own = {**pipe.transformer.config, "num_layers": 1, "num_single_layers": 1, **config}
    known = inspect.signature(FluxControlNetModel.__init__).parameters
    return FluxControlNetModel(**{name: value for name, value in own.items() if name in known})


CONTROLNETS: Any = {
    "sd3": ("sd3", sd3_controlnet, {}, StableDiffusion3ControlNetPipeline, {}),
    "sd3, pooled zeros": (
        "sd3",
        sd3_controlnet,
        {"force_zeros_for_pooled_projection": True},
        StableDiffusion3ControlNetPipeline,
        {},
    ),
    "flux": ("flux-dev", flux_controlnet, {}, FluxControlNetPipeline, {}),
    "flux union": ("flux-dev", flux_controlnet, {"num_mode": 6}, FluxControlNetPipeline, {"control_mode": 4}),
}


@pytest.mark.parametrize("case", CONTROLNETS)
def test_a_controlnet_equals_the_pipes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe draws the control image's latents from the VAE's posterior; here it takes their mean."""
    name, make, config, kind, options = CONTROLNETS[case]
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *_, **__: self.mean)
    base = FAMILIES[name].make(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = make(base, **config).eval()
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear) and not layer.weight.any():
                torch.nn.init.normal_(layer.weight, std=0.1)
    pipe = kind(**base.components, controlnet=network)
    pipe.set_progress_bar_config(disable=True)
    of: Any = backbone_of(base, network)
    hint = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    z, start = latents(of), FlowSchedule().noise_point(1.0)
    shift = of._shift(z.shape[-2] * z.shape[-1] // 4, STEPS)
    expected = pipe(
        prompt="a cat",
        control_image=hint * 2 - 1 if kind is FluxControlNetPipeline else hint,  # which takes tensors as they are
        controlnet_conditioning_scale=0.7,
        height=64,
        width=96,
        sigmas=[unshifted(time / 1000, shift) for time in of._leg(start, CLEAN, sampling(), z).timesteps],
        latents=FAMILIES[name].latents(z),
        guidance_scale=3.0,
        output_type="pt",
        **options,
    ).images
    words = of.embed(["a cat"], [""])
    controlled = replace(words, controls=(Control(hint, torch.tensor([0.7])),))
    found = of.denoise(z, controlled, start, sampling=sampling())
    assert torch.allclose(of.decode(found) / 2 + 0.5, expected, atol=1e-4)
    assert not torch.allclose(found, of.denoise(z, words, start, sampling=sampling()), atol=1e-3)


def test_a_controlnet_of_another_family_is_refused() -> None:
    pipe = FAMILIES["sd3"].make(0)
    with pytest.raises(SegueError, match="a FluxControlNetModel of diffusers, not a SD3ControlNetModel"):
        backbone_of(FAMILIES["flux-dev"].make(0), sd3_controlnet(pipe))
    with pytest.raises(SegueError, match=r"another model: its num_attention_heads is 2, .* 4"):
        backbone_of(pipe, sd3_controlnet(pipe, num_attention_heads=2, attention_head_dim=8))


def test_a_controlnet_that_takes_pictures_is_refused() -> None:
    pipe = FAMILIES["flux-dev"].make(0)
    with pytest.raises(SegueError, match="its conditions are pictures, and not latents"):
        backbone_of(pipe, flux_controlnet(pipe, conditioning_embedding_channels=8))
    schnell = FAMILIES["flux-schnell"].make(0)
    with pytest.raises(SegueError, match="its guidance is embedded"):
        backbone_of(schnell, flux_controlnet(schnell, guidance_embeds=True))


def test_a_union_controlnet_takes_poses_only(tmp_path: Path) -> None:
    pipe = FAMILIES["flux-dev"].make(0)
    picture(3).save(tmp_path / "hint.png")
    interpolator = Interpolator(pipe, controlnet=flux_controlnet(pipe, num_mode=6))
    with pytest.raises(SegueError, match="a union ControlNet is used for poses"):
        interpolator(picture(1), picture(2), control_image=[str(tmp_path / "hint.png")] * 2, **FILM)


# What a family leaves out is told.


def test_a_negative_prompt_of_a_distilled_model_is_told(tmp_path: Path) -> None:
    interpolator = Interpolator(FAMILIES["flux-dev"].make(0))
    with pytest.warns(SegueWarning, match="negative_prompt changes nothing: FluxPipeline has no negative branch"):
        interpolator(picture(1), picture(2), output=tmp_path, negative_prompt="grey", **{**FILM, "num_frames": 3})


def test_a_prompt_that_is_too_long_is_told_with_what_is_lost() -> None:
    of = backbone("flux-dev")
    with pytest.warns(SegueWarning, match="longer than the 512 tokens of the text encoder; cut off: END$"):
        of.embed(["a" * 511 + " END"], [""])


def test_a_schedulers_own_spacing_is_told_and_its_shift_is_taken() -> None:
    pipe = FAMILIES["sd3"].make(0)
    of: Any = backbone_of(pipe)
    before, plain = of.leg(of.point(0.5), CLEAN, sampling()).timesteps, of.fingerprint()
    pipe.scheduler.set_shift(9.0)
    assert of.leg(of.point(0.5), CLEAN, sampling()).timesteps != before
    assert of.fingerprint() != plain
    pipe.scheduler.register_to_config(use_beta_sigmas=True)
    with pytest.warns(SegueWarning, match="is used without use_beta_sigmas"):
        of.check(sampling())


def test_a_variant_is_looked_for_in_the_families_own_network(tmp_path: Path) -> None:
    FAMILIES["sd3"].make(0).save_pretrained(tmp_path)
    with pytest.raises(SegueError, match=r"no weights of the variant fp16 \(transformer/\*"):
        load(tmp_path, variant="fp16", device="cpu")

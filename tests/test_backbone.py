"""The Stable Diffusion backbone on tiny real networks, against diffusers called plainly and against closed forms."""

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    MultiControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import FrozenDict
from diffusers.models.attention_processor import AttnProcessor
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from notices import SegueWarning
from tiny import batch_sizes, text_conditioning, tiny_controlnet, tiny_pipe
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil

from segue.errors import SegueError
from segue.method.blend import slerp
from segue.method.conditioning import Conditioning, Control
from segue.method.diffusion import CLEAN, NoisePoint, diffuse
from segue.models.backbone import Backbone, Sampling
from segue.models.families import backbone_of
from segue.models.stable_diffusion import StableDiffusion

PROMPTS = ["a red cat", "a tiger", "two dogs", "", "a house by the sea"]
NEGATIVES = ["blurry", "", "text", "dark", "blurry"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipe()


@pytest.fixture(scope="module")
def backbone(pipe: Any) -> StableDiffusion:
    return StableDiffusion(pipe)


@pytest.fixture(scope="module")
def controlled(pipe: Any) -> StableDiffusion:
    return StableDiffusion(pipe, tiny_controlnet(pipe))


@pytest.fixture(scope="module")
def words(backbone: StableDiffusion) -> Conditioning:
    return backbone.embed(PROMPTS, NEGATIVES)


def sampling(solver: str = "ddim", steps: int = 23, guidance: float = 5.0, **options: Any) -> Sampling:
    return Sampling(solver=solver, num_inference_steps=steps, guidance_scale=guidance, **options)


def with_controls(words: Conditioning, *scales: list[float]) -> Conditioning:
    size = len(words)
    controls = (Control(rand(size, 3, 64, 64, seed=i), torch.tensor(scale)) for i, scale in enumerate(scales))
    return text_conditioning(words.text, words.negative_text, tuple(controls))


# Forward diffusion


def test_diffuse_in_two_parts_has_the_variance_of_one(backbone: StableDiffusion) -> None:
    low, high = backbone.point(0.3), backbone.point(0.55)
    z, one, two = randn(1, 4, 2, 2), randn(1, 4, 2, 2, seed=1), randn(1, 4, 2, 2, seed=2)
    got = diffuse(diffuse(z, one, low), two, high, start=low)
    a = high.alpha / low.alpha
    b = math.sqrt(high.sigma**2 - a**2 * low.sigma**2)
    assert torch.allclose(got, high.alpha * z + a * low.sigma * one + b * two, atol=1e-6)
    assert (a * low.sigma) ** 2 + b**2 == pytest.approx(high.sigma**2)
    assert torch.equal(diffuse(z, one, CLEAN), z)
    with pytest.raises(ValueError, match="cleaner noise point to a noisier"):
        diffuse(z, one, low, start=high)


def test_diffuse_takes_a_point_for_each_sample_and_noise_for_all(backbone: StableDiffusion) -> None:
    points = [backbone.point(0.2), backbone.point(0.7)]
    z, eps = randn(2, 4, 2, 2), randn(1, 4, 2, 2, seed=1)
    apart = torch.cat([diffuse(z[i : i + 1], eps, points[i]) for i in range(2)])
    assert torch.equal(diffuse(z, eps, points), apart)
    assert torch.allclose(apart[1], points[1].alpha * z[1] + points[1].sigma * eps[0], atol=1e-6)


# Images and text


def test_encode_takes_the_posteriors_mean_and_decode_goes_back(pipe: Any, backbone: StableDiffusion) -> None:
    images = rand(2, 3, 64, 48) * 2 - 1
    z = backbone.encode(images)
    with torch.no_grad():
        mean = pipe.vae.encode(images).latent_dist.mean * 0.18215
        decoded = pipe.vae.decode(mean / 0.18215).sample.clamp(-1, 1)
    assert z.shape == (2, 4, 8, 6)
    assert (backbone.latent_channels, backbone.latent_scale, backbone.multiple_of) == (4, 8, 16)
    assert torch.allclose(z, mean, atol=1e-6)
    assert torch.allclose(backbone.decode(z), decoded, atol=1e-5)


def test_a_shift_and_a_tiny_autoencoder_are_honoured() -> None:
    pipe = tiny_pipe()
    backbone, images = StableDiffusion(pipe), rand(1, 3, 32, 32) * 2 - 1
    z = backbone.encode(images)
    image = backbone.decode(z)
    pipe.vae.register_to_config(shift_factor=0.5)
    assert torch.allclose(backbone.encode(images), z - 0.5 * 0.18215, atol=1e-6)
    assert torch.allclose(backbone.decode(backbone.encode(images)), image, atol=1e-5)
    torch.manual_seed(0)
    pipe.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), num_decoder_blocks=(1,) * 4
    ).eval()
    with torch.no_grad():
        latents = pipe.vae.encode(images).latents
        decoded = pipe.vae.decode(latents).sample.clamp(-1, 1)
    assert torch.allclose(backbone.encode(images), latents, atol=1e-6)
    assert torch.allclose(backbone.decode(latents), decoded, atol=1e-5)


def test_embed_equals_the_pipes_prompts(pipe: Any, words: Conditioning) -> None:
    assert words.text.shape == words.negative_text.shape == (5, 77, 32)
    for i in (0, 4):
        with torch.no_grad():
            prompt, negative = pipe.encode_prompt(PROMPTS[i], "cpu", 1, True, NEGATIVES[i])
        assert torch.allclose(words.sample(i).text, prompt, atol=1e-5)
        assert torch.allclose(words.sample(i).negative_text, negative, atol=1e-5)
    assert not words.text.requires_grad


def test_conditioning_is_stacked_and_sampled(words: Conditioning) -> None:
    controlled = with_controls(words, [0.0, 0.5, 1.0, 1.5, 2.0])
    again = Conditioning.stack([controlled.sample(i) for i in range(4)] + [controlled.sample(-1)])
    assert len(again) == 5
    assert torch.equal(again.text, words.text)
    assert torch.equal(again.negative_text, words.negative_text)
    assert torch.equal(again.controls[0].image, controlled.controls[0].image)
    assert torch.equal(again.controls[0].scale, controlled.controls[0].scale)
    with pytest.raises(ValueError):
        Conditioning.stack([controlled, words])


def test_conditioning_is_blended_whole_per_token_or_linearly(words: Conditioning) -> None:
    a, b = words.sample(0), words.sample(1)
    whole, token, linear = a.blend(b, 0.3), a.blend(b, 0.3, per_token=True), a.blend(b, 0.3, linear=True)
    assert torch.equal(whole.text, slerp(a.text, b.text, 0.3))
    assert torch.equal(whole.negative_text, slerp(a.negative_text, b.negative_text, 0.3))
    for i in (1, 5, 76):
        assert torch.allclose(token.text[:, i], slerp(a.text[:, i], b.text[:, i], 0.3), atol=1e-6)
    assert torch.allclose(linear.text, 0.7 * a.text + 0.3 * b.text, atol=1e-6)
    each = Conditioning.stack([a, a]).blend(Conditioning.stack([b, b]), torch.tensor([0.3, 1.0]), True)
    assert torch.allclose(each.text[0], token.text[0], atol=1e-6)
    assert torch.equal(each.text[1], b.text[0])


# Denoising


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_leg_equals_diffusers_ddim_frame_by_frame(prediction_type: Any) -> None:
    pipe = tiny_pipe(prediction_type, seed=3)
    backbone = StableDiffusion(pipe)
    words = backbone.embed(PROMPTS[:3], NEGATIVES[:3])
    start = backbone.point(0.3)  # 301 timesteps to clean: 7 equal parts of 43
    z = diffuse(randn(3, 4, 8, 8), randn(3, 4, 8, 8, seed=1), start)
    ticks: list[int] = []
    got = backbone.denoise(z, words, start, sampling=sampling(), progress=lambda: ticks.append(0))
    assert len(ticks) == len(backbone.leg(start, CLEAN, sampling())) == 7

    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)
    scheduler.set_timesteps(23)
    assert 1000 // 23 == 43
    for i in range(3):
        frame = z[i : i + 1]
        for t in (300, 257, 214, 171, 128, 85, 42):
            with torch.no_grad():
                negative = pipe.unet(frame, t, encoder_hidden_states=words.sample(i).negative_text).sample
                positive = pipe.unet(frame, t, encoder_hidden_states=words.sample(i).text).sample
            frame = scheduler.step(negative + 5.0 * (positive - negative), t, frame).prev_sample
        assert torch.allclose(got[i : i + 1], frame, atol=1e-5)


def test_euler_over_sigma_is_ddim_and_dpm_comes_close(backbone: StableDiffusion, words: Conditioning) -> None:
    """Euler's method on z / alpha over sigma / alpha is DDIM (Song et al. 2020, section 4.3), to any noise point."""
    one, start = words.sample(0), backbone.point(0.5)
    z = diffuse(randn(1, 4, 4, 4), randn(1, 4, 4, 4, seed=1), start)
    for stop in (CLEAN, backbone.point(0.3)):
        ddim, euler, dpm = (
            backbone.denoise(z, one, start, stop, sampling=sampling(solver, 40))
            for solver in ("ddim", "euler", "dpm++")
        )
        assert torch.allclose(euler, ddim, atol=1e-4)
        assert 1e-4 < (dpm - ddim).abs().max() < 0.1 * (z - ddim).abs().max()


def test_the_pipes_own_scheduler_denoises(words: Conditioning) -> None:
    pipe = tiny_pipe()
    backbone, one = StableDiffusion(pipe), words.sample(0)
    start, z = backbone.point(0.4), randn(1, 4, 4, 4)
    own = backbone.denoise(z, one, start, sampling=sampling("pipe"))
    assert torch.equal(own, backbone.denoise(z, one, start, sampling=sampling("ddim")))
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(SegueError, match="UniPCMultistepScheduler"):
        backbone.denoise(z, one, start, sampling=sampling("pipe"))
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    own = backbone.denoise(z, one, start, sampling=sampling("pipe"))
    assert torch.equal(own, backbone.denoise(z, one, start, sampling=sampling("euler")))


def test_eta_takes_the_noise_of_each_step(backbone: StableDiffusion, words: Conditioning) -> None:
    start, stop = backbone.point(0.5), backbone.point(0.3)
    z, options = randn(5, 4, 4, 4), sampling("ddim", 30, eta=0.8)
    noises = [randn(5, 4, 4, 4, seed=i + 1) for i in range(len(backbone.leg(start, stop, options)))]
    got = backbone.denoise(z, words, start, stop, sampling=options, noise=noises.__getitem__)
    alone = backbone.denoise(z[2:3], words.sample(2), start, stop, sampling=options, noise=lambda i: noises[i][2:3])
    assert torch.allclose(got[2:3], alone, atol=1e-4)
    assert not torch.allclose(got, backbone.denoise(z, words, start, stop, sampling=sampling("ddim", 30)), atol=0.1)
    with pytest.raises(ValueError, match="noise"):
        backbone.denoise(z, words, start, stop, sampling=options)


def test_guidance_is_one_call_and_equals_two(pipe: Any, backbone: StableDiffusion, words: Conditioning) -> None:
    start, z = backbone.point(0.3), randn(5, 4, 8, 8)
    once = sampling("ddim", 1, guidance=6.0)
    with batch_sizes(pipe.unet) as seen:
        got = backbone.denoise(z, words, start, sampling=once)
    assert seen == [10]
    with torch.no_grad():
        negative = pipe.unet(z, 300, encoder_hidden_states=words.negative_text).sample
        positive = pipe.unet(z, 300, encoder_hidden_states=words.text).sample
    eps = negative + 6.0 * (positive - negative)
    assert torch.allclose(got, (z - start.sigma * eps) / start.alpha, atol=1e-4)
    with batch_sizes(pipe.unet) as seen:
        backbone.denoise(z, words, start, sampling=sampling("ddim", 1, guidance=1.0))
    assert seen == [5]


def test_a_batch_of_five_equals_five_batches_of_one(controlled: StableDiffusion, words: Conditioning) -> None:
    conditioning = with_controls(words, [0.0, 0.5, 1.0, 1.5, 2.0])
    start, z = controlled.point(0.45), randn(5, 4, 8, 8)
    for solver in ("ddim", "dpm++", "euler"):
        together = controlled.denoise(z, conditioning, start, sampling=sampling(solver, 8))
        apart = [
            controlled.denoise(z[i : i + 1], conditioning.sample(i), start, sampling=sampling(solver, 8))
            for i in range(5)
        ]
        assert torch.allclose(together, torch.cat(apart), atol=1e-4)


def test_nothing_to_do_and_wrong_batches(backbone: StableDiffusion, words: Conditioning) -> None:
    z, start = randn(5, 4, 4, 4), backbone.point(0.3)
    assert torch.equal(backbone.denoise(z, words, start, start, sampling=sampling()), z)
    with pytest.raises(ValueError, match="5 latents and the conditioning of 1"):
        backbone.denoise(z, words.sample(0), start, sampling=sampling())
    with pytest.raises(ValueError, match="2 controls for 0 ControlNets"):
        backbone.denoise(z, with_controls(words, [1.0] * 5, [1.0] * 5), start, sampling=sampling())
    with pytest.raises(ValueError, match="noisier point to a cleaner"):
        backbone.denoise(z, words, start, backbone.point(0.5), sampling=sampling())


# ControlNets


def plain_step(pipe: Any, networks: list[Any], conditioning: Conditioning, z: Tensor, p: NoisePoint) -> Tensor:
    """One guided step to clean with diffusers' own ControlNet call, one frame and one branch at a time."""
    frames = []
    for i in range(len(z)):
        one, frame, outputs = conditioning.sample(i), z[i : i + 1], []
        for text in (one.negative_text, one.text):
            with torch.no_grad():
                down, middle = MultiControlNetModel(networks)(
                    frame,
                    p.timestep,
                    text,
                    [control.image for control in one.controls],
                    [float(control.scale) for control in one.controls],
                    return_dict=False,
                )
                added = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
                outputs.append(pipe.unet(frame, p.timestep, encoder_hidden_states=text, **added).sample)
        frames.append((frame - p.sigma * (outputs[0] + 5.0 * (outputs[1] - outputs[0]))) / p.alpha)
    return torch.cat(frames)


@pytest.mark.parametrize("count", [1, 2])
def test_control_scales_per_sample_equal_diffusers_own(pipe: Any, words: Conditioning, count: int) -> None:
    networks = [tiny_controlnet(pipe, seed=i) for i in range(count)]
    backbone = StableDiffusion(pipe, networks)
    conditioning = with_controls(words, *([0.0, 0.3, 1.0, 1.5, 3.5], [1.0, 0.0, 0.7, 0.2, 0.5])[:count])
    start, z = backbone.point(0.4), randn(5, 4, 8, 8)
    once = sampling("ddim", 1)
    got = backbone.denoise(z, conditioning, start, sampling=once)
    assert torch.allclose(got, plain_step(pipe, networks, conditioning, z, start), atol=1e-4)
    free = backbone.denoise(z, words, start, sampling=once)
    assert not torch.allclose(got[4], free[4], atol=0.01)
    if count == 1:
        assert torch.allclose(got[0], free[0], atol=1e-5)


def test_a_control_of_strength_zero_is_not_computed(controlled: StableDiffusion, words: Conditioning) -> None:
    start, z = controlled.point(0.3), randn(5, 4, 8, 8)
    with batch_sizes(controlled.controlnets[0]) as seen:
        got = controlled.denoise(z, with_controls(words, [0.0] * 5), start, sampling=sampling("ddim", 8))
    assert seen == []
    assert torch.equal(got, controlled.denoise(z, words, start, sampling=sampling("ddim", 8)))


def test_control_acts_in_its_share_of_the_leg(controlled: StableDiffusion, words: Conditioning) -> None:
    start, z, conditioning = controlled.point(0.499), randn(5, 4, 8, 8), with_controls(words, [1.0] * 5)
    for begin, end, calls in ((0.0, 1.0, 10), (0.0, 0.5, 5), (0.75, 1.0, 2), (0.2, 0.6, 4), (0.0, 0.0, 0)):
        options = sampling("ddim", 20, control_start=begin, control_end=end)
        with batch_sizes(controlled.controlnets[0]) as seen:
            controlled.denoise(z, conditioning, start, sampling=options)
        assert seen == [10] * calls


@pytest.mark.parametrize("kind", [StableDiffusionControlNetPipeline, StableDiffusionControlNetImg2ImgPipeline])
def test_a_pipe_with_controlnets_brings_them(pipe: Any, words: Conditioning, kind: Any) -> None:
    networks = [tiny_controlnet(pipe, seed=i) for i in range(2)]
    backbone = StableDiffusion(kind(**{**pipe.components, "controlnet": networks}, requires_safety_checker=False))
    assert backbone.controlnets == networks
    conditioning, start, z = with_controls(words, [1.0] * 5, [0.5] * 5), backbone.point(0.3), randn(5, 4, 8, 8)
    same = StableDiffusion(pipe, networks).denoise(z, conditioning, start, sampling=sampling())
    assert torch.equal(backbone.denoise(z, conditioning, start, sampling=sampling()), same)


# Gradients


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_predict_gives_eps_hat_for_a_point_each(prediction_type: Any) -> None:
    pipe = tiny_pipe(prediction_type, seed=1)
    backbone = StableDiffusion(pipe)
    words, z = backbone.embed(PROMPTS[:3], NEGATIVES[:3]), randn(3, 4, 4, 4)
    points = [backbone.schedule.noise_point(t) for t in (10, 500, 990)]
    got = backbone.predict(z, points, words, guidance_scale=3.0)
    for i, p in enumerate(points):
        one, frame = words.sample(i), z[i : i + 1]
        with torch.no_grad():
            negative, positive = (
                pipe.unet(frame, int(p.timestep), encoder_hidden_states=text).sample
                for text in (one.negative_text, one.text)
            )
        output = negative + 3.0 * (positive - negative)
        eps = output if prediction_type == "epsilon" else p.alpha * output + p.sigma * frame
        assert torch.allclose(got[i : i + 1], eps, atol=1e-5)
        assert torch.allclose(backbone.predict(frame, p, one, guidance_scale=3.0), eps, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_predicts_gradient_equals_finite_differences(prediction_type: Any) -> None:
    pipe = tiny_pipe(prediction_type)
    pipe.unet.double()
    controlnet = tiny_controlnet(pipe).double()
    backbone = StableDiffusion(pipe, controlnet)
    plain = backbone.embed(PROMPTS[:2], NEGATIVES[:2])
    z, eps = randn(2, 4, 8, 8).double(), randn(2, 4, 8, 8, seed=1).double()
    points = [backbone.schedule.noise_point(300), backbone.schedule.noise_point(700)]
    controls = with_controls(plain, [0.5, 1.0]).controls

    def loss(prompt: Tensor, negative: Tensor) -> Tensor:
        predicted = backbone.predict(z, points, text_conditioning(prompt, negative, controls), 4.0)
        return (predicted - eps).square().mean()

    prompt, negative = (x.double().requires_grad_() for x in (plain.text, plain.negative_text))
    gradients = torch.autograd.grad(loss(prompt, negative), (prompt, negative))
    for which, tensor in enumerate((prompt, negative)):
        direction = randn(*tensor.shape, seed=which + 5).double()
        h = 1e-4
        with torch.no_grad():
            moved = [
                loss(prompt + k * direction, negative) if which == 0 else loss(prompt, negative + k * direction)
                for k in (h, -h)
            ]
        slope = float((moved[0] - moved[1]) / (2 * h))
        assert abs(slope) > 1e-6
        assert float((gradients[which] * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_predict_records_gradients_of_the_conditioning_alone(backbone: StableDiffusion, words: Conditioning) -> None:
    z, point, prompt = randn(1, 4, 4, 4), backbone.point(0.5), words.text[:1].clone().requires_grad_()
    one = text_conditioning(prompt, words.negative_text[:1])
    with torch.no_grad():
        assert not backbone.predict(z, point, one).requires_grad
    with backbone.evaluating(), backbone.evaluating(grad=True):
        eps = backbone.predict(z, point, one)
    assert torch.autograd.grad(eps.sum(), prompt)[0].abs().max() > 0
    assert not backbone.predict(z, point, words.sample(0)).requires_grad


# Bring your own pipe


def flags(*networks: nn.Module) -> list[bool]:
    return [
        flag
        for network in networks
        for flag in (*(m.training for m in network.modules()), *(p.requires_grad for p in network.parameters()))
    ]


def test_everything_of_the_pipe_is_left_as_it_was(words: Conditioning) -> None:
    pipe = tiny_pipe()
    controlnet = tiny_controlnet(pipe)
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    pipe.text_encoder.requires_grad_(False)
    controlnet.train()
    networks = (pipe.unet, pipe.vae, pipe.text_encoder, controlnet)
    before, scheduler, config = flags(*networks), pipe.scheduler, dict(pipe.scheduler.config)
    state, processors = copy.deepcopy(vars(scheduler)), dict(pipe.unet.attn_processors)
    weights = [p.clone() for network in networks for p in network.parameters()]
    random, threads = torch.get_rng_state(), torch.get_num_threads()

    backbone = StableDiffusion(pipe, controlnet)
    start, z = backbone.point(0.3), backbone.encode(rand(5, 3, 64, 64))
    conditioning = with_controls(backbone.embed(PROMPTS, NEGATIVES), [1.0] * 5)
    with backbone.evaluating():
        assert not any(network.training for network in networks)
        assert not torch.is_grad_enabled()
        z = backbone.denoise(
            z, conditioning, start, sampling=sampling("ddim", 5, eta=0.5), noise=lambda _: randn(*z.shape)
        )
    backbone.decode(z)
    backbone.predict(z, start, conditioning)
    with pytest.raises(ZeroDivisionError), backbone.evaluating():
        _ = 1 // 0

    assert flags(*networks) == before
    assert pipe.scheduler is scheduler
    assert dict(scheduler.config) == config
    assert str(vars(scheduler)) == str(state)
    assert pipe.unet.attn_processors == processors
    assert all(torch.equal(a, b) for a, b in zip(weights, (p for n in networks for p in n.parameters()), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_swapped_attention_and_weights_come_back(words: Conditioning) -> None:
    pipe = tiny_pipe()
    backbone, z, one = StableDiffusion(pipe), randn(1, 4, 4, 4), words.sample(0)
    processors, name = dict(pipe.unet.attn_processors), "conv_out.weight"
    calls: list[int] = []

    class Counting(AttnProcessor):  # type: ignore[misc]
        def __call__(self, *args: Any, **options: Any) -> Tensor:
            calls.append(0)
            result: Tensor = super().__call__(*args, **options)
            return result

    before = backbone.predict(z, backbone.point(0.5), one)
    with backbone.swapping(attention=Counting()):
        assert torch.allclose(backbone.predict(z, backbone.point(0.5), one), before, atol=1e-5)
    assert len(calls) == len(processors)
    with backbone.swapping(attention={n: Counting() for n in processors}, weights={name: torch.zeros(4, 32, 3, 3)}):
        bias = pipe.unet.conv_out.bias[None, :, None, None].expand(z.shape)
        assert torch.allclose(backbone.predict(z, backbone.point(0.5), one), bias, atol=1e-6)
    assert pipe.unet.attn_processors == processors
    assert torch.equal(backbone.predict(z, backbone.point(0.5), one), before)
    with pytest.raises(AttributeError), backbone.swapping(weights={name: torch.zeros(4, 32, 3, 3), "absent": z}):
        pass
    assert torch.equal(backbone.predict(z, backbone.point(0.5), one), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_and_results_are_float32(words: Conditioning, dtype: torch.dtype) -> None:
    reference, half = StableDiffusion(tiny_pipe()), StableDiffusion(tiny_pipe().to(dtype=dtype))
    half = StableDiffusion(half.pipe, tiny_controlnet(half.pipe))
    images, start = rand(2, 3, 64, 64) * 2 - 1, reference.point(0.4)
    z, pair = reference.encode(images), Conditioning.stack([words.sample(0), words.sample(1)])
    noisy, options = diffuse(z, randn(*z.shape), start), sampling("ddim", 10, 2.0)
    embedded = half.embed(PROMPTS[:2], NEGATIVES[:2])
    for got, expected in (
        (half.encode(images), z),
        (half.decode(z), reference.decode(z)),
        (embedded.text, pair.text),
        (
            half.denoise(noisy, embedded, start, sampling=options),
            reference.denoise(noisy, pair, start, sampling=options),
        ),
        (half.predict(noisy, start, pair), reference.predict(noisy, start, pair)),
    ):
        assert got.dtype == torch.float32
        assert 0 < (got - expected).norm() / expected.norm() < {torch.bfloat16: 0.05, torch.float16: 0.005}[dtype]
    half.denoise(z, with_controls(pair, [1.0, 0.5]), start, sampling=sampling("ddim", 10))
    assert half.pipe.unet.dtype == half.pipe.vae.dtype == dtype


def test_overflow_is_named(words: Conditioning) -> None:
    pipe = tiny_pipe().to(dtype=torch.float16)
    nn.init.constant_(pipe.unet.conv_out.bias, float("inf"))
    backbone = StableDiffusion(pipe)
    with pytest.raises(SegueError, match="overflows in float16"):
        backbone.denoise(randn(1, 4, 4, 4), words.sample(0), backbone.point(0.3), sampling=sampling())


def test_offloaded_networks_work(backbone: StableDiffusion, words: Conditioning) -> None:
    pipe = tiny_pipe()
    z, start = randn(5, 4, 4, 4), backbone.point(0.3)
    expected = backbone.denoise(z, words, start, sampling=sampling())
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        cpu_offload(network, torch.device("cpu"), offload_buffers=True)
    offloaded = StableDiffusion(pipe)
    before = flags(pipe.unet, pipe.vae, pipe.text_encoder)
    assert next(pipe.unet.parameters()).is_meta
    assert torch.allclose(offloaded.embed(PROMPTS, NEGATIVES).text, words.text, atol=1e-5)
    assert torch.allclose(offloaded.denoise(z, words, start, sampling=sampling()), expected, atol=1e-5)
    assert torch.allclose(offloaded.decode(expected), backbone.decode(expected), atol=1e-5)
    assert next(pipe.unet.parameters()).is_meta
    assert flags(pipe.unet, pipe.vae, pipe.text_encoder) == before
    remove_hook_from_module(pipe.unet, recurse=True)


def test_the_fingerprint_knows_every_network(backbone: StableDiffusion, controlled: StableDiffusion) -> None:
    again = StableDiffusion(tiny_pipe())
    assert backbone.fingerprint() == again.fingerprint() != controlled.fingerprint()
    with again.swapping(weights={"conv_out.bias": torch.ones(4)}):
        assert again.fingerprint() != backbone.fingerprint()


def test_the_safety_checker_is_applied_as_the_pipe_does() -> None:
    pipe = tiny_pipe()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=8)
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(config).eval()
    backbone, z = StableDiffusion(pipe), randn(2, 4, 4, 4)
    plain = backbone.decode(z)
    pipe.feature_extractor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipe.safety_checker = checker
    assert torch.equal(backbone.decode(z), plain)
    nn.init.constant_(checker.concept_embeds_weights, -1.0)
    with pytest.warns(UserWarning, match="blacked out 2 of 2 images"):
        black = backbone.decode(z)
    assert torch.equal(black, torch.full_like(plain, -1.0))


def test_what_is_not_shown_is_not_screened() -> None:
    pipe = tiny_pipe()
    backbone, z = StableDiffusion(pipe), randn(2, 4, 4, 4)
    plain = backbone.decode(z)
    pipe.safety_checker = object()  # which cannot be called
    assert torch.equal(backbone.decode(z, screened=False), plain)


def test_image_to_image_pipes_are_of_the_family(pipe: Any) -> None:
    backbone: Backbone = StableDiffusion(
        StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    )
    assert backbone.name == "StableDiffusionImg2ImgPipeline"


def test_another_family_is_named(pipe: Any) -> None:
    parts = {"vae": pipe.vae, "unet": pipe.unet, "scheduler": pipe.scheduler}
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    with pytest.raises(SegueError, match="the StableDiffusionXLPipeline lacks its text_encoder and text_encoder_2"):
        backbone_of(StableDiffusionXLPipeline(**parts, **nothing))
    with pytest.raises(SegueError, match="StableDiffusionInpaintPipeline"):
        backbone_of(StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False))
    with pytest.raises(SegueError, match="Linear"):
        backbone_of(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("more", "value"),
    [("encoder_hid_dim_type", "text_proj"), ("class_embed_type", "timestep"), ("num_class_embeds", 10)],
)
def test_a_unet_that_needs_more_than_text_is_refused(more: str, value: object) -> None:
    pipe = tiny_pipe()
    backbone = StableDiffusion(pipe)
    backbone.check(sampling())
    pipe.unet.register_to_config(**{more: value})
    for check in (lambda: StableDiffusion(pipe), lambda: backbone.check(sampling())):
        with pytest.raises(SegueError, match=f"needs more than it can be given here \\({more}\\)"):
            check()


def test_a_patched_unet_is_refused() -> None:
    pipe = tiny_pipe()
    pipe.unet._tome_info = {}
    with pytest.raises(SegueError, match="patched by token merging"):
        backbone_of(pipe)
    pipe = tiny_pipe()

    def forward(*given: Any, **named: Any) -> Any:
        return type(pipe.unet).forward(pipe.unet, *given, **named)

    pipe.unet.forward = forward  # as accelerate hooks networks: this is used
    backbone_of(pipe)
    forward.__module__ = "DeepCache.extension.deepcache"
    with pytest.raises(SegueError, match="patched by DeepCache"):
        backbone_of(pipe)


def test_what_is_no_controlnet_of_the_model_is_refused(pipe: Any) -> None:
    with pytest.raises(SegueError, match="a ControlNetModel of diffusers, not a UNet2DConditionModel"):
        StableDiffusion(pipe, tiny_pipe().unet)
    with pytest.raises(SegueError, match="a ControlNetModel of diffusers, not a str"):
        StableDiffusion(pipe, "a/name")
    near = tiny_controlnet(pipe)
    near.register_to_config(conditioning_embedding_out_channels=(16, 32, 96))
    with pytest.raises(SegueError, match=r"its images are 4 times as large as latents, .*'s 8 times"):
        StableDiffusion(pipe, [tiny_controlnet(pipe), near])


def test_a_scheduler_that_is_exchanged_later_counts() -> None:
    pipe = tiny_pipe()
    backbone = StableDiffusion(pipe)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    again, z = StableDiffusion(pipe), randn(1, 4, 4, 4)
    words, start = backbone.embed(["a cat"], [""]), backbone.point(0.5)
    expected = again.denoise(z, words, start, sampling=sampling(steps=4))
    assert torch.equal(backbone.denoise(z, words, start, sampling=sampling(steps=4)), expected)
    pipe.scheduler = DDPMScheduler(beta_schedule="sigmoid")
    with pytest.raises(SegueError, match="the noise schedule 'sigmoid' is unknown to segue"):
        backbone.check(sampling())


def test_two_threads_take_turns_and_leave_nothing_changed(pipe: Any) -> None:
    backbone = StableDiffusion(pipe, tiny_controlnet(pipe))
    own, before = backbone.controlnets[0].controlnet_cond_embedding, backbone.fingerprint()
    words, start, z = with_controls(backbone.embed(["a"], [""]), [1.0]), backbone.point(0.9), randn(1, 4, 8, 8)

    def make(_number: int) -> Tensor:
        return backbone.denoise(z, words, start, sampling=sampling(steps=6))

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(make, range(8)))
    assert all(torch.equal(one, found[0]) for one in found)
    assert backbone.controlnets[0].controlnet_cond_embedding is own
    assert backbone.fingerprint() == before


def test_a_learnt_token_of_several_vectors_counts_as_so_many() -> None:
    pipe = tiny_pipe()
    pipe.load_textual_inversion(randn(20, 32), token="<cat>")
    backbone = StableDiffusion(pipe)
    text = "<cat> <cat> " + "dog " * 14 + "END"
    assert len(pipe.tokenizer(text).input_ids) < 77
    with pytest.warns(SegueWarning, match="longer than the 77 tokens of the text encoder; cut off: .*END$"):
        backbone.embed([text], [""])
    short = backbone.embed(["a <cat> here"], ["bad"])
    expected = pipe.encode_prompt(["a <cat> here"], torch.device("cpu"), 1, True, ["bad"])
    assert torch.equal(short.text, expected[0])
    assert torch.equal(short.negative_text, expected[1])


def test_a_copy_computes_the_same(pipe: Any) -> None:
    backbone, z = StableDiffusion(pipe), randn(1, 4, 4, 4)
    for again in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(again.decode(z), backbone.decode(z))


def test_a_thread_that_failed_keeps_no_other_one_waiting() -> None:
    pipe = tiny_pipe()
    backbone, z = StableDiffusion(pipe), randn(1, 4, 4, 4)
    pipe.register_modules(extra=nn.Linear(1, 1))  # which its components do not allow
    with pytest.raises(ValueError, match="extra"):
        backbone.decode(z)
    del pipe.extra
    pipe._internal_dict = FrozenDict({name: part for name, part in pipe.config.items() if name != "extra"})
    with ThreadPoolExecutor(1) as other:
        assert other.submit(backbone.decode, z).result(timeout=60).shape == (1, 3, 32, 32)


def test_a_pipe_that_lacks_a_part_is_named() -> None:
    pipe = tiny_pipe()
    pipe.text_encoder = None
    with pytest.raises(SegueError, match="lacks its text_encoder"):
        StableDiffusion(pipe)

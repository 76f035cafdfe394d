"""The paper's procedure in one function: what ``benchmarks/speed.py`` compares the engine with.

Wang and Golland, "Interpolating between Images with Diffusion Models", 2023, arXiv 2307.12560, as its released code
computes it: frame after frame, guidance as two calls of the network, float32, DDIM on a grid of 200 steps. It shares
only the weights and the noise with the engine. Inversion, poses and ranking are left out; they cost the same in both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

__all__ = ["Procedure", "transcribe"]


@dataclass(frozen=True)
class Procedure:
    """The settings of the procedure.

    Attributes:
        num_frames: frames of the film, keyframes included; a power of two and one more.
        noise: the noise levels of the last and of the first level of the tree, spaced linearly.
        num_inference_steps: steps of DDIM over the whole schedule.
        guidance_scale: of classifier-free guidance.
        slip: the released code starts to denoise 2 steps before the noise that it added; with 0 the two agree, as in
            the paper.
    """

    num_frames: int = 17
    noise: tuple[float, float] = (0.30, 0.55)
    num_inference_steps: int = 200
    guidance_scale: float = 7.5
    slip: int = 0


@torch.no_grad()
def transcribe(
    pipe: Any,
    images: tuple[Tensor, Tensor],
    prompts: tuple[str, str],
    negative_prompt: str,
    procedure: Procedure,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """Make the frames between two images.

    Args:
        pipe: a Stable Diffusion pipe of diffusers in float32.
        images: the keyframes, (1, 3, H, W) in [-1, 1].
        prompts: one for each keyframe.
        negative_prompt: of all frames.
        procedure: the settings.
        noise: gives the standard normal noise of a frame, (1, C, h, w), by the frame's number.

    Returns:
        The decoded frames without the keyframes, (F, 3, H, W) in [-1, 1].
    """
    device, last = pipe.unet.device, procedure.num_frames - 1
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(procedure.num_inference_steps, device=device)

    # Encode the keyframes and their prompts.
    latents = {0: encode(pipe, images[0].to(device)), last: encode(pipe, images[1].to(device))}
    texts = [pipe.encode_prompt(prompt, device, 1, True, negative_prompt) for prompt in prompts]
    (positive_0, negative_0), (positive_1, negative_1) = texts

    frames: dict[int, Tensor] = {}
    depth = round(math.log2(last))
    for level in range(depth):
        low, high = procedure.noise
        fraction = high - (high - low) * level / max(depth - 1, 1)
        start = int((scheduler.timesteps - fraction * scheduler.config.num_train_timesteps).abs().argmin())
        gap = last >> level
        for middle in range(gap // 2, last, gap):
            left, right = latents[middle - gap // 2], latents[middle + gap // 2]
            share = middle / last
            positive, negative = slerp(positive_0, positive_1, share), slerp(negative_0, negative_1, share)
            # Diffuse both parents with the same noise, and blend them.
            eps, t = noise(middle).to(device), scheduler.timesteps[start]
            z = slerp(scheduler.add_noise(left, eps, t), scheduler.add_noise(right, eps, t), 0.5)
            # Denoise, with guidance as two calls.
            for t in scheduler.timesteps[max(start - procedure.slip, 0) :]:
                with_text = pipe.unet(z, t, encoder_hidden_states=positive).sample
                without = pipe.unet(z, t, encoder_hidden_states=negative).sample
                output = without + procedure.guidance_scale * (with_text - without)
                z = scheduler.step(output, t, z).prev_sample
            latents[middle] = z
            frames[middle] = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
    return torch.cat([frames[number] for number in sorted(frames)]).float().cpu()


def encode(pipe: Any, image: Tensor) -> Tensor:
    """The clean latent of an image: the mean of the posterior, scaled."""
    found = pipe.vae.encode(image)
    mean = found.latents if hasattr(found, "latents") else found.latent_dist.mean
    z: Tensor = mean * pipe.vae.config.scaling_factor
    return z


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of two tensors as wholes; linear where they point the same way."""
    cosine = (a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1)
    omega = torch.acos(cosine)
    if float(torch.sin(omega)) < 1e-4:
        return (1 - weight) * a + weight * b
    return (torch.sin((1 - weight) * omega) * a + torch.sin(weight * omega) * b) / torch.sin(omega)

"""The paper's procedure, transcribed plainly: what the engine's speed is compared against.

Wang and Golland, "Interpolating between Images with Diffusion Models", 2023, arXiv 2307.12560, as its released code
computes it: frame after frame, candidate after candidate, guidance as two calls of the network, float32, DDIM over a
grid of 200 steps. It stands alone in this file, and shares with the engine only the weights and the noise that it is
handed; prompts come as they are (the inversion is another part, with the same cost on both sides).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

__all__ = ["Procedure", "transcribed"]


@dataclass(frozen=True)
class Procedure:
    """What the procedure is told.

    Attributes:
        num_frames: frames of the film, keyframes included; a power of two and one more.
        noise: the noise levels of the last and of the first level of the tree, spaced linearly.
        num_inference_steps: steps of DDIM over the whole schedule.
        guidance_scale: of classifier-free guidance.
        candidates: at the first level; one fewer at each level, least 3.
        slip: the released code starts to denoise this many steps before the noise that it added: 2 there. With 0 the
            two agree, as the paper has it.
    """

    num_frames: int = 17
    noise: tuple[float, float] = (0.30, 0.55)
    num_inference_steps: int = 200
    guidance_scale: float = 7.5
    candidates: int = 1
    slip: int = 0


@torch.no_grad()
def transcribed(
    pipe: Any,
    images: tuple[Tensor, Tensor],
    prompts: tuple[str, str],
    negative_prompt: str,
    procedure: Procedure,
    noise: Callable[[int, int], Tensor],
    score: Callable[[Tensor], float] | None = None,
) -> dict[int, Tensor]:
    """The frames between two images.

    Args:
        pipe: a Stable Diffusion pipe of diffusers in float32.
        images: the keyframes, (1, 3, H, W) in [-1, 1].
        prompts: one for each keyframe.
        negative_prompt: of all frames.
        procedure: what to do.
        noise: the standard normal noise of a frame's candidate, (1, C, h, w), by the frame's number and its own.
        score: how good a decoded candidate is; the best one stays, the first without a score.

    Returns:
        The decoded frames by number, (1, 3, H, W) in [-1, 1], without the keyframes.
    """
    device, last = pipe.unet.device, procedure.num_frames - 1
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(procedure.num_inference_steps, device=device)

    # Encode the keyframes and their prompts.
    latents = {0: encoded(pipe, images[0].to(device)), last: encoded(pipe, images[1].to(device))}
    texts = [pipe.encode_prompt(prompt, device, 1, True, negative_prompt) for prompt in prompts]
    (positive_0, negative_0), (positive_1, negative_1) = texts

    frames: dict[int, Tensor] = {}
    depth = round(math.log2(last))
    for level in range(depth):
        low, high = procedure.noise
        fraction = high - (high - low) * level / max(depth - 1, 1)
        start = start_of(scheduler, fraction)
        gap = last >> level
        for middle in range(gap // 2, last, gap):  # frame after frame
            left, right = latents[middle - gap // 2], latents[middle + gap // 2]
            share = middle / last
            positive, negative = slerp(positive_0, positive_1, share), slerp(negative_0, negative_1, share)
            best: tuple[float, Tensor, Tensor] | None = None
            for candidate in range(candidates_of(procedure, level)):  # candidate after candidate
                # Diffuse both parents with the same noise, and blend them.
                eps = noise(middle, candidate).to(device)
                t = scheduler.timesteps[start]
                z = slerp(scheduler.add_noise(left, eps, t), scheduler.add_noise(right, eps, t), 0.5)
                # Denoise, with guidance as two calls.
                for t in scheduler.timesteps[max(start - procedure.slip, 0) :]:
                    with_text = pipe.unet(z, t, encoder_hidden_states=positive).sample
                    without = pipe.unet(z, t, encoder_hidden_states=negative).sample
                    output = without + procedure.guidance_scale * (with_text - without)
                    z = scheduler.step(output, t, z).prev_sample
                image = decoded(pipe, z)
                found = score(image) if score else 0.0
                if best is None or found > best[0]:
                    best = found, z, image
            assert best is not None
            _, latents[middle], frames[middle] = best
    return frames


def start_of(scheduler: Any, fraction: float) -> int:
    """The number of the step at which denoising from a noise level begins: the step that lies nearest to it."""
    wanted = fraction * scheduler.config.num_train_timesteps
    return int((scheduler.timesteps - wanted).abs().argmin())


def candidates_of(procedure: Procedure, level: int) -> int:
    """Candidates of each frame of a level."""
    return max(procedure.candidates - level, min(3, procedure.candidates))


def frame_steps(procedure: Procedure, scheduler: Any) -> Iterator[int]:
    """The denoising steps of each candidate of each frame, for what a film costs without making it."""
    scheduler.set_timesteps(procedure.num_inference_steps)
    depth = round(math.log2(procedure.num_frames - 1))
    for level in range(depth):
        low, high = procedure.noise
        start = start_of(scheduler, high - (high - low) * level / max(depth - 1, 1))
        for _ in range(2**level * candidates_of(procedure, level)):
            yield procedure.num_inference_steps - max(start - procedure.slip, 0)


def encoded(pipe: Any, image: Tensor) -> Tensor:
    """The clean latent of an image: the mean of the posterior, scaled."""
    found = pipe.vae.encode(image)
    mean = found.latents if hasattr(found, "latents") else found.latent_dist.mean
    z: Tensor = mean * pipe.vae.config.scaling_factor
    return z


def decoded(pipe: Any, z: Tensor) -> Tensor:
    """The image of a clean latent."""
    image: Tensor = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    return image.clamp(-1, 1)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of two tensors as wholes; linear where they point the same way."""
    cosine = (a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1)
    omega = torch.acos(cosine)
    if float(torch.sin(omega)) < 1e-4:
        return (1 - weight) * a + weight * b
    return (torch.sin((1 - weight) * omega) * a + torch.sin(weight * omega) * b) / torch.sin(omega)

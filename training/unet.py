"""The denoiser: a stock `UNet2DConditionModel` on 16 x 16 latents, v-prediction, conditioned on the frozen text tower.

Most of its work lies at 8 x 8 and 4 x 4, where a step is cheap. Most timesteps are drawn from the middle, where shapes
are decided. Run: `python -m training.unet` (resumes; a later run with more minutes goes on where the learning rate's
course then is).
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.loop import DEVICE, Course, arguments, autocast, course, generator, train
from training.store import load_array, load_checkpoint

HOW = course(
    cpu=Course(minutes=60, batch=32, rate=6e-4, ema=0.999),
    gpu=Course(minutes=4, batch=768, rate=1.2e-3, ema=0.999, first=300, log_every=100),
)
FIGURES = 0.22
NO_CAPTION = 0.1
BARE = 0.1
BACKGROUND = 0.25
SIGNS = ("flat color icons", "ultimate color", "plump color", "plump flat", "kameleon color", "kameleon duo")
SIGNS_WEIGHT = 0.3  # Icons of interfaces are drawn less often than pictures of things.
MIDDLE = 0.3  # Of the normal distribution whose logistic function most timesteps are drawn from; its deviation is 1.
EVERY = 0.15  # The share of timesteps drawn evenly.
MIN_SNR = 5.0
LEVELS = (50, 200, 350, 500, 650, 800, 950)


def main() -> None:
    minutes = arguments(__doc__, HOW.minutes).parse_args().minutes
    torch.manual_seed(0)
    data, unet, scheduler = latents(), build_unet().to(DEVICE, memory_format=torch.channels_last), build_scheduler()
    styles = [record["style"] for record in load_array("icons")[1]]
    signs = torch.tensor([styles[row] in SIGNS for row in data["icons_train_rows"].tolist()], device=DEVICE)
    weights = {
        "icons": torch.where(signs, SIGNS_WEIGHT, 1.0),
        "figures": torch.ones(len(data["figures_train"]), device=DEVICE),
    }

    def loss_of(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        random = generator(step)
        z, states = draw(data, weights, random)
        t = timesteps(len(z), random)
        errors = v_errors(lambda x: unet(x, t, states).sample, scheduler, z, t, random)
        return (errors * loss_weights(scheduler, t)).mean(), {}

    train("unet", unet, loss_of, HOW, minutes)


def latents() -> dict[str, Any]:
    """What `training.latents` made, on the device that trains."""
    data = load_checkpoint("latents")
    assert data is not None, "training.latents comes first"
    return {name: value.to(DEVICE) for name, value in data.items()}


def draw(data: dict[str, Any], weights: dict[str, Tensor], random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch: scaled latents (batch, 4, 16, 16) and the text tower's states (batch, TOKENS, width)."""
    z, captions = [], []
    n_figures = int(HOW.batch * FIGURES)

    def chance(n: int) -> Tensor:
        return torch.rand(n, generator=random, device=random.device)

    for name, n in (("icons", HOW.batch - n_figures), ("figures", n_figures)):
        stock = data[f"{name}_train"]
        rows = torch.multinomial(weights[name], n, replacement=True, generator=random)
        others = torch.randint(1, stock.shape[1], (n,), generator=random, device=random.device)
        z.append(stock[rows, torch.where(chance(n) < BACKGROUND, others, 0)].float() / data["std"])
        named = data[f"{name}_train_captions"][rows]
        if name == "icons":
            named = torch.where(chance(n) < BARE, data["bare"][rows], named)
        captions.append(named)
    caption = torch.cat(captions)
    caption = torch.where(chance(len(caption)) < NO_CAPTION, 0, caption)
    return torch.cat(z), data["caption_states"][data["caption_of"][caption]].float()


def timesteps(n: int, random: torch.Generator) -> Tensor:
    """Random timesteps (n,): most logit-normal (Esser et al., 2024, arXiv 2403.03206), the others from all evenly."""
    middle = (torch.randn(n, generator=random, device=random.device) + MIDDLE).sigmoid() * 1000
    every, chance = torch.rand(2, n, generator=random, device=random.device)
    return torch.where(chance < EVERY, every * 1000, middle).long().clamp(0, 999)


def v_errors(
    predict: Callable[[Tensor], Tensor], scheduler: DDPMScheduler, z: Tensor, t: Tensor, random: torch.Generator
) -> Tensor:
    """Each sample's mean squared error of v (B,).

    Args:
        predict: the networks, from noisy latents (B, 4, h, w) to v.
        scheduler: the noise schedule.
        z: scaled clean latents (B, 4, h, w).
        t: their timesteps (B,).
        random: draws the noise.
    """
    eps = torch.randn(z.shape, generator=random, device=z.device)
    noisy, target = scheduler.add_noise(z, eps, t), scheduler.get_velocity(z, eps, t)
    # On a CPU the fused attention kernel's backward pass is slow.
    attention = sdpa_kernel(SDPBackend.MATH) if z.device.type == "cpu" else nullcontext()
    with autocast(z.device), attention:
        guess = predict(noisy.contiguous(memory_format=torch.channels_last)).float()
    errors: Tensor = (guess - target).square().mean((1, 2, 3))
    return errors


def loss_weights(scheduler: DDPMScheduler, t: Tensor) -> Tensor:
    """What errors of v at timesteps (B,) count (B,).

    Where there is little noise these are min-SNR's weights for v (Hang et al., 2023, arXiv 2303.09556); where there is
    much, alpha and not alpha^2, since subject and layout are decided there.
    """
    abar = scheduler.alphas_cumprod.to(t.device)[t]
    return torch.minimum(abar.sqrt(), MIN_SNR * (1 - abar))


def build_unet() -> UNet2DConditionModel:
    """Pocket's UNet, fresh. `attention_head_dim` counts heads."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=256,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def build_scheduler() -> DDPMScheduler:
    """The noise schedule of Stable Diffusion."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
    )


if __name__ == "__main__":
    main()

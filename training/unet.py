"""The denoiser: a stock `UNet2DConditionModel` on 16 x 16 latents, v-prediction, conditioned on the frozen text tower.

Most of its work lies at 8 x 8 and 4 x 4, where a step is cheap. Four of five timesteps are drawn from the range that
morphing uses. Run: `python -m training.unet --minutes 60` (resumes; a later run with more minutes goes on where the
learning rate's course then is).
"""

import argparse
import time
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.store import Clock, Ema, Log, Stop, load_array, load_checkpoint, save_checkpoint, warm_up

BATCH = 48
RATE = 8e-4
EMA = 0.998
FIGURES = 0.22
NO_CAPTION = 0.1
BARE = 0.1
BACKGROUND = 0.25
SIGNS = ("flat color icons", "ultimate color", "plump color", "plump flat", "kameleon color", "kameleon duo")
SIGNS_WEIGHT = 0.3  # Icons of interfaces are drawn less often than pictures of things.
USED = (50, 700)
USED_SHARE = 0.8
MIN_SNR = 5.0
LOG_EVERY = 50
SAVE_SECONDS = 150
LEVELS = (50, 200, 350, 500, 650, 800, 950)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    minutes = parser.parse_args().minutes
    torch.manual_seed(0)
    data = load_checkpoint("latents")
    assert data is not None, "training.latents comes first"
    styles = [r["style"] for r in load_array("icons")[1]]
    signs = torch.tensor([styles[row] in SIGNS for row in data["icons_train_rows"].tolist()])
    data["icons_weights"] = torch.where(signs, SIGNS_WEIGHT, 1.0)
    data["figures_weights"] = torch.ones(len(data["figures_train"]))
    unet = build_unet().to(memory_format=torch.channels_last)
    scheduler = build_scheduler()
    decay = [p for p in unet.parameters() if p.ndim > 1]
    rest = [p for p in unet.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), fused=True)
    state = load_checkpoint("unet") or {"step": 0, "seconds": 0.0}
    if "model" in state:
        unet.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    ema = Ema(unet, EMA, state.get("ema"))
    ema.steps = step = int(state["step"])
    generator = torch.Generator().manual_seed(step)
    clock, log, saved = Clock(state["seconds"]), Log("unet"), time.monotonic()
    print(sum(p.numel() for p in unet.parameters()), "parameters", flush=True)
    stop = Stop()
    while clock() < minutes * 60 and not stop:
        done = clock() / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = warm_up(step, step / max(done, 1e-3), RATE, first=100)
        z, states = draw(data, generator)
        loss = v_loss(unet, scheduler, z, states, timesteps(len(z), generator), generator).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        ema.update(unet)
        step += 1
        log.add(loss=loss.item())
        if step % LOG_EVERY == 0:
            log.row(step=step, seconds=clock(), rate=optimizer.param_groups[0]["lr"])
        if time.monotonic() - saved > SAVE_SECONDS or clock() >= minutes * 60 or stop:
            saved = time.monotonic()
            save_checkpoint(
                "unet",
                {
                    "step": step,
                    "seconds": clock(),
                    "model": unet.state_dict(),
                    "ema": ema.weights,
                    "optimizer": optimizer.state_dict(),
                },
            )


def draw(data: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch: scaled latents (BATCH, 4, 16, 16) and the text tower's states (BATCH, TOKENS, width)."""
    latents, captions = [], []
    n_figures = int(BATCH * FIGURES)
    for name, n in (("icons", BATCH - n_figures), ("figures", n_figures)):
        stock = data[f"{name}_train"]
        rows = torch.multinomial(data[f"{name}_weights"], n, replacement=True, generator=generator)
        variants = (torch.rand(n, generator=generator) < BACKGROUND).long() * torch.randint(
            1, stock.shape[1], (n,), generator=generator
        )
        latents.append(stock[rows, variants].float() / data["std"])
        named = data[f"{name}_train_captions"][rows]
        if name == "icons":
            bare = torch.rand(n, generator=generator) < BARE
            named = torch.where(bare, data["bare"][rows], named)
        captions.append(named)
    caption = torch.cat(captions)
    caption = torch.where(torch.rand(len(caption), generator=generator) < NO_CAPTION, 0, caption)
    return torch.cat(latents), data["caption_states"][data["caption_of"][caption]].float()


def timesteps(n: int, generator: torch.Generator) -> Tensor:
    """Random timesteps (n,): most within the range that morphing uses, the others from all."""
    used = torch.randint(*USED, (n,), generator=generator)
    every = torch.randint(0, 1000, (n,), generator=generator)
    return torch.where(torch.rand(n, generator=generator) < USED_SHARE, used, every)


def v_loss(
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    z: Tensor,
    states: Tensor,
    t: Tensor,
    generator: torch.Generator,
    **control: Any,
) -> Tensor:
    """Each sample's loss (B,) with min-SNR weights (Hang et al., 2023, arXiv 2303.09556) for v-prediction."""
    eps = torch.randn(z.shape, generator=generator)
    noisy, target = scheduler.add_noise(z, eps, t), scheduler.get_velocity(z, eps, t)
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        guess = unet(noisy, t, encoder_hidden_states=states, **control).sample.float()
    snr = scheduler.alphas_cumprod[t] / (1 - scheduler.alphas_cumprod[t])
    weight = snr.clamp(max=MIN_SNR) / (snr + 1)
    loss: Tensor = (guess - target).square().mean((1, 2, 3)) * weight
    return loss


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

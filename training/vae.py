"""The autoencoder: a stock `AutoencoderTiny`, trained on moved, recoloured and outlined icons and on drawn figures.

Latents get a little noise before they are decoded and are kept small, so that near latents mean near pictures.
Run: `python -m training.vae --minutes 25` (resumes; figures join once `training.figures` has made them). Once the UNet
is trained on the latents, only `--decoder-only` may go on.
"""

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.augment import backgrounds, move, on, outline, recolour
from training.composed import build_vae, decode, encode
from training.store import CACHE, Clock, Ema, Log, Stop, load_array, load_checkpoint, save_checkpoint, warm_up

BATCH = 24
RATE = 7e-4
EMA = 0.998
NOISE = 0.04
SMALL = 5e-4
FIGURES = 0.25
RECOLOURED, MOVED, OUTLINED = 0.3, 0.4, 0.3
LOG_EVERY = 25
SAVE_EVERY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder, and so the latents, as it is")
    options = parser.parse_args()
    minutes = options.minutes
    torch.manual_seed(0)
    vae = build_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=RATE, weight_decay=1e-3, betas=(0.9, 0.98), fused=True)
    state = load_checkpoint("vae") or {"step": 0, "seconds": 0.0}
    if "model" in state:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    if options.decoder_only:
        vae.load_state_dict(state["ema"])
        vae.encoder.requires_grad_(False)
    ema = Ema(vae, EMA, state.get("ema"))
    ema.steps = step = int(state["step"])
    clock, log = Clock(state["seconds"]), Log("vae")
    generator = torch.Generator().manual_seed(step)
    batches = Batches(generator)
    stop = Stop()
    while clock() < minutes * 60 and not stop:
        done = clock() / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = warm_up(step, step / max(done, 1e-3), RATE, first=60)
        x = batches.draw().contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = encode(vae, x).float()
            y = decode(vae, z + NOISE * torch.randn(z.shape, generator=generator)).float()
        mse = F.mse_loss(y, x)
        loss = F.l1_loss(y, x) + 2 * mse + 0.5 * gradients(y, x) + SMALL * z.square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        ema.update(vae)
        step += 1
        log.add(loss=loss.item(), psnr=-10 * np.log10(mse.item() / 4), std=z.std().item())
        if step % LOG_EVERY == 0:
            log.row(step=step, seconds=clock(), rate=optimizer.param_groups[0]["lr"])
        if step % SAVE_EVERY == 0 or clock() >= minutes * 60 or stop:
            save_checkpoint(
                "vae",
                {
                    "step": step,
                    "seconds": clock(),
                    "model": vae.state_dict(),
                    "ema": ema.weights,
                    "optimizer": optimizer.state_dict(),
                },
            )


def gradients(y: Tensor, x: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical differences of two batches of pictures."""
    d = y - x
    return (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()


class Batches:
    """Random training pictures (BATCH, 3, 128, 128) in [-1, 1]."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.sources = []
        for name in ("icons", "figures"):
            if (CACHE / f"{name}.json").exists():
                pictures, records = load_array(name)
                self.sources.append((pictures, [i for i, r in enumerate(records) if not r["held_out"]]))

    def draw(self) -> Tensor:
        """A batch."""
        n_figures = int(BATCH * FIGURES) if len(self.sources) > 1 else 0
        parts = []
        for (pictures, rows), n in zip(self.sources, (BATCH - n_figures, n_figures), strict=False):
            picks = torch.randint(len(rows), (n,), generator=self.generator).tolist()
            parts.append(np.stack([pictures[rows[i]] for i in picks]))
        rgba = torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2).float() / 255
        rgba[:, :3] *= rgba[:, 3:]
        chance = torch.rand(3, len(rgba), generator=self.generator)
        if (chosen := chance[0] < RECOLOURED).any():
            rgba[chosen] = recolour(rgba[chosen], self.generator)
        if (chosen := chance[1] < MOVED).any():
            rgba[chosen] = move(rgba[chosen], (0.55, 1.5), 0.25, 0.5, self.generator)
        if (chosen := chance[2] < OUTLINED).any():
            rgba[chosen] = outline(rgba[chosen], self.generator)
        return on(rgba, backgrounds(len(rgba), rgba.shape[-1], self.generator))


if __name__ == "__main__":
    main()

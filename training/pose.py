"""The keypoint detector for drawn figures: `segue.pose.network.KeypointNetwork`, trained on heat maps.

Figures are moved, recoloured, outlined and put on backgrounds; one picture in ten is an icon with no heat at all.
Run: `python -m training.pose --minutes 7` (resumes).
"""

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.pose.network import KeypointNetwork, heat_maps
from training.augment import backgrounds, on, outline, recolour
from training.store import Clock, Ema, Log, Stop, load_array, load_checkpoint, save_checkpoint, warm_up

BATCH = 32
RATE = 2e-3
EMA = 0.995
EMPTY = 0.1
LOG_EVERY = 50
SAVE_EVERY = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7)
    minutes = parser.parse_args().minutes
    torch.manual_seed(0)
    network = KeypointNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3, fused=True)
    state = load_checkpoint("pose") or {"step": 0, "seconds": 0.0}
    if "model" in state:
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    ema = Ema(network, EMA, state.get("ema"))
    ema.steps = step = int(state["step"])
    generator = torch.Generator().manual_seed(step)
    batches = Batches(generator)
    clock, log = Clock(state["seconds"]), Log("pose")
    stop = Stop()
    while clock() < minutes * 60 and not stop:
        done = clock() / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = warm_up(step, step / max(done, 1e-3), RATE, first=100)
        x, points = batches.draw()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x.contiguous(memory_format=torch.channels_last)).float()
        maps = heat_maps(points)
        loss = (F.binary_cross_entropy_with_logits(logits, maps, reduction="none") * (1 + 20 * maps)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ema.update(network)
        step += 1
        log.add(loss=loss.item())
        if step % LOG_EVERY == 0:
            log.row(step=step, seconds=clock(), rate=optimizer.param_groups[0]["lr"])
        if step % SAVE_EVERY == 0 or clock() >= minutes * 60 or stop:
            save_checkpoint(
                "pose",
                {
                    "step": step,
                    "seconds": clock(),
                    "model": network.state_dict(),
                    "ema": ema.weights,
                    "optimizer": optimizer.state_dict(),
                },
            )


class Batches:
    """Random pictures (BATCH, 3, 128, 128) in [-1, 1] and their keypoints (BATCH, 18, 3), confidence 0 on icons."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.figures, records = load_array("figures")
        self.rows = [i for i, r in enumerate(records) if not r["held_out"]]
        self.points = torch.tensor([r["keypoints"] for r in records])
        self.icons, records = load_array("icons")
        people = ("man", "woman", "person", "boy", "girl", "people", "men", "women", "child", "family", "couple")
        self.others = [
            i for i, r in enumerate(records) if not r["held_out"] and not set(r["concept"].split()) & set(people)
        ]

    def draw(self) -> tuple[Tensor, Tensor]:
        """A batch and its keypoints."""
        generator = self.generator
        n_empty = int(BATCH * EMPTY)
        rows = [self.rows[i] for i in torch.randint(len(self.rows), (BATCH - n_empty,), generator=generator).tolist()]
        empty = [self.others[i] for i in torch.randint(len(self.others), (n_empty,), generator=generator).tolist()]
        stack = np.concatenate([np.stack([self.figures[i] for i in rows]), np.stack([self.icons[i] for i in empty])])
        rgba = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255
        rgba[:, :3] *= rgba[:, 3:]
        points = torch.cat([self.points[rows], torch.zeros(n_empty, 18, 2)])
        rgba, points = moved(rgba, points, generator)
        chance = torch.rand(2, BATCH, generator=generator)
        for row, share, change in ((0, 0.3, recolour), (1, 0.15, outline)):
            chosen = chance[row] < share
            if chosen.any():
                rgba[chosen] = change(rgba[chosen], generator)
        x = on(rgba, backgrounds(BATCH, rgba.shape[-1], generator, white=0.5))
        x = x + 0.05 * torch.rand(1, generator=generator) * torch.randn(x.shape, generator=generator)
        if torch.rand(1, generator=generator) < 0.3:  # As soft as generated figures are.
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        there = torch.ones(BATCH, 18, 1)
        there[BATCH - n_empty :] = 0
        inside = ((points > 1) & (points < rgba.shape[-1] - 1)).all(2, keepdim=True)
        return x, torch.cat([points, there * inside], 2)


def moved(rgba: Tensor, points: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Zooms, shifts and turns pictures and keypoints (B, 18, 2) alike, each at random."""
    n, size = len(rgba), rgba.shape[-1]
    draw = torch.rand(4, n, generator=generator)
    scale, angle = 0.65 + 0.5 * draw[0], (draw[1] - 0.5) * 0.5
    shift = (draw[2:].T - 0.5) * 0.3
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    theta = torch.cat([turn / scale[:, None, None], shift[:, :, None]], 2)  # From new to old places, in [-1, 1].
    grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
    old = points / (size / 2) - 1
    new = torch.einsum("nji,nkj->nki", turn, old - shift[:, None]) * scale[:, None, None]
    return F.grid_sample(rgba, grid, align_corners=False), (new + 1) * (size / 2)


if __name__ == "__main__":
    main()

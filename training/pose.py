"""The keypoint detector for drawn figures: `segue.pose.network.KeypointNetwork`, trained on heat maps.

Figures are moved, recoloured, outlined and put on backgrounds; one picture in ten is an icon with no heat at all.
Run: `python -m training.pose` (resumes).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.pose.network import KeypointNetwork, heat_maps
from training.augment import Drawings, backgrounds, lay_on, outline, recolour
from training.loop import DEVICE, Course, arguments, autocast, course, generator, train

HOW = course(
    cpu=Course(minutes=7, batch=32, rate=2e-3, ema=0.995),
    gpu=Course(minutes=1, batch=256, rate=2e-3, ema=0.998),
)
EMPTY = 0.1


def main() -> None:
    minutes = arguments(__doc__, HOW.minutes).parse_args().minutes
    torch.manual_seed(0)
    network = KeypointNetwork().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches()

    def loss_of(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        x, points = batches.draw(generator(step))
        with autocast():
            logits = network(x.contiguous(memory_format=torch.channels_last)).float()
        maps = heat_maps(points)
        return (F.binary_cross_entropy_with_logits(logits, maps, reduction="none") * (1 + 20 * maps)).mean(), {}

    train("pose", network, loss_of, HOW, minutes, decay=1e-3)


class Batches:
    """Random pictures (batch, 3, 128, 128) in [-1, 1] and their keypoints (batch, 18, 3), confidence 0 on icons."""

    def __init__(self) -> None:
        self.figures, self.icons = Drawings("figures"), Drawings("icons")
        self.points = torch.tensor([r["keypoints"] for r in self.figures.records], device=DEVICE)
        people = {"man", "woman", "person", "boy", "girl", "people", "men", "women", "child", "family", "couple"}
        self.others = [i for i in self.icons.rows if not set(self.icons.records[i]["concept"].split()) & people]

    def draw(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch and its keypoints."""
        device = random.device
        n_empty = int(HOW.batch * EMPTY)
        n = HOW.batch - n_empty
        rows, empty = (
            [stock[i] for i in torch.randint(len(stock), (count,), generator=random, device=device).tolist()]
            for stock, count in ((self.figures.rows, n), (self.others, n_empty))
        )
        rgba = torch.cat([self.figures[rows], self.icons[empty]])
        points = torch.cat([self.points[rows], torch.zeros(n_empty, 18, 2, device=device)])
        rgba, points = move(rgba, points, random)
        chance = torch.rand(2, HOW.batch, generator=random, device=device)
        for row, share, change in ((0, 0.3, recolour), (1, 0.15, outline)):
            chosen = chance[row] < share
            if chosen.any():
                rgba[chosen] = change(rgba[chosen], random)
        x = lay_on(rgba, backgrounds(HOW.batch, rgba.shape[-1], random, white=0.5))
        strength, soft = torch.rand(2, generator=random, device=device)
        x = x + 0.05 * strength * torch.randn(x.shape, generator=random, device=device)
        if soft < 0.3:  # As soft as generated figures are.
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        there = torch.ones(HOW.batch, 18, 1, device=device)
        there[n:] = 0
        inside = ((points > 1) & (points < rgba.shape[-1] - 1)).all(2, keepdim=True)
        return x, torch.cat([points, there * inside], 2)


def move(rgba: Tensor, points: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Zooms, shifts and turns pictures and keypoints (B, 18, 2) alike, each at random."""
    n, size = len(rgba), rgba.shape[-1]
    draw = torch.rand(4, n, generator=random, device=rgba.device)
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

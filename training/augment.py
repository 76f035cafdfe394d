"""Training pictures: drawings of the data sets, moved, recoloured, outlined at random, on random backgrounds.

A drawing is RGBA with premultiplied alpha in [0, 1]. Random numbers come from the given generator, on its device.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.loop import DEVICE
from training.store import load_array

__all__ = ["Drawings", "backgrounds", "lay_on", "move", "outline", "recolour"]


class Drawings:
    """A data set that may be trained on: on a GPU as a whole, else read from disk as it is drawn."""

    def __init__(self, name: str) -> None:
        self.stored, self.records = load_array(name)
        self.rows = [i for i, record in enumerate(self.records) if not record["held_out"]]
        self.kept = torch.from_numpy(np.array(self.stored)).to(DEVICE) if DEVICE.type == "cuda" else None

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Drawings (n, 4, 128, 128), each of any row."""
        picks = torch.randint(len(self.rows), (n,), generator=generator, device=generator.device).tolist()
        return self[[self.rows[i] for i in picks]]

    def __getitem__(self, rows: list[int]) -> Tensor:
        """The drawings (N, 4, 128, 128) of rows."""
        chosen = torch.from_numpy(self.stored[rows]) if self.kept is None else self.kept[rows]
        rgba = chosen.permute(0, 3, 1, 2).float() / 255
        rgba[:, :3] *= rgba[:, 3:]
        return rgba


def move(rgba: Tensor, zoom: tuple[float, float], shift: float, turn: float, generator: torch.Generator) -> Tensor:
    """Zooms, shifts, turns (radians) and mirrors drawings (B, 4, H, W), each at random."""
    draw = torch.rand(5, len(rgba), generator=generator, device=rgba.device)
    scale = torch.exp(math.log(zoom[0]) + draw[0] * math.log(zoom[1] / zoom[0]))
    angle = (2 * draw[1] - 1) * turn
    flip = torch.where(draw[2] < 0.5, 1.0, -1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    dx, dy = (2 * draw[3] - 1) * shift, (2 * draw[4] - 1) * shift
    theta = torch.stack([torch.stack([cos * flip, -sin * flip, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
    return F.grid_sample(rgba, grid, align_corners=False)


def recolour(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Permutes or inverts the colour channels and changes the contrast of drawings (B, 4, H, W)."""
    n, alpha = len(rgba), rgba[:, 3:]
    draw = torch.rand(5, n, generator=generator, device=rgba.device)[..., None, None, None]
    order = draw[:3, :, 0].argsort(0).transpose(0, 1)  # (B, 3, 1, 1), a permutation for each
    colour = rgba[:, :3].gather(1, order.expand(n, 3, *rgba.shape[2:]))
    colour = torch.where(draw[3] < 0.2, alpha - colour, colour) * (0.6 + 0.4 * draw[4])
    return torch.cat([colour, alpha], 1)


def outline(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Draws dark lines along the edges of alpha and of colour (B, 4, H, W), as inked cartoons have them."""
    n = len(rgba)
    draw = torch.rand(4, n, generator=generator, device=rgba.device)[..., None, None, None]
    shape = torch.where(draw[0] < 0.3, rgba[:, 3:], rgba)  # The alpha's edge only, or all edges.
    edge = F.max_pool2d(shape, 3, 1, 1) + F.max_pool2d(-shape, 3, 1, 1)
    edge = ((edge.amax(1, keepdim=True) - 0.15) * 6).clamp(0, 1)
    edge = torch.where(draw[1] < 1 / 3, F.max_pool2d(edge, 3, 1, 1), edge)
    edge = F.avg_pool2d(edge, 3, 1, 1) * 0.5 + edge * 0.5
    ink = torch.rand(n, 3, 1, 1, generator=generator, device=rgba.device) * 0.3 * (draw[2] < 0.4)
    body = rgba * (draw[3] >= 0.12)
    return torch.cat([edge * ink, edge], 1) + body * (1 - edge)


def backgrounds(n: int, size: int, generator: torch.Generator, white: float = 0.4) -> Tensor:
    """Backgrounds (n, 3, size, size) in [0, 1]: white with the given chance, else plain or a soft gradient."""
    device = generator.device
    draw = torch.rand(3, n, 1, 1, 1, generator=generator, device=device)
    corners = torch.rand(n, 3, 2, 2, generator=generator, device=device) * 0.6 + 0.4
    corners = torch.where(draw[0] < 0.15, corners * 0.35, corners)
    corners = torch.where(draw[1] < 0.5, corners[:, :, :1, :1], corners)
    corners = torch.where(draw[2] < white, 1.0, corners)
    return F.interpolate(corners, (size, size), mode="bilinear", align_corners=True)


def lay_on(rgba: Tensor, background: Tensor) -> Tensor:
    """Puts drawings on backgrounds; the result (B, 3, H, W) is in [-1, 1]."""
    return (rgba[:, :3] + background * (1 - rgba[:, 3:])).clamp(0, 1) * 2 - 1

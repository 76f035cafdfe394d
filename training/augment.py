"""Random pictures from RGBA drawings: moved, recoloured, outlined, on random backgrounds."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["backgrounds", "move", "on", "outline", "recolour"]


def move(rgba: Tensor, zoom: tuple[float, float], shift: float, turn: float, generator: torch.Generator) -> Tensor:
    """Zooms, shifts, turns (radians) and mirrors drawings (B, 4, H, W), premultiplied alpha, each at random."""
    n = len(rgba)
    draw = torch.rand(5, n, generator=generator)
    scale = torch.exp(torch.log(torch.tensor(zoom[0])) + draw[0] * torch.log(torch.tensor(zoom[1] / zoom[0])))
    angle = (2 * draw[1] - 1) * turn
    flip = torch.where(draw[2] < 0.5, 1.0, -1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    dx, dy = (2 * draw[3] - 1) * shift, (2 * draw[4] - 1) * shift
    theta = torch.stack([torch.stack([cos * flip, -sin * flip, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
    return F.grid_sample(rgba, grid, align_corners=False)


def recolour(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Permutes or inverts the colour channels and changes the contrast of drawings with premultiplied alpha."""
    out = rgba.clone()
    for i in range(len(rgba)):
        order = torch.randperm(3, generator=generator)
        out[i, :3] = rgba[i, order]
        draw = torch.rand(2, generator=generator)
        if draw[0] < 0.2:
            out[i, :3] = out[i, 3:] - out[i, :3]
        out[i, :3] = out[i, :3] * (0.6 + 0.4 * draw[1])
    return out


def outline(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Draws dark lines of random width along the edges of alpha and of colour, as inked cartoons have them."""
    out = rgba.clone()
    for i in range(len(rgba)):
        draw = torch.rand(5, generator=generator)
        picture = rgba[i : i + 1]
        if draw[0] < 0.3:  # The alpha's edge only.
            picture = picture[:, 3:]
        edge = F.max_pool2d(picture, 3, 1, 1) + F.max_pool2d(-picture, 3, 1, 1)
        edge = ((edge.amax(1, keepdim=True) - 0.15) * 6).clamp(0, 1)
        width = int(draw[1] * 3)
        if width:
            edge = F.max_pool2d(edge, 2 * width - 1, 1, width - 1)
        edge = F.avg_pool2d(edge, 3, 1, 1) * 0.5 + edge * 0.5
        ink = torch.rand(3, generator=generator) * 0.3 * (draw[2] < 0.4)
        body = rgba[i : i + 1] * (0.0 if draw[3] < 0.12 else 1.0)
        over = torch.cat([edge * ink.view(1, 3, 1, 1), edge], 1)
        out[i] = (over + body * (1 - edge))[0]
    return out


def backgrounds(n: int, size: int, generator: torch.Generator, white: float = 0.4) -> Tensor:
    """Backgrounds (n, 3, size, size) in [0, 1]: white with the given chance, else plain or a soft gradient."""
    draw = torch.rand(n, 2, generator=generator)
    corners = torch.rand(n, 3, 2, 2, generator=generator) * 0.6 + 0.4
    dark = torch.rand(n, 1, 1, 1, generator=generator) < 0.15
    corners = torch.where(dark, corners * 0.35, corners)
    plain = corners[:, :, :1, :1].expand_as(corners)
    corners = torch.where((draw[:, 1] < 0.5).view(n, 1, 1, 1), plain, corners)
    corners = torch.where((draw[:, 0] < white).view(n, 1, 1, 1), torch.ones_like(corners), corners)
    return F.interpolate(corners, (size, size), mode="bilinear", align_corners=True)


def on(rgba: Tensor, background: Tensor) -> Tensor:
    """Puts drawings with premultiplied alpha on backgrounds; the result (B, 3, H, W) is in [-1, 1]."""
    return (rgba[:, :3] + background * (1 - rgba[:, 3:])).clamp(0, 1) * 2 - 1

"""LPIPS, a learned distance of pictures, from its weights alone.

    d(x, y) = sum_l mean_{h, w} sum_c w_lc (u_l(x) - u_l(y))^2_{hwc}

over five layers l of AlexNet or VGG-16, u_l their activations after the ReLU, scaled to length one over the channels.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018,
arXiv 1801.03924; weights of version 0.1. Names are those of the published files: ``features.N`` of torchvision's
network, ``linN.model.1.weight`` of LPIPS.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.errors import SegueError

__all__ = ["activations", "check_weights", "distance"]

Weights = Mapping[str, Tensor]

# Convolutions by their number in torchvision's file with (stride, padding), "pool", and "out" where a layer is read.
_Step = tuple[int, int, int] | str
_ALEX: tuple[_Step, ...] = (
    *((0, 4, 2), "out", "pool", (3, 1, 2), "out", "pool"),
    *((6, 1, 1), "out", (8, 1, 1), "out", (10, 1, 1), "out"),
)
_VGG: tuple[_Step, ...] = (
    *((0, 1, 1), (2, 1, 1), "out", "pool", (5, 1, 1), (7, 1, 1), "out", "pool"),
    *((10, 1, 1), (12, 1, 1), (14, 1, 1), "out", "pool", (17, 1, 1), (19, 1, 1), (21, 1, 1), "out", "pool"),
    *((24, 1, 1), (26, 1, 1), (28, 1, 1), "out"),
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPSILON = 1e-10


def activations(weights: Weights, images: Tensor) -> list[Tensor]:
    """The five layers, each (B, C, h, w) and of length one over C.

    Args:
        weights: the network, float32.
        images: (B, 3, H, W) in [0, 1], at least 31 pixels wide and high with AlexNet.
    """
    alex = weights["features.0.weight"].shape[-1] == 11
    shift, scale = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (_SHIFT, _SCALE))
    x = (images * 2 - 1 - shift) / scale
    found = []
    for step in _ALEX if alex else _VGG:
        if step == "pool":
            x = F.max_pool2d(x, 3 if alex else 2, 2)
        elif isinstance(step, str):
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + _EPSILON))
        else:
            number, stride, padding = step
            kernel, bias = (weights[f"features.{number}.{part}"] for part in ("weight", "bias"))
            x = F.relu(F.conv2d(x, kernel, bias, stride=stride, padding=padding))
    return found


def distance(weights: Weights, first: list[Tensor], second: list[Tensor]) -> Tensor:
    """LPIPS between the activations of two batches of pictures, (B,)."""
    total = torch.zeros(first[0].shape[0], device=first[0].device)
    for i, (u, v) in enumerate(zip(first, second, strict=True)):
        total = total + F.conv2d((u - v).square(), weights[f"lin{i}.model.1.weight"]).mean((1, 2, 3))
    return total


def check_weights(weights: Weights, source: str) -> None:
    """Raise SegueError if the weights are not those of LPIPS with its network."""
    try:
        with torch.no_grad():
            layers = activations(weights, torch.zeros(1, 3, 64, 64))
            distance(weights, layers, layers)
    except (KeyError, RuntimeError) as error:
        raise SegueError(
            f"{source} does not hold LPIPS (features.N of AlexNet or VGG-16 and lin0 to lin4): {error}"
        ) from error

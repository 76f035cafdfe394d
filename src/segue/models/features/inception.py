"""Inception-v3 with the weights that FID stands on, from its weights alone: every kernel's size is its tensor's.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015, arXiv 1512.00567, in the variant of
the weights of 2015-12-05 that FID was defined with: average pools that do not count their padding, a maximum pool in
the last block. Names are those of the published PyTorch file (``pt_inception-2015-12-05-6726825d.pth``).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.errors import SegueError

__all__ = ["DIMENSION", "check_weights", "features"]

DIMENSION = 2048
SIZE = 299
EPSILON = 1e-3

Weights = Mapping[str, Tensor]


def features(weights: Weights, images: Tensor) -> Tensor:
    """The features before the classifier, averaged over the picture: (B, 2048).

    Args:
        weights: the network, float32.
        images: (B, 3, H, W) in [0, 1]; resized to 299 x 299 bilinearly without antialiasing, as pytorch-fid does.
    """
    x = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False) * 2 - 1
    net = _Network(weights)
    # Stem: 299 -> 35.
    x = net(net(net(x, "Conv2d_1a_3x3", stride=2, same=False), "Conv2d_2a_3x3", same=False), "Conv2d_2b_3x3")
    x = F.max_pool2d(x, 3, 2)
    x = net(net(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", same=False)
    x = F.max_pool2d(x, 3, 2)
    # 35 x 35.
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = net.join(
            name, x, ["branch1x1"], ["branch5x5_1", "branch5x5_2"], [f"branch3x3dbl_{i}" for i in (1, 2, 3)], _AVERAGE
        )
    x = net.shrink("Mixed_6a", x, ["branch3x3"], [f"branch3x3dbl_{i}" for i in (1, 2, 3)])
    # 17 x 17.
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = net.join(
            name,
            x,
            ["branch1x1"],
            [f"branch7x7_{i}" for i in (1, 2, 3)],
            [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)],
            _AVERAGE,
        )
    x = net.shrink("Mixed_7a", x, ["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)])
    # 8 x 8.
    for name, pool in (("Mixed_7b", _AVERAGE), ("Mixed_7c", _MAXIMUM)):
        x = net.join(
            name,
            x,
            ["branch1x1"],
            ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
            ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
            pool,
        )
    return x.mean((2, 3))


def check_weights(weights: Weights, source: str) -> None:
    """Raise SegueError if the weights are not those of this network."""
    try:
        with torch.no_grad():
            found = features(weights, torch.zeros(1, 3, 8, 8))
    except (KeyError, RuntimeError) as error:
        raise SegueError(f"{source} does not hold Inception-v3 in its published names: {error}") from error
    if found.shape != (1, DIMENSION):
        raise SegueError(f"{source} is an Inception-v3 of {found.shape[1]} features, not {DIMENSION}")


_AVERAGE, _MAXIMUM = "average", "maximum"
_Chain = Sequence[str | tuple[str, str]]


class _Network:
    """The weights, and how a layer of theirs is applied."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __call__(self, x: Tensor, name: str, *, stride: int = 1, same: bool = True) -> Tensor:
        """Convolution, batch norm with the stored moments, ReLU; "same" keeps the size."""
        kernel = self.weights[f"{name}.conv.weight"]
        padding = (kernel.shape[2] // 2, kernel.shape[3] // 2) if same else (0, 0)
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        mean, variance, scale, shift = (
            self.weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, variance, scale, shift, eps=EPSILON))

    def join(self, block: str, x: Tensor, *parts: _Chain | str) -> Tensor:
        """Several chains of layers on the same input, and a pool, one after the other in channels."""
        found: list[Tensor] = []
        for part in parts:
            if isinstance(part, str):
                pooled = (
                    F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if part == _AVERAGE else F.max_pool2d(x, 3, 1, 1)
                )
                found.append(self(pooled, f"{block}.branch_pool"))
                continue
            y = x
            for layer in part:
                names = (layer,) if isinstance(layer, str) else layer
                y = torch.cat([self(y, f"{block}.{name}") for name in names], 1)
            found.append(y)
        return torch.cat(found, 1)

    def shrink(self, block: str, x: Tensor, *chains: list[str]) -> Tensor:
        """Chains whose last layer halves the size, and a maximum pool that does."""
        found: list[Tensor] = []
        for chain in chains:
            y = x
            for layer in chain[:-1]:
                y = self(y, f"{block}.{layer}")
            found.append(self(y, f"{block}.{chain[-1]}", stride=2, same=False))
        return torch.cat([*found, F.max_pool2d(x, 3, 2)], 1)

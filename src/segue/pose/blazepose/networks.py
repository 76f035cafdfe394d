"""BlazePose's two networks: one finds people, one finds the 33 landmarks of a person.

Bazarevsky et al. (BlazePose: On-device Real-time Body Pose tracking, 2020, https://arxiv.org/abs/2006.10204). Both are
inverted residuals (Sandler et al., MobileNetV2, 2018, https://arxiv.org/abs/1801.04381) without normalisation, and a
path from coarse maps back to fine ones. The weights, in float16 beside this file, are those of `pose_detection.tflite`
and `pose_landmark_full.tflite` in the package mediapipe 0.10.21 (Apache-2.0); `training/blazepose.py` reads them there.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["BOX_SIZE", "LANDMARK_SIZE", "Detector", "Landmarks", "load_detector", "load_landmarks"]

BOX_SIZE, LANDMARK_SIZE = 224, 256  # sides of the pictures that the two networks take

_FOLDER = Path(__file__).parent

Network = TypeVar("Network", bound=nn.Module)


class Detector(nn.Module):
    """Where people are: pictures (B, 3, 224, 224) in [-1, 1] to 2254 candidates of a person each.

    The candidates lie on grids of 28, 14 and 7 cells a side, with 2, 2 and 6 candidates to a cell.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(  # to 28 x 28
            *_stem(),
            _Inverted(16, 64, 24, stride=2),
            _Inverted(24, 144, 24),
            _Inverted(24, 144, 40, kernel=5, stride=2),
            _Inverted(40, 240, 40, kernel=5),
        )
        self.middle = nn.Sequential(  # to 14 x 14
            _Inverted(40, 240, 80, stride=2),
            *(_Inverted(80, 480, 80) for _ in range(2)),
            _Inverted(80, 480, 112, kernel=5),
            *(_Inverted(112, 672, 112, kernel=5) for _ in range(2)),
        )
        self.coarse = nn.Sequential(  # to 7 x 7
            _Inverted(112, 672, 192, kernel=5, stride=2),
            *(_Inverted(192, 1152, 192, kernel=5) for _ in range(3)),
            *_expansion(192, 1152),
        )
        separable = partial(_separable, inner=None)
        self.beside_fine, self.beside_middle = separable(40, 96), separable(112, 192)
        self.to_middle, self.to_fine = (
            nn.Sequential(_conv(*widths), nn.ReLU6()) for widths in ((1152, 192), (192, 96))
        )
        self.refine_middle = nn.Sequential(*(_Residual(192, inner=None) for _ in range(2)))
        self.refine_fine = nn.Sequential(*(_Residual(96, inner=None) for _ in range(2)))
        grids = ((24, 2), (48, 2), (288, 6))  # channels, and candidates to a cell
        self.scores = nn.ModuleList(separable(width, count, stride=2, outer=None) for width, count in grids)
        self.boxes = nn.ModuleList(separable(width, 12 * count, stride=2, outer=None) for width, count in grids)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and places of the candidates.

        Returns:
            logits of the scores, (B, 2254), and (B, 2254, 12): middle x and y, width and height of a box, and x and y
            of four points, in pixels of the picture from the middle of the candidate's cell.
        """
        fine = self.fine(pictures)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.refine_middle(self.beside_middle(middle) + self.to_middle(_double(coarse)))
        fine = self.refine_fine(self.beside_fine(fine) + self.to_fine(_double(middle)))
        maps = [_spread(grid) for grid in (fine, middle, coarse)]
        scores = [_list_candidates(head(grid), 1) for head, grid in zip(self.scores, maps, strict=True)]
        boxes = [_list_candidates(head(grid), 12) for head, grid in zip(self.boxes, maps, strict=True)]
        return torch.cat(scores, dim=1)[..., 0], torch.cat(boxes, dim=1)


class Landmarks(nn.Module):
    """How a person stands: crops (B, 3, 256, 256) in [0, 1] with one upright person each to 39 landmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*_stem(), _Inverted(16, 64, 24, stride=2), _Inverted(24, 144, 24)),  # to 64 x 64
                nn.Sequential(_Inverted(24, 144, 32, kernel=5, stride=2), _Inverted(32, 192, 32, kernel=5)),
                nn.Sequential(
                    _Inverted(32, 192, 64, stride=2),
                    *(_Inverted(64, 384, 64) for _ in range(2)),
                    _Inverted(64, 384, 88, kernel=5),
                    *(_Inverted(88, 528, 88, kernel=5) for _ in range(2)),
                ),
                nn.Sequential(  # to 8 x 8
                    _Inverted(88, 528, 144, kernel=5, stride=2),
                    *(_Inverted(144, 864, 144, kernel=5) for _ in range(3)),
                    *_expansion(144, 864),
                ),
            ]
        )
        self.beside = nn.ModuleList(_separable(width, 48) for width in (24, 32, 88, 864))
        self.heat_maps = _conv(48, 39)
        self.summary = nn.Sequential(
            _separable(864, 288),
            _Halving(288),
            *(_Residual(288) for _ in range(4)),
            _Halving(288),
            *(_Residual(288) for _ in range(5)),
        )
        self.landmarks, self.present = nn.Conv2d(288, 195, 2), nn.Conv2d(288, 1, 2)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Landmarks, whether there is a person at all, and heat maps that make the landmarks finer.

        Returns:
            (B, 39, 5): x, y and depth in pixels of the crop, logits of being visible and of lying in the crop; the
            probability of a person, (B,); logits of heat maps, (B, 39, 64, 64).
        """
        scales = []
        x = crops
        for stage in self.stages:
            x = stage(x)
            scales.append(x)
        maps = [beside(scale) for beside, scale in zip(self.beside, scales, strict=True)]
        finest = maps.pop()
        while maps:
            finest = _double(finest) + maps.pop()
        summary = self.summary(x)
        landmarks = self.landmarks(summary).reshape(-1, 39, 5)
        return landmarks, self.present(summary).flatten().sigmoid(), self.heat_maps(finest)


def load_detector() -> Detector:
    """The network that finds people, with its weights; in float32, on the CPU, in evaluation mode."""
    return _load(Detector(), "detector")


def load_landmarks() -> Landmarks:
    """The network that finds landmarks; as ``load_detector``."""
    return _load(Landmarks(), "landmarks")


def _load(network: Network, name: str) -> Network:
    network.load_state_dict(load_file(_FOLDER / f"{name}.safetensors"))
    return network.eval().requires_grad_(False)


def _conv(width: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, groups=groups)


Activation = Callable[[], nn.Module] | None


def _separable(
    width: int, out: int, stride: int = 1, inner: Activation = nn.ReLU6, outer: Activation = nn.ReLU6
) -> nn.Sequential:
    """A 3 x 3 convolution of each channel by itself, and one of all channels at each place."""
    layers = [_conv(width, width, 3, stride, groups=width), inner and inner(), _conv(width, out), outer and outer()]
    return nn.Sequential(*(layer for layer in layers if layer))


def _stem() -> tuple[nn.Module, ...]:
    """Pictures to 16 channels at half their size."""
    return _conv(3, 24, 3, stride=2), nn.ReLU6(), _separable(24, 16, outer=None)


def _expansion(width: int, inner: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    """More channels, and a convolution of each by itself."""
    return _conv(width, inner), nn.ReLU6(), _conv(inner, inner, kernel, stride, groups=inner), nn.ReLU6()


class _Inverted(nn.Module):
    """An inverted residual: more channels, a convolution of each by itself, fewer channels."""

    def __init__(self, width: int, inner: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_expansion(width, inner, kernel, stride), _conv(inner, out))
        self.added = width == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y + x if self.added else y


class _Residual(nn.Module):
    """A separable convolution beside the identity."""

    def __init__(self, width: int, inner: Activation = nn.ReLU6) -> None:
        super().__init__()
        self.layers = _separable(width, width, inner=inner, outer=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + self.layers(x))


class _Halving(nn.Module):
    """A separable convolution to half the size beside the largest of each 2 x 2 cells.

    Its first window begins in the upper left corner, where the other strided convolutions begin one pixel outside.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, groups=width), nn.ReLU6(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(F.max_pool2d(x, 2) + self.layers(F.pad(x, (0, 1, 0, 1))))


def _double(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear")


def _spread(maps: Tensor) -> Tensor:
    """Four channels to four pixels, (B, 4 C, H, W) to (B, C, 2 H, 2 W); the pixels are the slower part of a channel."""
    batch, channels, height, width = maps.shape
    maps = maps.reshape(batch, 2, 2, channels // 4, height, width)
    return maps.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // 4, 2 * height, 2 * width)


def _list_candidates(maps: Tensor, numbers: int) -> Tensor:
    """The numbers of each candidate, (B, H W candidates, numbers), row by row."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, numbers)

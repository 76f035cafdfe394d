"""A small network that finds the 18 keypoints of one figure, and what its training and its use share.

Heat maps (Tompson et al., Joint Training of a Convolutional Network and a Graphical Model for Human Pose Estimation,
2014, https://arxiv.org/abs/1406.2984) over one hourglass (Newell et al., Stacked Hourglass Networks for Human Pose
Estimation, 2016, https://arxiv.org/abs/1603.06937): a picture of 128 x 128 becomes 18 maps of 32 x 32. Map k is high
where keypoint k lies. Coordinates are continuous: the middle of cell (i, j) is at x = 4 (j + 1/2), y = 4 (i + 1/2).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segue.errors import SegueError
from segue.files import write_json, writing
from segue.pose.keypoints import KEYPOINTS

__all__ = ["CELL", "MAP_SIZE", "PICTURE_SIZE", "KeypointNetwork", "heat_maps", "load", "peaks", "save"]

PICTURE_SIZE = 128
MAP_SIZE = 32
CELL = PICTURE_SIZE // MAP_SIZE  # pixels of the picture to a cell of the maps

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_GROUPS = 8  # of the normalisation, which must not depend on the batch

_EMPTY = -4.0  # logit of a map's cell before training: nearly all cells are far from any keypoint


class KeypointNetwork(nn.Module):
    """Pictures (B, 3, 128, 128) in [-1, 1] to logits of heat maps (B, 18, 32, 32).

    Train its logits towards ``heat_maps`` with a binary cross-entropy; read them with ``peaks``. 1.3 million
    parameters with the default widths.

    Args:
        widths: channels at 32 x 32, at 16 x 16 and at 8 x 8, multiples of 8.
        threshold: least confidence of a keypoint that counts as found.
        least_keypoints: with fewer keypoints than that found, nobody is in the picture.
    """

    def __init__(self, widths: Sequence[int] = (64, 96, 128), threshold: float = 0.3, least_keypoints: int = 6) -> None:
        super().__init__()
        self.widths, self.threshold, self.least_keypoints = tuple(widths), threshold, least_keypoints
        high, middle, low = self.widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, high // 2, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(high // 2, high, 3, stride=2, padding=1),
            _Residual(high),
        )
        self.down = nn.Sequential(nn.Conv2d(high, middle, 3, stride=2, padding=1), _Residual(middle))
        self.bottom = nn.Sequential(
            nn.Conv2d(middle, low, 3, stride=2, padding=1), _Residual(low), _Residual(low), nn.Conv2d(low, middle, 1)
        )
        self.up = nn.Sequential(_Residual(middle), nn.Conv2d(middle, high, 1))
        last = nn.Conv2d(high, len(KEYPOINTS), 1)
        nn.init.constant_(last.bias, _EMPTY)  # type: ignore[arg-type]
        self.head = nn.Sequential(_Residual(high), nn.SiLU(), last)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of the heat maps, (B, 18, 32, 32)."""
        fine = self.stem(pictures)
        coarse = self.down(fine)
        coarse = coarse + F.interpolate(self.bottom(coarse), scale_factor=2.0, mode="bilinear")
        fine = fine + F.interpolate(self.up(coarse), scale_factor=2.0, mode="bilinear")
        logits: Tensor = self.head(fine)
        return logits


class _Residual(nn.Module):
    """Two normalised 3 x 3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)  # type: ignore[no-any-return]


def heat_maps(points: Tensor, spread: float = 1.5) -> Tensor:
    """The maps that the network should give: a Gaussian of height 1 over each keypoint that is there.

    Args:
        points: (B, 18, 3), x and y in pixels of the 128 x 128 picture, and confidence (0: an empty map).
        spread: the Gaussian's standard deviation in cells.

    Returns:
        (B, 18, 32, 32) in [0, 1], of the points' dtype and device.
    """
    centres = torch.arange(MAP_SIZE, dtype=points.dtype, device=points.device) + 0.5
    across = (centres - points[..., 0:1] / CELL) ** 2  # (B, 18, 32)
    down = (centres - points[..., 1:2] / CELL) ** 2
    maps = torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * spread**2))
    return maps * (points[..., 2] > 0)[..., None, None]


def peaks(logits: Tensor) -> Tensor:
    """Each map's highest place, finer than a cell, and its height.

    The logarithm of a Gaussian is a parabola: one through the highest cell and its two neighbours, in each direction,
    has its top at the keypoint.

    Args:
        logits: (B, 18, 32, 32), the network's output.

    Returns:
        (B, 18, 3): x and y in pixels of the 128 x 128 picture, and the confidence, sigmoid of the highest logit.
    """
    maps = logits.double()
    width = maps.shape[-1]
    highest, place = maps.flatten(2).max(dim=2)
    row, column = place // width, place % width
    logs = F.pad(F.logsigmoid(maps), (1, 1, 1, 1), value=float("nan")).flatten(2)
    middle = (row + 1) * (width + 2) + column + 1

    def log_at(step: int) -> Tensor:
        return logs.gather(2, (middle + step)[..., None])[..., 0]

    def offset(step: int) -> Tensor:
        before, here, after = log_at(-step), log_at(0), log_at(step)
        top = (after - before) / (2 * (2 * here - before - after))
        return top.nan_to_num(0.0, 0.0, 0.0).clamp(-0.5, 0.5)  # at the border and on a plateau: the cell's middle

    x = (column + 0.5 + offset(1)) * CELL
    y = (row + 0.5 + offset(width + 2)) * CELL
    return torch.stack([x, y, highest.sigmoid()], dim=2).to(logits.dtype)


def save(network: KeypointNetwork, folder: str | Path) -> None:
    """Write config.json and model.safetensors into a folder, which is made if it is not there.

    Raises:
        SegueError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegueError(f"{folder}: {error.strerror or error}") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with writing(folder / _WEIGHTS) as temporary:
        save_file(tensors, temporary)
    config = {
        "widths": list(network.widths),
        "threshold": network.threshold,
        "least_keypoints": network.least_keypoints,
    }
    write_json(folder / _CONFIG, config)


def load(folder: str | Path) -> KeypointNetwork:
    """Read what ``save`` wrote; in float32, on the CPU, in evaluation mode.

    Raises:
        SegueError: files are missing or are not such a network.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / _CONFIG).read_bytes())
        network = KeypointNetwork(**config)
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except OSError as error:
        raise SegueError(f"{folder} has no keypoint network: {error.strerror or error}") from error
    except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SegueError(f"{folder} does not hold a keypoint network: {reason}") from error
    return network.float().eval()

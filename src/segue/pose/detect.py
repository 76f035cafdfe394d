"""Detectors: from a picture to the people in it, behind one function.

- `pocket`: the embedded keypoint network, for drawn figures; one person.
- `blazepose`: BlazePose (Bazarevsky et al., 2020, https://arxiv.org/abs/2006.10204), embedded too, for photographs.
- `rtmlib`: RTMPose (Jiang et al., 2023, https://arxiv.org/abs/2303.07399) in the package rtmlib, of the extra `pose`.

Without a name, pocket's figure counts where pocket's network is sure of one, and BlazePose's people elsewhere. Nothing
is downloaded unless asked for: without rtmlib's local weights the error names the command that fetches them.
"""

from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from segue.errors import SegueError
from segue.pictures.images import Placement, placement
from segue.pose import blazepose
from segue.pose.found import Detect, keep_sure
from segue.pose.keypoints import Pose
from segue.pose.network import PICTURE_SIZE, KeypointNetwork, heat_maps, load, peaks, save

__all__ = [
    "DETECTORS",
    "Detect",
    "Detector",
    "KeypointNetwork",
    "detect",
    "detector_of",
    "heat_maps",
    "load",
    "network_detector",
    "peaks",
    "pocket_network",
    "save",
]

Detector = Literal["pocket", "blazepose", "rtmlib"]
DETECTORS: tuple[Detector, ...] = get_args(Detector)

# Least mean confidence of the keypoints of a figure that pocket finds. With a drawn figure in the picture it is 0.81 or
# more, without one 0.66 or less, and in photographs of people pocket finds nobody (python -m benchmarks.detectors).
DRAWN = 0.75

POCKET = Path(__file__).parents[1] / "models" / "pocket" / "pose"


def detect(image: Image.Image, detector: Detector | None = None, *, download: bool = False) -> Pose:
    """Find the people in a picture.

    Args:
        image: the picture, in any mode; transparency is ignored.
        detector: which one; see this module's introduction.
        download: fetch rtmlib's weights if they are not there.

    Returns:
        the people in pixels of the picture; none when nobody is found. Keypoints that the detector is not sure of, or
        that it puts outside the picture, are not there.

    Raises:
        SegueError: an unknown detector, or its package or weights are missing; the message says how to get them.
    """
    return detector_of(detector, download=download)(image)


def detector_of(name: Detector | None = None, *, download: bool = False) -> Detect:
    """Load a detector once, for many pictures; arguments and errors as in ``detect``."""
    if name is None:
        return _detect_surer
    if name == "pocket":
        return network_detector(pocket_network())
    if name == "blazepose":
        return blazepose.find
    if name == "rtmlib":
        from segue.pose import rtm

        return rtm.load(download)
    raise SegueError(f"pose_detector {name!r} is unknown; choose from {', '.join(DETECTORS)}")


def _detect_surer(image: Image.Image) -> Pose:
    """Pocket's figure where its network is sure that one is drawn, else the people that BlazePose finds."""
    if (POCKET / "config.json").is_file():
        drawn = network_detector(pocket_network())(image)
        if any(person.points[person.visible, 2].mean() >= DRAWN for person in drawn.people):
            return drawn
    return blazepose.find(image)


def network_detector(network: KeypointNetwork) -> Detect:
    """A detector from a keypoint network: at most one person."""

    def find(image: Image.Image) -> Pose:
        picture, place = _frame(image.convert("RGB"))
        weight = next(network.parameters())
        with torch.inference_mode():
            points = peaks(network(picture.to(weight.device, weight.dtype)).float())[0].double().cpu().numpy()
        points[:, :2] = (points[:, :2] - place.offset) / place.scale
        return keep_sure(
            points[None, :, :2], points[None, :, 2], image.size, network.threshold, network.least_keypoints
        )

    return find


def pocket_network() -> KeypointNetwork:
    """Pocket's keypoint network, loaded once.

    Raises:
        SegueError: this pocket has none.
    """
    return _reuse_network(POCKET)


@lru_cache(maxsize=1)
def _reuse_network(folder: Path) -> KeypointNetwork:
    if not (folder / "config.json").is_file():
        raise SegueError("this pocket has no pose network; give pose files, or use --pose-detector blazepose or rtmlib")
    return load(folder)


def _frame(image: Image.Image) -> tuple[torch.Tensor, Placement]:
    """The picture in the middle of the network's square, its edges repeated around it.

    Returns:
        (1, 3, 128, 128) in [-1, 1], and where the square has each point of the picture.
    """
    place = placement(image.size, (PICTURE_SIZE, PICTURE_SIZE), "contain")
    width, height = (round(scale * side) for scale, side in zip(place.scale, image.size, strict=True))
    left, top = (int(offset) for offset in place.offset)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))
    around = ((top, PICTURE_SIZE - height - top), (left, PICTURE_SIZE - width - left), (0, 0))
    pixels = np.pad(pixels, around, mode="edge")
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1, place

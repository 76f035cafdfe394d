"""The detector `rtmlib`: YOLOX boxes and RTMPose keypoints, by onnxruntime."""

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError
from segue.pose.found import Detect, keep_sure
from segue.pose.keypoints import Pose

__all__ = ["load", "to_pose"]

_MODE = "balanced"
# Where rtmlib finds nobody it takes the whole picture for one person; the mean score of such a person is low.
_THRESHOLD, _LEAST_KEYPOINTS, _LEAST_SCORE = 0.3, 4, 0.3
_COMMAND = "segue pose PICTURE --detector rtmlib --download"


def load(download: bool) -> Detect:
    """Load the networks; see ``segue.pose.detect.detector_of``."""
    try:
        import rtmlib
        from rtmlib.tools.file import download_checkpoint
    except ImportError as error:
        raise SegueError(f"the detector rtmlib needs a package: pip install 'segue[pose]' ({error})") from error
    sizes = rtmlib.Body.MODE[_MODE]
    paths = {}
    for part in ("det", "pose"):
        path = _folder() / f"{Path(sizes[part]).stem}.onnx"
        if not path.is_file():
            if not download:
                raise SegueError(f"the weights of the detector rtmlib are missing; fetch them: {_COMMAND}")
            path = _download(download_checkpoint, sizes[part])
        paths[part] = str(path)
    with redirect_stdout(StringIO()):  # rtmlib prints what it loads, where a pose may be printed
        body = rtmlib.Body(
            det=paths["det"],
            det_input_size=sizes["det_input_size"],
            pose=paths["pose"],
            pose_input_size=sizes["pose_input_size"],
            mode=_MODE,
            to_openpose=True,
            backend="onnxruntime",
            device="cpu",
        )

    def find(image: Image.Image) -> Pose:
        rgb = np.asarray(image.convert("RGB"))
        keypoints, scores = body(np.ascontiguousarray(rgb[:, :, ::-1]))  # OpenCV's order: blue, green, red
        return to_pose(keypoints, scores, image.size)

    return find


def to_pose(keypoints: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]], size: tuple[int, int]) -> Pose:
    """What rtmlib's ``Body(to_openpose=True)`` returns, as a pose.

    Args:
        keypoints: (N, 18, 2), x and y in pixels.
        scores: (N, 18); the made-up person of a picture with nobody has a low mean score and is left out.
        size: width and height of the picture.
    """
    points = np.asarray(keypoints, dtype=np.float64)[..., :2]
    return keep_sure(points, np.asarray(scores, np.float64), size, _THRESHOLD, _LEAST_KEYPOINTS, _LEAST_SCORE)


def _folder() -> Path:
    """The folder where rtmlib itself keeps weights, so that weights that it fetched before are found."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/rtmlib")).expanduser() / "hub" / "checkpoints"


def _download(download_checkpoint: Any, address: str) -> Path:
    try:
        return Path(cast(str, download_checkpoint(address, dst_dir=str(_folder()))))
    except Exception as error:  # the network's and the archive's many kinds of error
        reason = " ".join(str(error).split())[:120]
        raise SegueError(f"the weights of the detector rtmlib could not be fetched from {address}: {reason}") from error

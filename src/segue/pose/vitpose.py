"""The detector `vitpose`: RT-DETR's boxes of people and ViTPose's keypoints, by transformers."""

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from segue.errors import SegueError
from segue.pose.found import Detect, sure
from segue.pose.keypoints import NECK, Pose

__all__ = ["BOXES", "KEYPOINTS", "from_coco", "load", "with_networks"]

BOXES = "PekingU/rtdetr_r50vd_coco_o365"
KEYPOINTS = "usyd-community/vitpose-base-simple"

_BOX_THRESHOLD, _THRESHOLD, _LEAST_KEYPOINTS = 0.5, 0.3, 4
_COMMAND = "segue pose PICTURE --detector vitpose --download"

# COCO's joint for each of the 18 keypoints; the neck is the mean of the shoulders, COCO's 5 and 6.
_COCO = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_SHOULDERS = [5, 6]


def load(download: bool, boxes: str = BOXES, keypoints: str = KEYPOINTS) -> Detect:
    """Load the networks; see ``segue.pose.detect.detector_of``.

    Args:
        download: fetch what is not there.
        boxes: name or folder of an RT-DETR checkpoint.
        keypoints: name or folder of a ViTPose checkpoint.
    """
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise SegueError(f"the detector vitpose needs a package: pip install 'segue[pose]' ({error})") from error
    local: dict[str, Any] = {"local_files_only": not download}
    weights = {**local, "use_safetensors": True, "dtype": torch.float32}
    try:
        return with_networks(
            _processor("RTDetrImageProcessor").from_pretrained(boxes, **local),
            transformers.RTDetrForObjectDetection.from_pretrained(boxes, **weights),
            _processor("VitPoseImageProcessor").from_pretrained(keypoints, **local),
            transformers.VitPoseForPoseEstimation.from_pretrained(keypoints, **weights),
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        if download:
            raise SegueError(f"the weights of the detector vitpose could not be fetched: {reason}") from error
        raise SegueError(f"the weights of the detector vitpose are not here; fetch them: {_COMMAND}") from error


def with_networks(box_processor: Any, box_network: Any, processor: Any, network: Any) -> Detect:
    """A detector from loaded networks of transformers and their image processors."""
    person = next(i for i, label in box_network.config.id2label.items() if label == "person")
    box_network.eval()
    network.eval()

    def found(image: Image.Image) -> Pose:
        image = image.convert("RGB")
        with torch.inference_mode():
            outputs = box_network(**box_processor(images=image, return_tensors="pt"))
            size = torch.tensor([(image.height, image.width)])
            result = box_processor.post_process_object_detection(outputs, _BOX_THRESHOLD, size)[0]
            boxes = _as_coco(result["boxes"][result["labels"] == person])
            if not len(boxes):
                return Pose((), *image.size)
            inputs = processor(image, boxes=[boxes], return_tensors="pt")
            results = processor.post_process_pose_estimation(network(**inputs), boxes=[boxes])[0]
        joints = np.stack([result["keypoints"].double().numpy() for result in results])
        scores = np.stack([result["scores"].double().numpy() for result in results])
        return sure(*from_coco(joints, scores), image.size, _THRESHOLD, _LEAST_KEYPOINTS)

    return found


def from_coco(
    joints: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """COCO's 17 joints as OpenPose's 18 keypoints.

    Args:
        joints: (N, 17, 2), x and y.
        scores: (N, 17).

    Returns:
        (N, 18, 2) and (N, 18); the neck is the mean of the shoulders, with the lower of their scores.
    """
    points, confidences = joints[:, _COCO], scores[:, _COCO]
    points[:, NECK] = joints[:, _SHOULDERS].mean(axis=1)
    confidences[:, NECK] = scores[:, _SHOULDERS].min(axis=1)
    return points, confidences


def _processor(name: str) -> Any:
    """The image processor that needs no torchvision; before transformers 5 it had no name of its own."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def _as_coco(boxes: torch.Tensor) -> NDArray[np.float32]:
    """Left, top, right, bottom to left, top, width, height; (N, 4)."""
    array: NDArray[np.float32] = boxes.numpy().astype(np.float32)
    array[:, 2:] -= array[:, :2]
    return array

"""What detectors have in common: their type, and what of their output is kept."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.pose.keypoints import Person, Pose

__all__ = ["Detect", "keep_sure"]

Detect = Callable[[Image.Image], Pose]


def keep_sure(
    points: NDArray[np.float64],
    scores: NDArray[np.float64],
    size: tuple[int, int],
    threshold: float,
    least_keypoints: int,
    least_score: float = 0.0,
) -> Pose:
    """Keep the keypoints and people that a detector is sure of.

    Args:
        points: (N, 18, 2), x and y in pixels, of N people.
        scores: (N, 18), their confidences.
        size: the picture's width and height; keypoints outside are not there.
        threshold: least confidence of a keypoint.
        least_keypoints: fewest keypoints of a person.
        least_score: least mean confidence of a person, over all 18 keypoints, unsure ones included.
    """
    people = []
    for xy, score in zip(points, scores, strict=True):
        finite = np.isfinite(xy).all(axis=1) & np.isfinite(score)
        inside = finite & (xy >= 0).all(axis=1) & (xy <= size).all(axis=1)
        there = inside & (score >= max(threshold, np.finfo(np.float64).tiny))
        if there.sum() >= max(least_keypoints, 1) and score[finite].clip(0, 1).mean() >= least_score:
            person = np.zeros((len(score), 3))
            person[there] = np.column_stack([xy, score])[there]
            people.append(Person(person))
    return Pose(tuple(people), *size)

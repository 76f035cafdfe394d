"""How far apart the frames of a film are, by a network's features: to their neighbours, and to the keyframes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "SequencePath", "path_of_features"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SequencePath:
    """The distances along one sequence of F frames, keyframes included.

    Attributes:
        steps: (F - 1,) distances between neighbours, d_i.
        to_first: (F,) distances to the first keyframe, r_i (r_0 = 0).
        to_last: (F,) distances to the last keyframe, q_i (q_N = 0).
    """

    steps: Array
    to_first: Array
    to_last: Array


def path_of_features(features: Array) -> SequencePath:
    """The Euclidean distances along a sequence of features, (F, D)."""
    return SequencePath(
        steps=np.linalg.norm(np.diff(features, axis=0), axis=1),
        to_first=np.linalg.norm(features - features[0], axis=1),
        to_last=np.linalg.norm(features - features[-1], axis=1),
    )

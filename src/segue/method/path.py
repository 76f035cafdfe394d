"""The conditioning of every place of a film: embeddings that are fixed at some places, and blended between them.

With c_i, c_j the embeddings at the two anchors around a place s, at weight w of the second,

    c_s = slerp(c_i, c_j, w),

on the whole embedding (as in the paper's released code), on each token's vector, or linearly instead. Negative
embeddings are blended alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from segue.method.conditioning import Conditioning
from segue.method.tree import find_ends

__all__ = ["ConditioningPath"]


@dataclass(frozen=True)
class ConditioningPath:
    """Piecewise blend over the film: ``path(place)`` is the conditioning of a place, a batch of one.

    Attributes:
        anchors: places and the conditioning that holds there exactly, a batch of one each, in the order of the film.
        mode: "whole", "token" or "linear".
    """

    anchors: Sequence[tuple[Fraction, Conditioning]]
    mode: Literal["whole", "token", "linear"] = "whole"

    def __post_init__(self) -> None:
        places = [place for place, _ in self.anchors]
        if not places or any(left >= right for left, right in zip(places, places[1:], strict=False)):
            raise ValueError("the anchors of a path are one or more places in rising order")

    def __call__(self, place: Fraction) -> Conditioning:
        """The conditioning of a place; before the first anchor and after the last one it is held."""
        i, j, weight = find_ends(place, [anchor for anchor, _ in self.anchors])
        left, right = self.anchors[i][1], self.anchors[j][1]
        if weight == 0:
            return left
        return left.blend(right, float(weight), per_token=self.mode == "token", linear=self.mode == "linear")

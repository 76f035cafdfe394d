import math
from fractions import Fraction

import pytest
import torch

from segue.fade import Fade
from segue.tree import FrameKey


def test_a_loss_fades_with_the_distance_from_its_keyframe() -> None:
    residuals = {FrameKey(0): torch.full((3, 2, 2), 0.4), FrameKey(1): torch.full((3, 2, 2), -0.2)}
    fade = Fade(residuals, 0.25)
    image = torch.zeros(3, 2, 2)
    at = {place: float(fade(FrameKey(0, Fraction(place)), image)[0, 0, 0]) for place in ("1/8", "1/4", "1/2", "15/16")}
    assert at["1/8"] == pytest.approx(0.4 * 0.5)
    assert at["1/4"] == at["1/2"] == 0
    assert at["15/16"] == pytest.approx(-0.2 * (1 + math.cos(math.pi / 4)) / 2)


def test_a_frame_in_the_reach_of_both_gets_both_and_stays_in_range() -> None:
    fade = Fade({FrameKey(i): torch.full((3, 1, 1), 0.8) for i in (2, 3)}, 1.0)
    assert float(fade(FrameKey(2, Fraction(1, 2)), torch.zeros(3, 1, 1))[0]) == pytest.approx(0.8)
    assert float(fade(FrameKey(2, Fraction(1, 2)), torch.full((3, 1, 1), 0.5))[0]) == 1


def test_no_reach_leaves_the_image() -> None:
    image = torch.rand(3, 2, 2)
    assert torch.equal(Fade({}, 0.0)(FrameKey(0, Fraction(1, 4)), image), image)

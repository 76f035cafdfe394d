from fractions import Fraction

import pytest
import torch

from segue.method.colour import ColourMatch, low_frequencies
from segue.method.tree import FrameKey


def test_a_frame_that_drifted_gets_the_colours_between_its_keyframes() -> None:
    plain = {FrameKey(0): torch.full((3, 16, 16), -0.2), FrameKey(1): torch.full((3, 16, 16), 0.6)}
    detail = 0.1 * (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5)
    drifted = 0.9 + detail - low_frequencies(detail)
    matched = ColourMatch(plain, 1.0)(FrameKey(0, Fraction(1, 4)), drifted)
    assert matched.mean().item() == pytest.approx(0.75 * -0.2 + 0.25 * 0.6, abs=0.01)
    assert torch.allclose(matched - matched.mean(), drifted - drifted.mean(), atol=0.03)  # the detail stays
    half = ColourMatch(plain, 0.5)(FrameKey(0, Fraction(1, 4)), drifted)
    assert half.mean().item() == pytest.approx((matched.mean() + drifted.mean()).item() / 2, abs=0.01)


def test_no_strength_leaves_the_image() -> None:
    image = torch.rand(3, 8, 8)
    assert ColourMatch({}, 0.0)(FrameKey(0, Fraction(1, 2)), image) is image

from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny import text_conditioning

from segue.method.conditioning import Conditioning
from segue.method.path import ConditioningPath


def words(seed: int, negative: int = 100) -> Conditioning:
    """A batch of one: 5 tokens of 8 numbers."""

    def draw(number: int) -> torch.Tensor:
        return torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(number)) * (number % 3 + 1)

    return text_conditioning(draw(seed), draw(negative))


def slerp(a: np.ndarray, b: np.ndarray, w: float) -> np.ndarray:
    """Shoemake's formula, for two vectors."""
    omega = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return np.asarray((np.sin((1 - w) * omega) * a + np.sin(w * omega) * b) / np.sin(omega))


def expected(a: torch.Tensor, b: torch.Tensor, w: float, mode: str) -> np.ndarray:
    x, y = a[0].double().numpy(), b[0].double().numpy()
    if mode == "linear":
        return (1 - w) * x + w * y
    if mode == "token":
        return np.stack([slerp(x[i], y[i], w) for i in range(len(x))])
    return slerp(x.ravel(), y.ravel(), w).reshape(x.shape)


MODES: tuple[Literal["whole", "token", "linear"], ...] = ("whole", "token", "linear")
PLACES = [Fraction(0), Fraction(1, 4), Fraction(1), Fraction(2)]


@pytest.mark.parametrize("mode", MODES)
def test_between_anchors_embeddings_are_blended_piecewise(mode: Any) -> None:
    fixed = [words(i, negative=50 + i) for i in range(4)]
    path = ConditioningPath(list(zip(PLACES, fixed, strict=True)), mode)
    for place, left, weight in [
        (Fraction(1, 8), 0, 0.5),
        (Fraction(3, 16), 0, 0.75),
        (Fraction(1, 2), 1, 1 / 3),
        (Fraction(7, 4), 2, 0.75),
    ]:
        found = path(place)
        assert len(found) == 1
        for part in ("text", "negative_text"):
            a, b = getattr(fixed[left], part), getattr(fixed[left + 1], part)
            assert np.allclose(getattr(found, part)[0].numpy(), expected(a, b, weight, mode), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_at_anchors_the_embeddings_are_exact(mode: Any) -> None:
    fixed = [words(i) for i in range(4)]
    path = ConditioningPath(list(zip(PLACES, fixed, strict=True)), mode)
    for place, own in zip(PLACES, fixed, strict=True):
        assert torch.equal(path(place).text, own.text)
        assert torch.equal(path(place).negative_text, own.negative_text)


def test_modes_differ_and_a_shared_negative_stays() -> None:
    fixed = [(Fraction(i), words(i)) for i in range(2)]
    blends = [ConditioningPath(fixed, mode)(Fraction(1, 3)) for mode in MODES]
    assert not torch.allclose(blends[0].text, blends[1].text, atol=1e-3)
    assert not torch.allclose(blends[0].text, blends[2].text, atol=1e-3)
    for blend in blends:
        assert torch.allclose(blend.negative_text, fixed[0][1].negative_text, rtol=0, atol=1e-6)


def test_one_anchor_and_the_ends_are_held() -> None:
    only = words(0)
    path = ConditioningPath([(Fraction(1), only)])
    for place in (Fraction(0), Fraction(1), Fraction(5, 2)):
        assert torch.equal(path(place).text, only.text)


def test_anchors_in_any_other_order_are_refused() -> None:
    with pytest.raises(ValueError, match="in rising order"):
        ConditioningPath([])
    with pytest.raises(ValueError, match="in rising order"):
        ConditioningPath([(Fraction(1), words(0)), (Fraction(0), words(1))])
    with pytest.raises(ValueError, match="in rising order"):
        ConditioningPath([(Fraction(1), words(0)), (Fraction(1), words(1))])

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


# Words of unequal lengths.


def masked(length: int, seed: int) -> Conditioning:
    """A batch of one: so many real tokens of 8 numbers in the positive branch, and one more in the negative."""

    def draw(count: int) -> dict[str, torch.Tensor]:
        text = torch.randn(1, count, 8, generator=torch.Generator().manual_seed(seed + count))
        return {"text": text, "mask": torch.ones(1, count, dtype=torch.bool), "pooled": text[:, 0]}

    return Conditioning(draw(length), draw(length + 1))


def padded(tensor: torch.Tensor, length: int) -> torch.Tensor:
    found = tensor.new_zeros(len(tensor), length, *tensor.shape[2:])
    found[:, : tensor.shape[1]] = tensor
    return found


def test_a_batch_is_padded_to_its_longest() -> None:
    parts = [masked(3, 0), masked(5, 1), masked(4, 2)]
    batch = Conditioning.stack(parts)
    assert batch.text.shape == (3, 5, 8)
    assert batch.negative_text.shape == (3, 6, 8)
    assert batch.positive["pooled"].shape == (3, 8)
    for i, part in enumerate(parts):
        for name in ("text", "mask"):
            assert torch.equal(batch.sample(i).positive[name], padded(part.positive[name], 5))
            assert torch.equal(batch.sample(i).negative[name], padded(part.negative[name], 6))
        assert batch.sample(i).is_close(part, 0)
        assert not batch.sample(i).is_close(masked(3, 9), 1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_blend_has_the_tokens_of_both(mode: Any) -> None:
    short, long = masked(3, 0), masked(5, 1)
    for a, b in ((short, long), (long, short)):
        found = ConditioningPath([(Fraction(0), a), (Fraction(1), b)], mode)(Fraction(1, 4))
        assert torch.equal(found.positive["mask"], long.positive["mask"])
        assert torch.equal(found.negative["mask"], long.negative["mask"])
        x, y = (padded(one.text, 5) for one in (a, b))
        first = expected(x[:, :3], y[:, :3], 0.25, mode) if mode == "token" else expected(x, y, 0.25, mode)[:3]
        assert np.allclose(found.text[0, :3].numpy(), first, atol=1e-5)
        if mode != "whole":  # a token that one side lacks grows from nothing
            assert torch.allclose(found.text[0, 3:], (0.75 * x + 0.25 * y)[0, 3:], atol=1e-5)


def test_padding_alone_is_nothing_to_follow() -> None:
    one = masked(3, 0)
    same = Conditioning(dict(one.positive), dict(one.positive))
    batch = Conditioning.stack([same, Conditioning(masked(6, 1).positive, one.positive)])
    assert batch.text.shape[1] > batch.negative_text.shape[1]
    assert batch.sample(0).is_unguided()
    assert not batch.sample(1).is_unguided()
    assert not batch.is_unguided()

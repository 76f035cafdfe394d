"""Blends against their closed forms."""

import math

import pytest
import torch
from torch import Tensor

from segue.method.blend import lerp, slerp


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def closed_form(a: list[float], b: list[float], w: float) -> list[float]:
    """Shoemake's formula in plain Python floats."""
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    norm = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    omega = math.acos(dot / norm)
    left, right = math.sin((1 - w) * omega) / math.sin(omega), math.sin(w * omega) / math.sin(omega)
    return [left * x + right * y for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("w", [0.1, 0.25, 0.5, 0.75, 0.999])
def test_slerp_is_the_closed_form(w: float) -> None:
    a, b = vectors(3, 4, 5, 6), vectors(3, 4, 5, 6, seed=1)
    blend = slerp(a, b, w)
    for i in range(3):
        expected = closed_form(a[i].flatten().tolist(), b[i].flatten().tolist(), w)
        assert torch.allclose(blend[i].flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_slerp_on_the_circle() -> None:
    """From angle 10 to angle 100 degrees, 0.3 of the way is angle 37."""

    def at(degrees: float) -> Tensor:
        return torch.tensor([[math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]], dtype=torch.float64)

    assert torch.allclose(slerp(at(10), at(100), 0.3), at(37), rtol=0, atol=1e-12)
    assert torch.allclose(slerp(3 * at(10), 3 * at(100), 0.3), 3 * at(37), rtol=0, atol=1e-12)


def test_slerp_keeps_the_norm_of_noise_that_lerp_shrinks() -> None:
    a, b = vectors(1, 4, 64, 64), vectors(1, 4, 64, 64, seed=1)
    assert slerp(a, b, 0.5).std() == pytest.approx(1, abs=0.02)
    assert lerp(a, b, 0.5).std() == pytest.approx(0.5**0.5, abs=0.02)


@pytest.mark.parametrize("blend", [slerp, lerp])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_ends_are_exact(blend: object, dtype: torch.dtype) -> None:
    assert callable(blend)
    a, b = vectors(2, 3, 4).to(dtype), vectors(2, 3, 4, seed=1).to(dtype)
    assert torch.equal(blend(a, b, 0.0), a)
    assert torch.equal(blend(a, b, 1.0), b)
    assert blend(a, b, 0.5).dtype == dtype


@pytest.mark.parametrize("blend", [slerp, lerp])
def test_a_batch_stacks_samples_that_do_not_know_each_other(blend: object) -> None:
    assert callable(blend)
    a, b = vectors(5, 3, 4).float(), vectors(5, 3, 4, seed=1).float()
    w = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    together = blend(a, b, w)
    for i in range(5):
        assert torch.equal(together[i], blend(a[i : i + 1], b[i : i + 1], float(w[i]))[0])
    other = torch.cat([a[:1], 100 * a[1:]])
    assert torch.equal(blend(other, b, w)[0], together[0])


def test_parallel_and_zero_vectors_are_blended_linearly() -> None:
    a = vectors(1, 3, 4)
    zero = torch.zeros_like(a)
    for b in (a, 2 * a, a * (1 + 1e-12), zero):
        assert torch.allclose(slerp(a, b, 0.25), 0.75 * a + 0.25 * b, rtol=0, atol=1e-12)
    assert torch.equal(slerp(zero, zero, 0.5), zero)
    assert torch.allclose(slerp(a, -a, 0.25), 0.5 * a, rtol=0, atol=1e-12)  # opposite: there is no great circle
    assert torch.isfinite(slerp(1e-200 * a, 1e-200 * a.flip(1), 0.5)).all()


def test_only_the_parallel_samples_of_a_batch_are_blended_linearly() -> None:
    a, b = vectors(2, 12), vectors(2, 12, seed=1)
    b[0] = a[0]
    expected = closed_form(a[1].tolist(), b[1].tolist(), 0.3)
    blend = slerp(a, b, 0.3)
    assert torch.allclose(blend[0], a[0], rtol=0, atol=1e-12)
    assert torch.allclose(blend[1], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_slerp_is_continuous_where_the_formula_changes() -> None:
    """The angle is small on both sides of the limit, so the closed form and the line agree there."""
    a, across = vectors(1, 50), vectors(1, 50, seed=1)
    across -= (across * a).sum() / (a * a).sum() * a
    across *= a.norm() / across.norm()
    for angle in (1e-3, 1e-5, 2e-6, 5e-7, 1e-8):
        b = math.cos(angle) * a + math.sin(angle) * across
        exact = math.cos(0.3 * angle) * a + math.sin(0.3 * angle) * across
        assert torch.allclose(slerp(a, b, 0.3), exact, rtol=0, atol=1e-11)


def test_low_precision_is_blended_in_high_precision() -> None:
    a, b = vectors(1, 4, 8, 8).half(), vectors(1, 4, 8, 8, seed=1).half()
    assert torch.equal(slerp(a, b, 0.4), slerp(a.double(), b.double(), 0.4).half())


def test_lerp_is_the_line() -> None:
    a, b = vectors(2, 3), vectors(2, 3, seed=1)
    w = torch.tensor([0.25, 0.5], dtype=torch.float64)
    assert torch.allclose(lerp(a, b, w), a + w[:, None] * (b - a), rtol=0, atol=1e-15)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        slerp(vectors(1, 3), vectors(1, 4), 0.5)

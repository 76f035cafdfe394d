"""Intervals by the bootstrap over pairs: pairs are drawn again with replacement, all draws at once.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segue.evaluate.measures import Array, frechet_distance, kernel_sums

__all__ = [
    "DRAWS",
    "Interval",
    "frechet_draws",
    "kernel_draws",
    "mean_interval",
    "paired_interval",
    "resampled_pairs",
    "spread_interval",
]

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value over pairs and how sure it is.

    Attributes:
        value: the mean over the pairs (or the measure of all pairs together).
        low, high: the ends of the 95 % interval over pairs.
        spread: the standard deviation over pairs (n - 1); nan where the measure is of all pairs together.
        pairs: over how many pairs; those for which a measure is not defined are left out.
    """

    value: float
    low: float
    high: float
    spread: float
    pairs: int


def resampled_pairs(pairs: int, *, draws: int = DRAWS, seed: int = 0) -> NDArray[np.intp]:
    """Which pairs each draw consists of, (draws, pairs); the same for the same seed."""
    return np.random.default_rng(seed).integers(0, pairs, (draws, pairs))


def mean_interval(values: Array, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of one value per pair, (n,), with its percentile interval; pairs with nan are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    means = values[resampled_pairs(len(values), draws=draws, seed=seed)].mean(1)
    low, high = _ends(means)
    spread = values.std(ddof=1) if len(values) > 1 else float("nan")
    return Interval(float(values.mean()), low, high, float(spread), len(values))


def paired_interval(first: Array, second: Array, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean difference first - second over the same pairs, (n,) each; what the pairs share cancels out."""
    return mean_interval(first - second, draws=draws, seed=seed)


def spread_interval(value: float, draws: Array, pairs: int) -> Interval:
    """The interval of a measure of all pairs together, from its values over drawn pairs.

    Drawing with replacement doubles features, which lifts FID and KID themselves; so the draws give the spread, and
    are moved to lie around the value.
    """
    low, high = _ends(draws - draws.mean() + value)
    return Interval(value, low, high, float("nan"), pairs)


def frechet_draws(x: Array, y: Array, drawn: NDArray[np.intp]) -> Array:
    """FID of each draw of pairs, (draws,).

    Args:
        x: (pairs, k, D) or, with another choice of frames for each draw in turn, (choices, pairs, k, D).
        y: (pairs, l, D) the inputs.
        drawn: (draws, pairs) which pairs.
    """
    choices = x if x.ndim == 4 else x[None]
    dimension = y.shape[-1]
    # Only what lies in the span of the inputs meets their covariance; the rest adds its own spread and shift.
    _, sizes, axes = np.linalg.svd(y.reshape(-1, dimension), full_matrices=False)
    axes = axes[sizes > sizes[0] * 1e-12]
    inside, inputs = choices @ axes.T, y @ axes.T
    rest = choices - inside @ axes
    squares, sums = (rest * rest).sum((2, 3)), rest.sum(2)
    n, found = choices.shape[1] * choices.shape[2], []
    for i, pairs in enumerate(drawn):
        choice = i % len(choices)
        mean = sums[choice, pairs].sum(0) / n
        spread = (squares[choice, pairs].sum() - n * (mean @ mean)) / (n - 1)
        near = frechet_distance(inside[choice, pairs].reshape(-1, len(axes)), inputs[pairs].reshape(-1, len(axes)))
        found.append(near + spread + mean @ mean)
    return np.array(found)


def kernel_draws(x: Array, y: Array, drawn: NDArray[np.intp]) -> Array:
    """KID of each draw of pairs, (draws,); x (pairs, k, D), y (pairs, l, D), drawn (draws, pairs)."""
    pairs, dimension = len(x), y.shape[-1]
    xx, yy, xy, diagonal_x, diagonal_y = kernel_sums(
        x.reshape(-1, dimension),
        y.reshape(-1, dimension),
        np.repeat(np.arange(pairs), x.shape[1]),
        np.repeat(np.arange(pairs), y.shape[1]),
    )
    counts = np.stack([np.bincount(draw, minlength=pairs) for draw in drawn]).astype(np.float64)
    n, m = pairs * x.shape[1], pairs * y.shape[1]
    within_x = (np.einsum("ip,pq,iq->i", counts, xx, counts, optimize=True) - counts @ diagonal_x) / (n * (n - 1))
    within_y = (np.einsum("ip,pq,iq->i", counts, yy, counts, optimize=True) - counts @ diagonal_y) / (m * (m - 1))
    between = np.einsum("ip,pq,iq->i", counts, xy, counts, optimize=True) / (n * m)
    result: Array = within_x + within_y - 2 * between
    return result


def _ends(draws: Array) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

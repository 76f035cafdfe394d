"""Intervals over pairs: of means by the bootstrap, of measures of all pairs together by the jackknife.

Means: pairs are drawn again with replacement, all draws at once; below 20 pairs, where that is too narrow, Student's t.
FID and KID: pairs are left out in turn. Drawn twice, features would lift these measures themselves; left out, they do
not. Of many pairs, whole groups are left out (the delete-a-group jackknife).

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 11 (jackknife) and 13 (percentiles);
Kott, "The delete-a-group jackknife", Journal of Official Statistics 17 (2001).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segue.evaluate.measures import frechet_distance, kernel_of_pairs
from segue.models.features.distances import Array

__all__ = [
    "DRAWS",
    "Interval",
    "frechet_of_parts",
    "jackknife_interval",
    "kernel_of_parts",
    "mean_interval",
    "paired_interval",
    "parts_without",
    "resample_pairs",
    "students_t",
]

DRAWS = 2000
LEVEL = 0.95
FEW = 20  # pairs below which the bootstrap's percentiles are too narrow
GROUPS = 60  # at most, that are left out in turn


@dataclass(frozen=True)
class Interval:
    """A value over pairs and how sure it is.

    Attributes:
        value: the mean over the pairs (or the measure of all pairs together).
        low, high: the ends of the 95 % interval over pairs; nan if there is but one pair.
        spread: the standard deviation over pairs (n - 1); nan where the measure is of all pairs together.
        pairs: over how many pairs; those for which a measure is not defined are left out.
    """

    value: float
    low: float
    high: float
    spread: float
    pairs: int


def resample_pairs(pairs: int, *, draws: int = DRAWS, seed: int = 0) -> NDArray[np.intp]:
    """Which pairs each draw consists of, (draws, pairs); the same for the same seed."""
    return np.random.default_rng(seed).integers(0, pairs, (draws, pairs))


def mean_interval(values: Array, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of one value per pair, (n,), with its interval; pairs with nan are left out."""
    values = values[np.isfinite(values)]
    nan, n = float("nan"), len(values)
    if n < 2:
        return Interval(float(values.mean()) if n else nan, nan, nan, nan, n)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if n < FEW:
        reach = students_t(n - 1) * spread / math.sqrt(n)
        return Interval(mean, mean - reach, mean + reach, spread, n)
    means = values[resample_pairs(n, draws=draws, seed=seed)].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), spread, n)


def paired_interval(first: Array, second: Array, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean difference first - second over the same pairs, (n,) each; what the pairs share cancels out."""
    return mean_interval(first - second, draws=draws, seed=seed)


def parts_without(pairs: int, groups: int = GROUPS) -> list[NDArray[np.intp]]:
    """The pairs that remain where each, or each of several groups of them, is left out in turn; none of two pairs."""
    if pairs < 3:
        return []
    group = np.arange(pairs) % min(pairs, groups)
    return [np.flatnonzero(group != left_out) for left_out in range(min(pairs, groups))]


def jackknife_interval(value: float, without: Array, pairs: int) -> Interval:
    """The interval of a measure of all pairs together, from its values over ``parts_without``.

    The variance is (g - 1) / g times the sum of the squared deviations of the g values.
    """
    groups, nan = len(without), float("nan")
    if not groups:
        return Interval(value, nan, nan, nan, pairs)
    error = math.sqrt((groups - 1) / groups * float(((without - without.mean()) ** 2).sum()))
    reach = students_t(groups - 1) * error
    return Interval(value, value - reach, value + reach, nan, pairs)


def frechet_of_parts(x: Array, y: Array, parts: Sequence[NDArray[np.intp]]) -> Array:
    """FID over each part of the pairs, (parts,).

    Args:
        x: (pairs, k, D) or, with several choices of frames whose FIDs are averaged, (choices, pairs, k, D).
        y: (pairs, l, D) the inputs.
        parts: which pairs.
    """
    choices = x if x.ndim == 4 else x[None]
    dimension = y.shape[-1]
    # Only what lies in the span of the inputs meets their covariance; the rest adds its own spread and shift.
    _, sizes, axes = np.linalg.svd(y.reshape(-1, dimension), full_matrices=False)
    axes = axes[: max(1, int((sizes > sizes[0] * 1e-12).sum()))]
    inside, inputs = choices @ axes.T, y @ axes.T
    rest = choices - inside @ axes
    squares, sums = (rest * rest).sum((2, 3)), rest.sum(2)

    def one(choice: int, pairs: NDArray[np.intp]) -> float:
        n = len(pairs) * choices.shape[2]
        mean = sums[choice, pairs].sum(0) / n
        spread = (squares[choice, pairs].sum() - n * (mean @ mean)) / (n - 1)
        near = frechet_distance(inside[choice, pairs].reshape(-1, len(axes)), inputs[pairs].reshape(-1, len(axes)))
        return float(near + spread + mean @ mean)

    return np.array([np.mean([one(choice, pairs) for choice in range(len(choices))]) for pairs in parts])


def kernel_of_parts(x: Array, y: Array, parts: Sequence[NDArray[np.intp]]) -> Array:
    """KID over each part of the pairs, (parts,); x (pairs, k, D), y (pairs, l, D)."""
    kernel, total = kernel_of_pairs(x, y), []
    for part in parts:
        within = kernel[np.ix_(part, part)]
        total.append((within.sum() - np.trace(within)) / (len(part) * (len(part) - 1)))
    return np.array(total)


def students_t(freedom: int, level: float = LEVEL) -> float:
    """The number that Student's t, of so many degrees of freedom, stays within at a level.

    By bisection of its distribution in closed form (Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3
    and 26.7.4).
    """
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """The probability that Student's t lies between -t and t."""
    angle = math.atan2(t, math.sqrt(freedom))
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total

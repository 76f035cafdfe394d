"""The intervals against scipy, against coverage of known truths, and against the measures themselves."""

import numpy as np
import pytest
import scipy.stats

from segue.evaluate import measures
from segue.evaluate import statistics as st


def normal(seed: int, *shape: int) -> measures.Array:
    return np.random.default_rng(seed).standard_normal(shape)


def test_mean_interval_is_scipys() -> None:
    values = np.exp(normal(0, 40))
    ours = st.mean_interval(values, draws=20000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert ours.value == values.mean()
    assert ours.spread == pytest.approx(values.std(ddof=1))
    assert ours.low == pytest.approx(theirs.low, rel=0.01)
    assert ours.high == pytest.approx(theirs.high, rel=0.01)
    assert ours.pairs == 40


def test_mean_interval_covers_the_truth() -> None:
    held = [i.low <= 0 <= i.high for i in (st.mean_interval(normal(seed, 60), draws=400) for seed in range(300))]
    assert 0.90 <= np.mean(held) <= 0.98


def test_paired_differences_are_narrower() -> None:
    shared = 10 * normal(0, 60)
    first, second = shared + normal(1, 60) * 0.1 + 0.5, shared + normal(2, 60) * 0.1
    paired = st.paired_interval(first, second)
    alone = st.mean_interval(first)
    assert paired.low < 0.5 < paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 20


def test_undefined_values_are_left_out_in_pairs() -> None:
    first, second = np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.0, 1.0, np.nan, 1.0])
    interval = st.paired_interval(first, second)
    assert interval.pairs == 2
    assert interval.value == 2
    nothing = st.mean_interval(np.array([np.nan]))
    assert nothing.pairs == 0
    assert np.isnan(nothing.value)
    assert st.mean_interval(np.array([2.0])).low == 2


def test_same_seed_same_interval() -> None:
    values = normal(0, 20)
    assert st.mean_interval(values) == st.mean_interval(values)
    assert np.array_equal(st.resampled_pairs(9, draws=4), st.resampled_pairs(9, draws=4))


def test_kernel_draws_are_kernel_distances_of_the_drawn_pairs() -> None:
    x, y = normal(0, 6, 3, 4), normal(1, 6, 2, 4) + 1
    drawn = st.resampled_pairs(6, draws=5)
    expected = [measures.kernel_distance(x[d].reshape(-1, 4), y[d].reshape(-1, 4)) for d in drawn]
    assert st.kernel_draws(x, y, drawn) == pytest.approx(expected)


@pytest.mark.parametrize("dimension", [4, 30])  # fewer and more dimensions than inputs
def test_frechet_draws_are_frechet_distances_of_the_drawn_pairs(dimension: int) -> None:
    x, y = normal(0, 2, 6, 3, dimension) + 0.3, normal(1, 6, 2, dimension) + 1
    drawn = st.resampled_pairs(6, draws=4)
    expected = [
        measures.frechet_distance(x[i % 2][d].reshape(-1, dimension), y[d].reshape(-1, dimension))
        for i, d in enumerate(drawn)
    ]
    assert st.frechet_draws(x, y, drawn) == pytest.approx(expected)
    assert st.frechet_draws(x[0], y, drawn)[0] == pytest.approx(expected[0])


def test_interval_of_a_measure_of_all_pairs_lies_around_its_value() -> None:
    interval = st.spread_interval(5.0, 100 + normal(0, 4000), 60)
    assert interval.value == 5
    assert interval.low == pytest.approx(5 - 1.96, abs=0.15)
    assert interval.high == pytest.approx(5 + 1.96, abs=0.15)

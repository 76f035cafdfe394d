"""The intervals against scipy, against coverage of known truths, and against the measures themselves."""

import numpy as np
import pytest
import scipy.stats

from segue.evaluate import measures
from segue.evaluate import statistics as st
from segue.models.features import distances


def normal(seed: int, *shape: int) -> distances.Array:
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


def test_one_pair_has_no_interval_and_few_have_students() -> None:
    one = st.mean_interval(np.array([2.0]))
    assert one.value == 2
    assert np.isnan([one.low, one.high, one.spread]).all()
    few = normal(3, 6)
    interval = st.mean_interval(few)
    expected = scipy.stats.t.interval(0.95, 5, few.mean(), scipy.stats.sem(few))
    assert (interval.low, interval.high) == pytest.approx(expected)
    for pairs in (2, 5, 12):
        held = [i.low <= 0 <= i.high for i in (st.mean_interval(normal(seed, pairs)) for seed in range(400))]
        assert 0.92 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 30, 59])
def test_students_t_is_scipys(freedom: int) -> None:
    assert st.students_t(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-9)


def test_same_seed_same_interval() -> None:
    values = normal(0, 20)
    assert st.mean_interval(values) == st.mean_interval(values)
    assert np.array_equal(st.resample_pairs(9, draws=4), st.resample_pairs(9, draws=4))


def test_each_pair_is_left_out_or_of_many_each_group() -> None:
    assert [part.tolist() for part in st.parts_without(3)] == [[1, 2], [0, 2], [0, 1]]
    assert [part.tolist() for part in st.parts_without(5, 2)] == [[1, 3], [0, 2, 4]]
    assert len(st.parts_without(1000)) == 60
    assert st.parts_without(2) == []
    nothing = st.jackknife_interval(1.0, st.kernel_of_parts(normal(0, 2, 3, 4), normal(1, 2, 2, 4), []), 2)
    assert nothing.value == 1
    assert np.isnan([nothing.low, nothing.high]).all()


def test_kernels_of_parts_are_kernel_distances() -> None:
    x, y = normal(0, 6, 3, 4), normal(1, 6, 2, 4) + 1
    parts = [*st.parts_without(6), np.array([0, 4])]
    expected = [measures.kernel_distance_of_pairs(x[p], y[p]) for p in parts]
    assert st.kernel_of_parts(x, y, parts) == pytest.approx(expected)


@pytest.mark.parametrize("dimension", [4, 30])  # fewer and more dimensions than inputs
def test_frechets_of_parts_are_frechet_distances(dimension: int) -> None:
    x, y = normal(0, 2, 6, 3, dimension) + 0.3, normal(1, 6, 2, dimension) + 1
    parts = st.parts_without(6)
    expected = [
        [measures.frechet_distance(choice[p].reshape(-1, dimension), y[p].reshape(-1, dimension)) for choice in x]
        for p in parts
    ]
    assert st.frechet_of_parts(x, y, parts) == pytest.approx(np.mean(expected, axis=1))
    assert st.frechet_of_parts(x[0], y, parts) == pytest.approx([row[0] for row in expected])


def test_frechets_of_inputs_without_features_are_the_spread_and_the_shift_of_the_others() -> None:
    x, y = normal(0, 6, 3, 4) + 1, np.zeros((6, 2, 4))
    rows = x.reshape(-1, 4)
    expected = rows.var(0, ddof=1).sum() + (rows.mean(0) ** 2).sum()
    assert st.frechet_of_parts(x, y, [np.arange(6)]) == pytest.approx([expected])


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = normal(4, 30)
    without = np.array([values[part].mean() for part in st.parts_without(30)])
    interval = st.jackknife_interval(float(values.mean()), without, 30)
    expected = scipy.stats.t.interval(0.95, 29, values.mean(), scipy.stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_intervals_of_fid_are_as_wide_as_fid_spreads() -> None:
    """Over many samples of the same pairs' distribution, with the frames of each pair alike."""
    found, reaches, pairs, parts = [], [], 40, st.parts_without(40)
    for seed in range(30):
        own = normal(seed, pairs, 1, 6)
        y, x = own + 0.3 * normal(1000 + seed, pairs, 2, 6), own + 0.5 + 0.3 * normal(2000 + seed, pairs, 4, 6)
        two = np.stack([x[:, :2], x[:, 2:]])
        flat = [choice.reshape(-1, 6) for choice in two]
        found.append(np.mean([measures.frechet_distance(choice, y.reshape(-1, 6)) for choice in flat]))
        interval = st.jackknife_interval(float(found[-1]), st.frechet_of_parts(two, y, parts), pairs)
        reaches.append((interval.high - interval.low) / 2 / st.students_t(39))
    assert np.mean(reaches) == pytest.approx(np.std(found, ddof=1), rel=0.3)

"""The measures against scipy, closed forms and hand computation."""

import itertools

import numpy as np
import pytest
import scipy.linalg
from PIL import Image, ImageFilter

from segue.evaluate import measures as m
from segue.evaluate.catalogue import FILM_MEASURES, MEASURES, film_values, find_measure
from segue.models.features import distances


def normal(seed: int, *shape: int) -> distances.Array:
    return np.random.default_rng(seed).standard_normal(shape)


def frechet_by_scipy(x: distances.Array, y: distances.Array) -> float:
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    shift = x.mean(0) - y.mean(0)
    return float(shift @ shift + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * np.real(root)))


def test_frechet_is_scipys() -> None:
    x, y = normal(0, 40, 6) @ normal(1, 6, 6), normal(2, 25, 6) @ normal(3, 6, 6) + 0.5
    assert m.frechet_distance(x, y) == pytest.approx(frechet_by_scipy(x, y), rel=1e-9)


def whiten(seed: int, n: int, d: int) -> distances.Array:
    """Features whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = normal(seed, n, d)
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T


def test_frechet_closed_form() -> None:
    """Of N(0, I) and N(m, diag(s^2)): |m|^2 + sum (1 - s)^2."""
    mean, spread = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.25, 1.0])
    x, y = whiten(0, 50, 3), whiten(1, 60, 3) * spread + mean
    assert m.frechet_distance(x, y) == pytest.approx(mean @ mean + ((1 - spread) ** 2).sum(), rel=1e-9)


def test_frechet_with_fewer_features_than_dimensions() -> None:
    """In the span of two features each: the closed form of one dimension, with the axes at a right angle."""
    x, y = np.zeros((2, 50)), np.zeros((2, 50))
    x[:, 0], y[:, 1] = [-1, 1], [-3, 3]  # variances 2 and 18, no common direction
    assert m.frechet_distance(x, y) == pytest.approx(20)
    y[:, 0] = y[:, 1]
    y[:, 1] = 0
    assert m.frechet_distance(x, y) == pytest.approx((np.sqrt(18) - np.sqrt(2)) ** 2)


def test_frechet_of_a_set_to_itself() -> None:
    x = normal(0, 30, 100)
    assert m.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert m.frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)  # the order plays no part


def test_floor_is_the_distance_of_two_equal_samples() -> None:
    y = normal(0, 4000, 5) * np.array([3.0, 1.0, 1.0, 0.5, 0.1])
    floor = m.frechet_floor(y, 20, 30, draws=400)
    apart = np.mean(
        [m.frechet_distance(a, b) for a, b in ((y[i : i + 20], y[i + 20 : i + 50]) for i in range(0, 4000, 50))]
    )
    assert floor == pytest.approx(apart, rel=0.1)
    assert m.frechet_floor(y, 2000, 2000, draws=4) < floor / 20  # it goes away with n


def kernel_by_hand(x: distances.Array, y: distances.Array) -> float:
    def k(u: distances.Array, v: distances.Array) -> float:
        return float((np.dot(u, v) / len(u) + 1) ** 3)

    xs = [k(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)]
    ys = [k(y[i], y[j]) for i, j in itertools.permutations(range(len(y)), 2)]
    return float(np.mean(xs) + np.mean(ys) - 2 * np.mean([k(u, v) for u in x for v in y]))


def test_kernel_distance_by_hand() -> None:
    x, y = normal(0, 7, 3), normal(1, 5, 3) + 1
    assert m.kernel_distance(x, y) == pytest.approx(kernel_by_hand(x, y), rel=1e-10)
    # Two features each, in one dimension: k(0, 1) = 1, k(2, 3) = 343, k(0, .) = 1, k(1, 2) = 27, k(1, 3) = 64.
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    assert m.kernel_distance(x, y) == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


def test_kernel_distance_closed_form() -> None:
    """Of N(0, 1) and N(a, 1): the difference of E (uv + 1)^3 = 1 + 3 E uv + 3 E u^2v^2 + E u^3v^3."""
    a = 0.7
    first, second, third = a, 1 + a * a, a**3 + 3 * a
    within_x, within_y, between = 1 + 3, 1 + 3 * first**2 + 3 * second**2 + third**2, 1 + 3 * second
    x, y = normal(0, 1500, 1), normal(1, 1500, 1) + a
    assert m.kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * between, rel=0.1)


def test_kernel_distance_is_unbiased_at_small_n() -> None:
    y = normal(0, 3000, 4)
    small = [m.kernel_distance(y[i : i + 5], y[i + 5 : i + 10]) for i in range(0, 3000, 10)]
    assert abs(np.mean(small)) < 3 * np.std(small) / np.sqrt(len(small))


def test_kernel_distance_of_pairs_by_hand() -> None:
    x, y = normal(0, 4, 3, 5), normal(1, 4, 2, 5) + 1
    terms = []
    for p, q in itertools.permutations(range(4), 2):
        kernels = [
            np.mean([(u @ v / 5 + 1) ** 3 for u in first for v in second])
            for first, second in ((x[p], x[q]), (y[p], y[q]), (x[p], y[q]))
        ]
        terms.append(kernels[0] + kernels[1] - 2 * kernels[2])
    assert m.kernel_distance_of_pairs(x, y) == pytest.approx(np.mean(terms), rel=1e-10)


def test_kernel_distance_of_pairs_does_not_depend_on_their_number() -> None:
    """Frames that are almost their own keyframes, which are far apart: where all features count, it comes out low."""
    keyframes = normal(0, 1200, 1, 4) + 0.3 * normal(1, 1200, 2, 4)
    frames = keyframes.mean(1, keepdims=True) + 0.3 * normal(2, 1200, 5, 4) + 0.5
    for_many = m.kernel_distance_of_pairs(frames, keyframes)
    for pairs in (2, 4, 12):
        parts = [slice(i, i + pairs) for i in range(0, 1200, pairs)]
        values = [m.kernel_distance_of_pairs(frames[part], keyframes[part]) for part in parts]
        assert np.mean(values) == pytest.approx(for_many, abs=4 * np.std(values) / np.sqrt(len(values)))
        naive = [m.kernel_distance(frames[p].reshape(-1, 4), keyframes[p].reshape(-1, 4)) for p in parts]
        assert np.mean(naive) < for_many - 4 * np.std(naive) / np.sqrt(len(naive))


def test_random_frames() -> None:
    names = [f"pair-{i}" for i in range(50)]
    frames = m.random_frames(names, 17)
    assert frames.shape == (10, 50, 2)
    assert frames.min() == 1
    assert frames.max() == 15
    assert (frames[..., 0] != frames[..., 1]).all()
    assert np.array_equal(frames[:, ::-5], m.random_frames(names[::-5], 17))  # in any order and company
    assert len(np.unique(frames)) == 15
    assert m.random_frames(names[:4], 3).shape == (10, 4, 1)


STEPS = distances.SequencePath(
    steps=np.array([4.0, 1.0, 3.0, 2.0, 6.0]),
    to_first=np.array([0.0, 4.0, 3.0, 5.0, 6.0, 9.0]),  # one break
    to_last=np.array([9.0, 7.0, 7.0, 8.0, 6.0, 0.0]),  # one break
)


def test_path_measures_by_hand() -> None:
    values = film_values(STEPS)
    assert values["ppl"] == 16
    assert values["pdv"] == pytest.approx((0.8**2 + 2.2**2 + 0.2**2 + 1.2**2 + 2.8**2) / 5)
    assert values["variation"] == pytest.approx(np.sqrt(values["pdv"]) / 3.2)
    assert values["jump"] == 5
    assert values["relative_jump"] == 2.5
    assert values["breaks"] == 2 / 8


def test_path_of_features() -> None:
    path = distances.path_of_features(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]))
    assert path.steps.tolist() == [5, 4]
    assert path.to_first.tolist() == [0, 5, 3]
    assert path.to_last.tolist() == [3, 4, 0]


def test_a_straight_even_path() -> None:
    features = np.outer(np.linspace(0, 1, 17), normal(0, 8))
    values = film_values(distances.path_of_features(features))
    assert values["ppl"] == pytest.approx(np.linalg.norm(features[-1]))
    assert values["breaks"] == 0
    assert values["pdv"] == pytest.approx(0, abs=1e-20)
    assert values["relative_jump"] == pytest.approx(1)


def test_breaks_of_a_path_without_order_and_of_one_that_turns_back() -> None:
    shares = [film_values(distances.path_of_features(normal(i, 17, 32)))["breaks"] for i in range(50)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    backwards = distances.SequencePath(np.ones(4), np.array([0.0, 4, 3, 2, 1]), np.array([1.0, 2, 3, 4, 0]))
    assert m.order_breaks(backwards) == 1


def test_a_still_film_has_no_relative_jump() -> None:
    values = film_values(distances.path_of_features(np.zeros((17, 3))))
    assert np.isnan(values["relative_jump"])
    assert np.isnan(values["variation"])
    assert values["breaks"] == 0


def test_sharpness_by_hand() -> None:
    """A single bright pixel: the Laplacian is -4 there, 1 at its four neighbours, 0 elsewhere."""
    picture = np.zeros((8, 8, 3))
    picture[3, 4] = 1
    mean, square = 0 / 36, (16 + 4) / 36
    assert m.sharpness(picture) == pytest.approx(np.sqrt(square - mean**2))
    assert m.sharpness(picture * 0.5) == pytest.approx(np.sqrt(square) / 2)
    assert m.sharpness(picture * np.array([0, 1, 0])) == pytest.approx(np.sqrt(square) * 0.587)


def test_sharpness_falls_with_blur_and_cross_fading() -> None:
    first, last = (np.random.default_rng(i).random((64, 64, 3)) for i in (0, 1))
    fade = [first * (1 - s) + last * s for s in np.linspace(0, 1, 5)]
    values = np.array([m.sharpness(picture) for picture in fade])
    expected = [np.hypot(1 - s, s) for s in (0.25, 0.5, 0.75)]  # contrasts of unlike pictures add as squares
    assert m.relative_sharpness(values, np.linspace(0, 1, 5)) == pytest.approx(np.mean(expected), rel=0.02)
    picture = Image.fromarray((first * 255).astype(np.uint8))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1))) / 255
    assert m.sharpness(soft) < m.sharpness(first) / 4
    assert np.isnan(m.relative_sharpness(np.zeros(5), np.linspace(0, 1, 5)))


def test_text_margin_by_hand() -> None:
    images = np.array([[9.0, 9.0], [2.0, 0.0], [0.0, 5.0], [9.0, 9.0]])
    first, last, negative = np.array([3.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, 1.0])
    margin = m.text_margin(images, first, last, negative, np.array([0.0, 0.25, 0.5, 1.0]))
    assert margin == pytest.approx(((0.75 - np.sqrt(0.5)) + (0.5 - np.sqrt(0.5))) / 2)


def test_catalogue() -> None:
    assert set(film_values(STEPS)) | {"margin", "sharpness"} == {measure.name for measure in FILM_MEASURES}
    assert find_measure("kid").label == "KID"
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)

"""The measures, on plain arrays: distributions of features, the path of a sequence, its pictures and its words.

With x_0, ..., x_N the frames of a sequence (x_0 and x_N the keyframes) and d a distance between pictures,

    d_i = d(x_{i-1}, x_i)   steps, i = 1..N
    r_i = d(x_0, x_i)       distances to the first keyframe
    q_i = d(x_i, x_N)       distances to the last

All arrays are float64; nothing here depends on how the features were batched.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.models.features.distances import Array, SequencePath

__all__ = [
    "distance_variance",
    "frechet_distance",
    "frechet_floor",
    "jump",
    "kernel_distance",
    "kernel_distance_of_pairs",
    "kernel_of_pairs",
    "order_breaks",
    "path_length",
    "random_frames",
    "relative_jump",
    "relative_sharpness",
    "sharpness",
    "step_variation",
    "text_margin",
]

# Distributions: the made frames against the inputs.


def frechet_distance(x: Array, y: Array) -> float:
    """The Frechet distance of two sets of features, (n, D) and (m, D), taken as Gaussians: FID's definition.

        |mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))

    with the unbiased covariances C (division by n - 1). With A = (x - mu_x) / sqrt(n - 1) and B likewise, the trace
    of (C_x C_y)^(1/2) is the sum of the singular values of A B^T, an (n, m) matrix: exact also where n < D, where a
    matrix square root of the (D, D) product is singular.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
    arXiv 1706.08500.
    """
    a, b = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    shift = x.mean(0) - y.mean(0)
    # Of a = Q R only the small R matters: Q turns, and singular values do not change.
    cross = np.linalg.svd(_triangle(a) @ _triangle(b).T, compute_uv=False).sum()
    return float(max(shift @ shift + (a * a).sum() + (b * b).sum() - 2 * cross, 0.0))


def frechet_floor(y: Array, n: int, m: int, *, seed: int = 0, draws: int = 16) -> float:
    """What ``frechet_distance`` gives on average for two samples, of n and m, of one and the same Gaussian.

    The true distance is 0: this is the bias of FID at small n, of independent features. Frames that are like the
    keyframes they lie between can score less. The Gaussian has the covariance of y, (k, D); as that is itself estimated
    from k features, of rank k - 1 at most, the number is rather too low than too high.

    Source: the bias is described in Binkowski et al., "Demystifying MMD GANs", 2018, arXiv 1801.01401, and in Chong
    and Forsyth, "Effectively Unbiased FID and Inception Score and where to find them", 2020, arXiv 1911.07023.
    """
    rng = np.random.default_rng(seed)
    # In the coordinates of the principal axes the covariance is diagonal; distances do not change.
    spread = np.linalg.svd((y - y.mean(0)) / np.sqrt(len(y) - 1), compute_uv=False)
    return float(
        np.mean(
            [
                frechet_distance(
                    rng.standard_normal((n, len(spread))) * spread, rng.standard_normal((m, len(spread))) * spread
                )
                for _ in range(draws)
            ]
        )
    )


def kernel_distance(x: Array, y: Array) -> float:
    """The unbiased squared MMD with the kernel k(u, v) = (u.v / D + 1)^3 of independent features: KID's definition.

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    Its expectation does not depend on the numbers of features, (n, D) and (m, D); it may be negative.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, arXiv 1801.01401 (there averaged over subsets; here the
    estimate over all features at once, which has the same expectation and less variance).
    """
    n, m = len(x), len(y)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    return float(
        (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.sum() / (n * m)
    )


def kernel_of_pairs(x: Array, y: Array) -> Array:
    """What each two pairs of keyframes contribute to ``kernel_distance_of_pairs``, (pairs, pairs) and symmetric.

        h_pq = k(x_p, x_q) + k(y_p, y_q) - k(x_p, y_q) - k(y_p, x_q), each the mean over the features of both

    Args:
        x: (pairs, n, D) the features of each pair's frames.
        y: (pairs, m, D) those of its keyframes.
    """

    def means(u: Array, v: Array) -> Array:
        flat = _kernel(u.reshape(-1, u.shape[-1]), v.reshape(-1, v.shape[-1]))
        found: Array = flat.reshape(len(u), u.shape[1], len(v), v.shape[1]).mean((1, 3))
        return found

    between = means(x, y)
    return means(x, x) + means(y, y) - between - between.T


def kernel_distance_of_pairs(x: Array, y: Array) -> float:
    """KID of frames to keyframes that come in pairs, (pairs, n, D) and (pairs, m, D).

    The frames of one film are alike, and like their own keyframes: ``kernel_distance``, which takes all features for
    independent, would come out too low, the more so the fewer pairs. Here the kernel is averaged over features of two
    different pairs only, so that the expectation does not depend on the number of pairs; it may be negative.
    """
    kernel = kernel_of_pairs(x, y)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))


def random_frames(pairs: Sequence[str], frames: int, *, draws: int = 10, each: int = 2) -> NDArray[np.intp]:
    """Which frames stand for each sequence in the paper's FID: distinct in-between frames, at random.

    They follow from the pair's name alone: the same for every scheme, so that schemes can be compared pair by pair, and
    in whatever order and company the pairs are measured.

    Returns:
        (draws, pairs, each) indices from 1 to frames - 2 (fewer than ``each`` if there are not as many).
    """
    between = np.tile(np.arange(1, frames - 1), (draws, 1))
    seeds = [int.from_bytes(sha256(pair.encode()).digest()[:8]) for pair in pairs]
    return np.stack([np.random.default_rng(seed).permuted(between, axis=1)[:, :each] for seed in seeds], axis=1)


# The path of one sequence.


def path_length(path: SequencePath) -> float:
    """The sum of the steps, sum d_i: PPL as the paper has it, LPIPS path sum where d is LPIPS.

    Source: Wang and Golland, "Interpolating between Images with Diffusion Models", 2023, arXiv 2307.12560, section 5
    (17 frames, distances of Inception-v3); with LPIPS: Zhang et al., "DiffMorpher", 2023, arXiv 2312.07409.
    """
    return float(path.steps.sum())


def distance_variance(path: SequencePath) -> float:
    """The variance of the steps, (1/N) sum (d_i - mean d)^2: perceptual distance variance, PDV.

    MorphBench's PDV is the mean of this over all sequences, with d = LPIPS and 17 frames.

    Source: Zhang et al., "DiffMorpher", 2023, arXiv 2312.07409, section 4.4. Its table is on a scale that plain LPIPS
    does not reach; compare numbers of one harness only.
    """
    return float(path.steps.var())


def step_variation(path: SequencePath) -> float:
    """The coefficient of variation of the steps, sd(d) / mean(d): evenness without the scale of d; 0 is even."""
    mean = path.steps.mean()
    return float(path.steps.std() / mean) if mean else float("nan")


def jump(path: SequencePath) -> float:
    """End fidelity: the mean of the first and the last step, (d_1 + d_N) / 2; how far the film jumps at its ends."""
    return float((path.steps[0] + path.steps[-1]) / 2)


def relative_jump(path: SequencePath) -> float:
    """The jump over the median of the inner steps d_2, ..., d_{N-1}; 1 is a film that does not jump at its ends."""
    inner = path.steps[1:-1]
    median = float(np.median(inner)) if len(inner) else 0.0
    return jump(path) / median if median else float("nan")


def order_breaks(path: SequencePath) -> float:
    """Monotony: how often the order of distances to the keyframes breaks, as a share of where it could.

    A film that goes from one keyframe to the other has r_1 <= r_2 <= ... <= r_N and q_0 >= q_1 >= ... >= q_{N-1}; a
    break is an r_{i+1} < r_i or a q_{i+1} > q_i. 0: never; 1/2: at random; 1: always.
    """
    away, towards = np.diff(path.to_first)[1:], np.diff(path.to_last)[:-1]
    if not len(away):
        return float("nan")
    return float(((away < 0).sum() + (towards > 0).sum()) / (len(away) + len(towards)))


# The pictures and the words of one sequence.


def sharpness(pixels: Array) -> float:
    """The standard deviation of the Laplacian of the luma of a picture, (H, W, 3) in [0, 1]; linear in contrast.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", 2000 (there the
    variance); luma of Rec. 601.
    """
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(laplacian.std())


def relative_sharpness(values: Array, positions: Array) -> float:
    """The sharpness of the in-between frames against their keyframes': mean of S(x_i) / ((1 - s_i) S_0 + s_i S_N).

    1: as sharp as the keyframes; a cross-fade of unlike pictures comes near 0.7 in its middle.

    Args:
        values: (F,) sharpness of the frames, keyframes included.
        positions: (F,) their positions s.
    """
    expected = (1 - positions) * values[0] + positions * values[-1]
    if len(values) < 3 or not expected[1:-1].all():
        return float("nan")
    return float((values[1:-1] / expected[1:-1]).mean())


def text_margin(images: Array, prompt_first: Array, prompt_last: Array, negative: Array, positions: Array) -> float:
    """The margin of the in-between frames to their prompts in CLIP's space, mean over the frames.

        (1 - s) cos(x, p_0) + s cos(x, p_1) - cos(x, negative)

    the score by which candidates are ranked (paper's section 4.4), with the prompts of both keyframes; an empty
    negative prompt is the empty text.

    Args:
        images: (F, D) features of the frames, keyframes included.
        prompt_first: (D,) features of the first keyframe's prompt.
        prompt_last: (D,) of the last keyframe's.
        negative: (D,) of the negative prompt.
        positions: (F,) the frames' positions s.
    """
    x, s = images[1:-1], positions[1:-1]
    if not len(x):
        return float("nan")
    first, last, against = (_cosine(x, text) for text in (prompt_first, prompt_last, negative))
    return float(((1 - s) * first + s * last - against).mean())


def _triangle(a: Array) -> Array:
    """The R of a = Q R where that is smaller than a."""
    if len(a) <= a.shape[1]:
        return a
    small: Any = np.linalg.qr(a, mode="r")
    return np.asarray(small)


def _kernel(u: Array, v: Array) -> Array:
    values: Array = u @ v.T / u.shape[1] + 1.0
    return values * values * values


def _cosine(x: Array, text: Array) -> Array:
    cosine: Array = x @ text / (np.linalg.norm(x, axis=1) * np.linalg.norm(text))
    return cosine

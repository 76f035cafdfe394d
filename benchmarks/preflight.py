"""Does what ``segue check`` measures before a film foretell how the film comes out? Its limits and its score.

    segue batch benchmarks/pairs/manifest.jsonl -o out/films                     # makes the films
    python benchmarks/preflight.py benchmarks/pairs/manifest.jsonl --films out/films

The limits are the upper quartiles of the distances over the pairs. The score is the weighted sum of layout, style and
content that best gives the ranks of the outcome, with weights of 0 or more; the outcome is the largest distance of
neighbouring frames, ranked over the pairs, mean of the ranks by two networks: pocket's CLIP, which the score's content
uses too, and the pixels, which it does not use. Each pair is foretold by the weights that the other pairs give, and the
rank correlations (Spearman's) with the outcome by each network are those of these foretold scores, with bootstrap
intervals over the pairs. The score is worth showing if both intervals lie above 0; then the constant to set in
``segue/check.py`` is printed. Two other outcomes are foretold in the same way, for comparison.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import rankdata, spearmanr

from segue import Morph
from segue.batch.manifest import Pair, read_pairs
from segue.cli.check import Preflight, Score, preflight
from segue.evaluate.measures import path_length
from segue.evaluate.statistics import resampled_pairs
from segue.models.clip import Clip
from segue.models.features.distances import Array, SequencePath
from segue.models.features.networks import network_named
from segue.pictures.images import load
from segue.pose.keypoints import Pose

NETWORKS = ("pocket", "pixels")  # used by the score's content, and not used
OUTCOMES: dict[str, Callable[[SequencePath], float]] = {
    "largest step": lambda path: float(path.steps.max()),
    "path length": path_length,
    "middle to nearest keyframe": lambda path: float(min(path.to_first[_middle(path)], path.to_last[_middle(path)])),
}
FORETOLD = "largest step"  # what the score is for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--films", type=Path, required=True, help="run folders of uniform films, by the pairs' names")
    parser.add_argument("-o", "--output", type=Path, help="a CSV of all that was measured")
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.pairs)
    if missing := [pair.name for pair in pairs if not (arguments.films / pair.name / "state.json").exists()]:
        print(f"{len(missing)} pairs have no film in {arguments.films} (such as {missing[0]}) and are left out")
        pairs = tuple(pair for pair in pairs if pair.name not in missing)
    found = distances(pairs)
    print_limits(found)
    outcomes = measured(pairs, arguments.films)
    if arguments.output:
        write_csv(pairs, found, outcomes, arguments.output)
    features = np.array([[one.layout, one.style, one.content] for one in found])
    groups = np.array([pair.group for pair in pairs])
    score = None
    for outcome in OUTCOMES:
        told = foretold(features, wanted(outcomes, outcome))
        intervals = [correlation(told, outcomes[outcome, network]) for network in NETWORKS]
        for network, (value, low, high) in zip(NETWORKS, intervals, strict=True):
            inside = spearman(*(within(values, groups) for values in (told, outcomes[outcome, network])))
            print(f"{outcome} by {network}: rank correlation {value:.2f} [{low:.2f}, {high:.2f}]; ", end="")
            print(f"within groups {inside:.2f}")
        if outcome == FORETOLD:
            weakest = min(intervals, key=lambda interval: interval[1])
            score = fitted(features, wanted(outcomes, outcome), weakest)
    assert score is not None
    if score.low > 0:
        print(f"\nBoth intervals lie above 0: set in segue/check.py\n\nSCORE: Score | None = {score}")
    else:
        print("\nAn interval holds 0: leave SCORE = None in segue/check.py, and say so in docs/films.md")


def distances(pairs: Sequence[Pair]) -> list[Preflight]:
    """What ``segue check`` measures of each pair, with the poses of the manifest."""
    clip, found = Clip.load(), []
    for pair in pairs:
        poses = [Pose.load(file) if file else None for file in (pair.pose_a, pair.pose_b)]
        found.append(preflight(load(pair.a), load(pair.b), clip, poses))
    return found


def print_limits(found: Sequence[Preflight]) -> None:
    """The quartiles of each distance; the upper ones are the limits."""
    for name in ("layout", "style", "content", "pose"):
        values = [far for far in (getattr(one, name) for one in found) if far is not None]
        if values:
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            print(f"{name}: {len(values)} pairs, quartiles {low:.3f} {middle:.3f} {high:.3f}")


def measured(pairs: Sequence[Pair], films: Path) -> dict[tuple[str, str], Array]:
    """Each outcome of each pair's film by each network, (pairs,)."""
    found = {}
    for network in map(network_named, NETWORKS):
        paths = [network.path(list(Morph(films / pair.name).frames)) for pair in pairs]
        for outcome, measure in OUTCOMES.items():
            found[outcome, network.name] = np.array([measure(path) for path in paths])
    return found


def wanted(outcomes: dict[tuple[str, str], Array], outcome: str) -> Array:
    """The ranks of an outcome, 0 to 1, mean over the networks."""
    ranks = [rankdata(outcomes[outcome, network]) / len(outcomes[outcome, network]) for network in NETWORKS]
    return np.asarray(np.mean(ranks, 0))


def weights_of(features: Array, outcome: Array) -> Array:
    """Weights of 0 or more, (3,), with which the distances give the outcome best, up to a constant."""
    weights, _ = nnls(features - features.mean(0), outcome - outcome.mean())
    return np.asarray(weights)


def foretold(features: Array, outcome: Array) -> Array:
    """Each pair's weighted sum, by the weights that all other pairs give."""
    others = [np.arange(len(outcome)) != i for i in range(len(outcome))]
    return np.array(
        [one @ weights_of(features[rest], outcome[rest]) for one, rest in zip(features, others, strict=True)]
    )


def fitted(features: Array, outcome: Array, interval: tuple[float, float, float]) -> Score:
    """The score by all pairs, with the weaker of the correlations that it was found to have."""
    weights = weights_of(features, outcome)
    deciles = np.quantile(features @ weights, np.linspace(0, 1, 11))
    layout, style, content = (round(float(weight), 3) for weight in weights)
    return Score(
        layout, style, content, tuple(round(float(one), 4) for one in deciles), *(round(v, 2) for v in interval)
    )


def correlation(told: Array, outcome: Array) -> tuple[float, float, float]:
    """Spearman's rank correlation with its percentile interval over drawn pairs."""
    draws = [spearman(told[drawn], outcome[drawn]) for drawn in resampled_pairs(len(told))]
    low, high = np.quantile(draws, (0.025, 0.975))
    return spearman(told, outcome), float(low), float(high)


def spearman(first: Array, second: Array) -> float:
    """Spearman's rank correlation; 0 where one side does not vary."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def within(values: Array, groups: NDArray[np.str_]) -> Array:
    """Values without the means of their groups, so that differences between groups do not count."""
    means: Array = np.array([values[groups == group].mean() for group in groups])
    return values - means


def write_csv(
    pairs: Sequence[Pair], found: Sequence[Preflight], outcomes: dict[tuple[str, str], Array], path: Path
) -> None:
    """All that was measured, a row for each pair."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pair", "group", *vars(found[0]), *(f"{outcome}, {network}" for outcome, network in outcomes)])
        for i, (pair, one) in enumerate(zip(pairs, found, strict=True)):
            writer.writerow([pair.name, pair.group, *vars(one).values(), *(values[i] for values in outcomes.values())])


def _middle(path: SequencePath) -> int:
    return len(path.to_first) // 2


if __name__ == "__main__":
    main()

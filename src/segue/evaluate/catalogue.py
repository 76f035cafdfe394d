"""Which measures there are: name, meaning, which way is better, and where the definition comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

from segue.evaluate import measures
from segue.models.features.distances import SequencePath

__all__ = ["FILM_MEASURES", "MEASURES", "SET_MEASURES", "Measure", "film_values", "find_measure"]

PAPER = "Wang and Golland 2023, arXiv 2307.12560, section 5"
DIFFMORPHER = "Zhang et al. 2023, arXiv 2312.07409, section 4.4"


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: its key in JSON and CSV.
        label: its heading in tables.
        better: "lower", "higher", "1" (the nearer to 1 the better), or "" where it says nothing by itself.
        definition: in words.
        source: where it is from; empty for Segue's own.
        network: whether it depends on the feature network.
    """

    name: str
    label: str
    better: str
    definition: str
    source: str
    network: bool = True


SET_MEASURES = (
    Measure(
        "fid",
        "FID",
        "lower",
        "Frechet distance of the features of two random in-between frames of each sequence to those of all "
        "keyframes, the paper's way; mean over 10 draws of frames, the same for all schemes.",
        f"{PAPER}; Heusel et al. 2017, arXiv 1706.08500",
    ),
    Measure(
        "fid_all",
        "FID, all frames",
        "lower",
        "The same over all in-between frames.",
        "Heusel et al. 2017, arXiv 1706.08500",
    ),
    Measure(
        "kid",
        "KID",
        "lower",
        "Unbiased squared MMD with the cubic polynomial kernel, all in-between frames against all keyframes, each "
        "against those of other pairs; its expectation does not depend on the number of pairs.",
        "Binkowski et al. 2018, arXiv 1801.01401",
    ),
)
FILM_MEASURES = (
    Measure("ppl", "Path length (PPL)", "", "Sum of the distances between neighbours of a sequence.", PAPER),
    Measure(
        "pdv",
        "Distance variance (PDV)",
        "lower",
        "Variance of the distances between neighbours of a sequence; MorphBench's PDV if the network is LPIPS.",
        DIFFMORPHER,
    ),
    Measure(
        "variation",
        "Step variation",
        "lower",
        "Standard deviation of the distances between neighbours over their mean; 0 is an even pace.",
        "",
    ),
    Measure(
        "jump",
        "Jump at the ends",
        "lower",
        "Mean distance of the first and last in-between frame to their keyframes (end fidelity).",
        "",
    ),
    Measure(
        "relative_jump",
        "Jump / median step",
        "1",
        "The jump over the median of the inner steps; 1 is a film that does not jump at its ends.",
        "",
    ),
    Measure(
        "breaks",
        "Breaks of order",
        "lower",
        "Share of neighbours at which the distance to the first keyframe falls or that to the last one rises "
        "(monotony); 0 is steady progress, 0.5 is no order.",
        "",
    ),
    Measure(
        "margin",
        "CLIP margin",
        "higher",
        "Cosine of the in-between frames to their prompts, weighted by position, minus that to the negative prompt.",
        "Wang and Golland 2023, section 4.4, where it ranks candidates",
    ),
    Measure(
        "sharpness",
        "Sharpness",
        "1",
        "Standard deviation of the Laplacian of the in-between frames over that of their keyframes; a cross-fade "
        "loses it.",
        "Pech-Pacheco et al. 2000",
        network=False,
    ),
)
MEASURES = (*SET_MEASURES, *FILM_MEASURES)


def find_measure(name: str) -> Measure:
    """The measure of a name."""
    return next(measure for measure in MEASURES if measure.name == name)


def film_values(path: SequencePath) -> Mapping[str, float]:
    """The measures of one sequence's path, by name."""
    return {
        "ppl": measures.path_length(path),
        "pdv": measures.distance_variance(path),
        "variation": measures.step_variation(path),
        "jump": measures.jump(path),
        "relative_jump": measures.relative_jump(path),
        "breaks": measures.order_breaks(path),
    }

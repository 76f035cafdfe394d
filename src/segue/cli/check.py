"""What the command ``segue check`` does: print what to expect of each gap between keyframes."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from segue.engine.check import Gap, check_gaps, expect
from segue.engine.interpolator import Interpolator
from segue.machine import limit_threads
from segue.pose.detect import Detector, detector_of
from segue.settings.kinds import ModelSettings

__all__ = ["print_gaps"]


def print_gaps(images: Sequence[Path], *, detector: Detector | None, model: str | None) -> None:
    """Print a line of findings for each gap, and below it what they mean for the film.

    Raises:
        SegueError: a picture cannot be used, or the model or detector is missing.
    """
    detect = detector_of(detector)
    limit_threads()
    interpolator = Interpolator.from_settings(ModelSettings(model=model))
    gaps = check_gaps(images, interpolator.backbone, detect)
    for (left, right), gap in zip(pairwise(images), gaps, strict=True):
        print(f"{left} to {right}: {_findings(gap)}")
        for line in expect(
            gap, is_pocket=interpolator.name == "pocket", has_controlnet=bool(interpolator.backbone.controlnets)
        ):
            print(f"  {line}")


def _findings(gap: Gap) -> str:
    ground = {2: "plain backgrounds", 1: "one plain background, one scene", 0: "scenes"}[sum(gap.plain)]
    people = f"{gap.people[0]} and {gap.people[1]} people, {gap.matched} matched" if any(gap.people) else "no people"
    return f"{ground}, confidence {gap.confidence:.2f}, shapes move {gap.move:.1f} % of the width, {people}"

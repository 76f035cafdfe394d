"""What a run will compute, from its settings: the tree and its noise levels, the camera, the candidates."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from segue.errors import SegueError, warn
from segue.method.motion import Motion
from segue.method.perceptual import PerceptualTree
from segue.method.tree import GrownTree, Midpoint, Tree, UniformTree, noise_levels
from segue.run.schema import sizes_of
from segue.settings.kinds import MorphSettings
from segue.words.prompts import check_words

if TYPE_CHECKING:
    from segue.method.schemes import Level
    from segue.run.folder import RunFolder

__all__ = ["candidates_of", "check_plan", "motion_of", "noise_of", "tree_of", "warn_of_candidates", "warn_of_noise"]

USUAL_NOISE = (0.25, 0.65)  # below, unaligned frames look like a cross-fade; above, frames leave their parents


def tree_of(settings: MorphSettings, pairs: int, grown: Sequence[int], aligned: frozenset[int] = frozenset()) -> Tree:
    """The tree of a film: decided on the way, or fixed, with the smaller ones that it grew from.

    In ``aligned`` gaps noise follows a frame's place, not the level in which it is made.
    """
    if settings.is_perceptual:
        levels = _levels(settings, settings.num_frames)
        return PerceptualTree(pairs, settings.num_frames, levels, settings.max_distance, aligned)
    stages = tuple(
        UniformTree(pairs, num_frames, _levels(settings, num_frames), settings.branching, aligned)
        for num_frames in sizes_of(settings, grown)
    )
    return GrownTree(stages) if len(stages) > 1 else stages[0]


def check_plan(settings: MorphSettings, keyframes: int) -> None:
    """Check that settings fit a film of so many keyframes; nothing is loaded or captioned.

    Raises:
        SegueError: prompts, noise levels, or values for gaps do not fit it.

    Warns:
        Notice: it has noise levels that are not used.
    """
    check_words(settings, keyframes)
    gaps = keyframes - 1 + settings.loop
    for name in ("zoom", "pan", "rotate"):
        if len(values := getattr(settings, name)) > gaps:
            raise SegueError(f"{name}: {len(values)} values for {_count(gaps, 'gap')} between keyframes")
    if len(settings.noise) > 2 and not settings.is_perceptual:
        depth = UniformTree.depth(settings.steps + 1, settings.branching)
        if unused := settings.noise[depth:]:  # a film that grows needs them
            text = f"noise: the tree has {_count(depth, 'level')}; not used: {', '.join(map(str, unused))}"
            warn(text)
    tree_of(settings, gaps, [])


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _levels(settings: MorphSettings, num_frames: int) -> tuple[float, ...]:
    """The noise level of each level of the tree."""
    if len(settings.noise) > 2:
        return settings.noise
    return noise_levels(UniformTree.depth(num_frames, settings.branching), *settings.noise_range)


def noise_of(run: "RunFolder", midpoint: Midpoint) -> float:
    """The noise level of a midpoint: the tree's, or that of an edit."""
    own = run.history.edit(midpoint.key).noise
    return midpoint.noise if own is None else own


def warn_of_noise(levels: Sequence[float], *, aligned: bool) -> None:
    """Say what to expect of noise levels that lie outside the usual ones."""
    low, high = USUAL_NOISE
    if min(levels) < low and not aligned:
        text = (
            f"noise {min(levels):g}: below {low:g} frames look like a cross-fade of their parents; --align moves shapes"
        )
        warn(text)
    if max(levels) > high:
        text = f"noise {max(levels):g}: above {high:g} frames leave their parents"
        warn(text)


def warn_of_candidates(settings: MorphSettings) -> None:
    """Say so where nothing tells the candidates of a frame apart."""
    if settings.candidates > 1 and not (settings.rank_for or settings.rank_against):
        text = f"candidates {settings.candidates}: nothing ranks them, so the first of each frame stays"
        warn(f"{text}; give rank_for or rank_against, pick by hand, or keep_candidates")


def motion_of(settings: MorphSettings) -> Motion:
    """How the camera moves."""
    return Motion(settings.zoom, settings.pan, settings.rotate)


def candidates_of(settings: MorphSettings) -> "Callable[[Level], int]":
    """How many candidates a frame of a level gets."""
    return lambda level: settings.candidates_at(level.number)

"""What a run will compute, from its settings: the tree and its noise levels, the sampling, the camera, the cost."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from segue.backbone import CLEAN, Backbone, NoisePoint, Sampling
from segue.dialogue import Cost
from segue.errors import SegueError, warn
from segue.generate import steps_of
from segue.method.detail import Detail
from segue.motion import Motion
from segue.run import RunFolder
from segue.schemes import Level, Sample, Task
from segue.settings import MorphSettings
from segue.spacing import PerceptualTree
from segue.tree import FrameKey, GrownTree, Midpoint, Tree, UniformTree, noise_levels
from segue.words import check_words

__all__ = [
    "candidates_of",
    "check_plan",
    "cost_of",
    "motion_of",
    "noise_of",
    "sampling_of",
    "tree_of",
    "warn_of_noise",
]

FAR = 1e9  # farther than any two frames look apart
USUAL_NOISE = (0.25, 0.65)  # below, unaligned frames look like a cross-fade; above, frames leave their parents


def tree_of(settings: MorphSettings, pairs: int, grown: Sequence[int], aligned: frozenset[int] = frozenset()) -> Tree:
    """The tree of a film: decided on the way, or fixed, with the smaller ones that it grew from.

    In ``aligned`` gaps noise follows a frame's place, not the level in which it is made.
    """
    if settings.spacing == "perceptual":
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
        SegueWarning: it has noise levels that are not used.
    """
    check_words(settings, keyframes)
    gaps = keyframes - 1 + settings.loop
    for name in ("zoom", "pan", "rotate"):
        if len(values := getattr(settings, name)) > gaps:
            raise SegueError(f"{name}: {len(values)} values for {_counted(gaps, 'gap')} between keyframes")
    if settings.noise_levels and settings.spacing == "uniform":
        depth = UniformTree.depth(settings.steps + 1, settings.branching)
        if unused := settings.noise_levels[depth:]:  # a film that grows needs them
            text = f"noise_levels: the tree has {_counted(depth, 'level')}; not used: {', '.join(map(str, unused))}"
            warn(text)
    tree_of(settings, gaps, [])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sizes_of(settings: MorphSettings, grown: Sequence[int]) -> list[int]:
    """The frames of one gap at each stage of a film: those that it grew through, then its own, then refined."""
    own = (settings.num_frames, settings.steps + 1)
    return [*grown, *sorted({size for size in own if size > max(grown, default=0)})]


def _levels(settings: MorphSettings, num_frames: int) -> tuple[float, ...]:
    """The noise level of each level of the tree."""
    if settings.noise_levels:
        return settings.noise_levels
    depth = UniformTree.depth(num_frames, settings.branching)
    return noise_levels(depth, *settings.noise, settings.noise_spacing)


def noise_of(run: RunFolder, midpoint: Midpoint) -> float:
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


def motion_of(settings: MorphSettings) -> Motion:
    """How the camera moves."""
    return Motion(settings.zoom, settings.pan, settings.rotate)


def sampling_of(settings: MorphSettings) -> Sampling:
    """How the networks denoise."""
    return Sampling(
        solver=settings.solver,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        eta=settings.eta,
        guidance_start=settings.guidance_start,
        guidance_end=settings.guidance_end,
        control_start=settings.control_start,
        control_end=settings.control_end,
    )


def candidates_of(settings: MorphSettings) -> Callable[[Level], int]:
    """How many candidates a frame of a level gets."""
    return lambda level: settings.candidates_at(level.number)


def cost_of(task: Task, tree: Tree, settings: MorphSettings, backbone: Backbone, detail: Detail) -> Cost:
    """What a film costs; where its spacing is decided on the way, at most, in a number of levels that is open (0)."""
    levels, sampling = _planned(task, tree, settings.scheme), sampling_of(settings)
    steps: dict[tuple[NoisePoint | int, Sample], int] = {}  # what frames share is there once for each noise point
    for i, level in enumerate(levels):
        count = settings.candidates_at(level.number) if level.is_final else 1
        each = steps_of(backbone, level, sampling)
        for sample in (Sample(key, number) for key in level.parents for number in range(count)):
            parts = (sample, *detail.alone(level, sample))
            steps |= {(level.start if part.is_shared else i, part): each for part in parts}
    frames = sum(len(level.parents) for level in levels if level.is_final)
    return Cost(0 if settings.spacing == "perceptual" else len(levels), frames, len(steps), sum(steps.values()))


def _planned(task: Task, tree: Tree, scheme: str) -> list[Level]:
    """The levels of a scheme before any is made: frames, parents and noise points, with nothing to blend."""
    made, rows = set(tree.keyframes), list[tuple[Midpoint, ...]]()
    while row := tree.next_level(made, lambda left, right: float(right.place - left.place) * FAR):
        rows.append(row)
        made |= {midpoint.key for midpoint in row}
    parents = {
        m.key: (FrameKey(m.key.pair), FrameKey(m.key.pair + 1)) if m.key.pair in task.aligned else (m.left, m.right)
        for row in rows
        for m in row
    }
    separable, shared = scheme == "branching", bool(task.aligned) and scheme in ("branching", "interpolate-denoise")

    def level(number: int, keys: Iterable[FrameKey], start: NoisePoint, stop: NoisePoint = CLEAN) -> Level:
        frames = {key: parents[key] for key in keys}
        return Level(number, frames, start, stop, lambda _sample: task.latents[FrameKey(0)], separable, shared)

    if scheme == "branching":
        groups: dict[tuple[int, float], list[Midpoint]] = {}
        for i, row in enumerate(rows):
            for midpoint in sorted(row, key=lambda m: m.key):
                groups.setdefault((i, task.noise_of(midpoint)), []).append(midpoint)
        return [level(ms[0].level, [m.key for m in ms], task.point(noise)) for (_, noise), ms in groups.items()]
    if scheme == "interpolate":
        return [level(0, parents, CLEAN)]
    gap = len(parents) // (len(tree.keyframes) - 1) + 1
    is_by_place = scheme == "interpolate-denoise"  # with a noise point for each distance from the nearer keyframe
    count = gap // 2 if is_by_place else len(rows)
    points = [task.point(noise) for noise in noise_levels(count, *task.noise_range)]
    if is_by_place:
        rungs = {key: int(min(key.position, 1 - key.position) * gap) for key in parents}
        return [level(n, [k for k in parents if rungs[k] == count - n], point) for n, point in enumerate(points)]
    legs = enumerate(pairwise([*points, CLEAN]))  # all frames so far go from each noise point to the next one
    return [level(n, [m.key for row in rows[: n + 1] for m in row], *leg) for n, leg in legs]

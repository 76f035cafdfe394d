"""How the networks denoise, from a run's settings, and what that costs."""

from collections.abc import Iterable
from itertools import pairwise

from segue.engine.dialogue import Cost
from segue.engine.driver import steps_beside, steps_of
from segue.method.detail import Detail
from segue.method.diffmorpher import NOISE
from segue.method.diffusion import CLEAN, NoisePoint
from segue.method.schemes import Level, Sample, Sides, Task
from segue.method.tree import FrameKey, Midpoint, Tree, noise_levels
from segue.models.backbone import Backbone, Sampling
from segue.settings.kinds import INVERTING, MorphSettings

__all__ = ["cost_of", "sampling_of"]

FAR = 1e9  # farther than any two frames look apart


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
        image_scale=settings.image_prompt,
        attention=settings.attention,
        attention_share=settings.attention_share,
    )


def cost_of(task: Task, tree: Tree, settings: MorphSettings, backbone: Backbone, detail: Detail) -> Cost:
    """What a film costs; where its spacing is decided on the way, at most, in a number of levels that is open (0)."""
    levels, sampling = _plan_levels(task, tree, settings.scheme), sampling_of(settings)
    steps: dict[tuple[NoisePoint | int, Sample], int] = {}  # what frames share is there once for each noise point
    for i, level in enumerate(levels):
        count = settings.candidates_at(level.number) if level.is_final else 1
        each = steps_of(backbone, level, sampling)
        for sample in (Sample(key, number) for key in level.parents for number in range(count)):
            parts = detail.parts(level, sample)
            for part in parts:
                beside = steps_beside(level, each, sampling, part)
                steps[level.start if part.is_shared else i, part] = each + 2 * beside
    frames = sum(len(level.parents) for level in levels if level.is_final)
    return Cost(0 if settings.is_perceptual else len(levels), frames, len(steps), sum(steps.values()))


def _plan_levels(task: Task, tree: Tree, scheme: str) -> list[Level]:
    """The levels of a scheme before any is made: frames, parents and noise points, with nothing to blend."""
    aligned = task.sight.aligned
    made, rows = set(tree.keyframes), list[tuple[Midpoint, ...]]()
    while row := tree.next_level(made, lambda left, right: float(right.place - left.place) * FAR):
        rows.append(row)
        made |= {midpoint.key for midpoint in row}
    parents = {
        m.key: (FrameKey(m.key.pair), FrameKey(m.key.pair + 1)) if m.key.pair in aligned else (m.left, m.right)
        for row in rows
        for m in row
    }
    first, latent = FrameKey(0), task.latents[FrameKey(0)]
    sides = Sides((first, first), (latent, latent), 0.0)
    separable, shared = scheme == "branching", bool(aligned) and scheme in ("branching", "interpolate-denoise")

    def level(number: int, keys: Iterable[FrameKey], start: NoisePoint, stop: NoisePoint = CLEAN) -> Level:
        frames = {key: parents[key] for key in keys}
        return Level(number, frames, start, stop, lambda _: latent, separable, shared, sides=lambda _: sides)

    if scheme == "branching":
        groups: dict[tuple[int, float], list[Midpoint]] = {}
        for i, row in enumerate(rows):
            for midpoint in sorted(row, key=lambda m: m.key):
                groups.setdefault((i, task.noise_of(midpoint)), []).append(midpoint)
        return [level(ms[0].level, [m.key for m in ms], task.point(noise)) for (_, noise), ms in groups.items()]
    if scheme == "interpolate":
        return [level(0, parents, CLEAN)]
    if scheme in INVERTING:
        point = task.point(NOISE if scheme == "diffmorpher" else task.noise_range[1])
        inverted = Level(0, {key: (key,) for key in tree.keyframes}, CLEAN, point, lambda s: task.latents[s.key])
        return [inverted, *(level(row[0].level, [m.key for m in row], point) for row in rows)]
    gap = len(parents) // (len(tree.keyframes) - 1) + 1
    is_by_place = scheme == "interpolate-denoise"  # with a noise point for each distance from the nearer keyframe
    count = gap // 2 if is_by_place else len(rows)
    points = [task.point(noise) for noise in noise_levels(count, *task.noise_range)]
    if is_by_place:
        rungs = {key: int(min(key.position, 1 - key.position) * gap) for key in parents}
        return [level(n, [k for k in parents if rungs[k] == count - n], point) for n, point in enumerate(points)]
    legs = enumerate(pairwise([*points, CLEAN]))  # all frames so far go from each noise point to the next one
    return [level(n, [m.key for row in rows[: n + 1] for m in row], *leg) for n, leg in legs]

"""The five ways to make the latents in between (the paper's section 4.1 and its Table 1).

Each scheme is a generator over the same primitives: it yields a Level, one leg of denoising for frames that do not
depend on each other, and receives the latents that were chosen for them. With z^l, z^r the parents' clean latents,
eps a noise tensor and (alpha_t, sigma_t) the level's noise point:

    z_t^l = alpha_t z^l + sigma_t eps,   z_t^r = alpha_t z^r + sigma_t eps,   z_t^m = slerp(z_t^l, z_t^r, w)

and z^m is z_t^m, denoised under the conditioning of the midpoint's position.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import groupby
from typing import Protocol

from torch import Tensor

from segue.errors import SegueError
from segue.method.blend import slerp
from segue.method.diffusion import CLEAN, NoisePoint, diffuse
from segue.method.tree import Distance, FrameKey, Midpoint, Tree, UniformTree, noise_levels

__all__ = [
    "Blend",
    "Latents",
    "Level",
    "NamedNoise",
    "Sample",
    "Scheme",
    "Seen",
    "Sides",
    "Sight",
    "Task",
    "branching",
    "denoise_interpolate_denoise",
    "denoise_interpolate_denoise_unshared",
    "ends_of",
    "interpolate",
    "interpolate_denoise",
]

Latents = Mapping[FrameKey, Tensor]  # one latent each, (C, h, w)
Seen = Callable[[FrameKey, Sequence[tuple[FrameKey, Tensor]]], Sequence[Tensor]]
Carry = Callable[[FrameKey, FrameKey, Tensor], Tensor]
Blend = Callable[[Tensor, Tensor, Tensor, NoisePoint, float], Tensor]
Scheme = Generator["Level", Latents, None]


class NamedNoise(Protocol):
    """Noise of a latent's shape, (C, h, w), by purpose, frame, candidate and step."""

    def __call__(self, purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> Tensor:
        """Draw the noise of that name."""


@dataclass(frozen=True)
class Sample:
    """One candidate of one frame.

    Attributes:
        key, candidate: the frame, and the candidate's number.
        alone: the parent that goes the frame's way by itself, in place of the blend of all; with the key of a keyframe,
            one of the two keyframes of the gap that begins there, at its own place.
        of: of such a keyframe alone, the frame whose own seed its noise is drawn from; None for the film's.
    """

    key: FrameKey
    candidate: int = 0
    alone: FrameKey | None = None
    of: FrameKey | None = None

    @property
    def is_shared(self) -> bool:
        """Whether this is a keyframe alone that all frames of a gap share."""
        return self.key.is_keyframe


@dataclass(frozen=True)
class Sides:
    """What a frame lies between, as seen from its place.

    Attributes:
        keys: the left and the right frame.
        latents: their noisy latents (C, h, w), by the frame's noise at its level's start.
        weight: of the right one.
    """

    keys: tuple[FrameKey, FrameKey]
    latents: tuple[Tensor, Tensor]
    weight: float


@dataclass(frozen=True)
class Level:
    """One leg of denoising for frames that do not depend on each other.

    A leg from CLEAN to a noise point is one backwards: keyframes are inverted, which finishes no frame.

    Attributes:
        number: the level of the tree, from 0 (for the schemes with legs: the leg).
        parents: each frame of the level, with the frames that it is made from.
        start: the noise point of the blends.
        stop: where the leg ends; a frame is finished where that is CLEAN.
        blend: the noisy latent (C, h, w) of a sample at ``start``.
        separable: whether ``blend`` takes samples of one parent alone.
        is_shared: whether all frames of a gap have the same noise, and ``blend`` takes its keyframes alone.
        usual: the noise point that the tree gives a frame, which may have another of its own at ``start``.
        sides: what a sample lies between: its parents, or the keyframes; None where nothing is denoised.
    """

    number: int
    parents: Mapping[FrameKey, tuple[FrameKey, ...]]
    start: NoisePoint
    stop: NoisePoint
    blend: Callable[[Sample], Tensor]
    separable: bool = False
    is_shared: bool = False
    usual: Mapping[FrameKey, NoisePoint] = field(default_factory=dict)
    sides: Callable[[Sample], Sides] | None = None

    @property
    def is_final(self) -> bool:
        """Whether the leg's results are finished frames."""
        return self.stop == CLEAN

    @property
    def is_inversion(self) -> bool:
        """Whether the leg goes backwards, from clean latents to their noise."""
        return self.start == CLEAN != self.stop


@dataclass(frozen=True)
class Sight:
    """How frames are seen from another place of the film; as they are, by default.

    Attributes:
        seen: the latents of a frame's parents, as the camera at the frame sees them.
        carry: the latent of a frame on its way, carried from that frame to another.
        aligned: the gaps whose keyframes correspond, so that frames are made straight from them, by one noise for all.
    """

    seen: Seen = lambda _key, parents: [latent for _, latent in parents]
    carry: Carry = lambda _key, _parent, latent: latent
    aligned: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Task:
    """What a scheme works on.

    Attributes:
        latents: the keyframes' clean latents (C, h, w), by the keys of ``tree.keyframes``.
        tree: the frames to make.
        point: the noise point of a noise level.
        noise: named noise.
        blend: the noisy latent between two parents (B, C, h, w), by their noise, its point and the right one's weight.
        sight: how parents are seen from another frame.
        noise_range: the lower and upper end of the noise levels, for the schemes with stacks.
        bias: moves the weight of midpoints next to a keyframe towards it.
        retroactive: blend older frames again in denoise-interpolate-denoise.
        distance: how far apart two finished frames look.
        noise_of: the noise level of a midpoint, where it is not the tree's.
        leads: whether a frame was changed or chosen, so that the frames after it are made from it.
    """

    latents: Latents
    tree: Tree
    point: Callable[[float], NoisePoint]
    noise: NamedNoise
    blend: Blend
    sight: Sight = field(default_factory=Sight)
    noise_range: tuple[float, float] = (0.30, 0.55)
    bias: float = 0.0
    retroactive: bool = False
    distance: Distance = lambda _a, _b: 0.0
    noise_of: Callable[[Midpoint], float] = lambda midpoint: midpoint.noise
    leads: Callable[[FrameKey], bool] = lambda _key: False


def branching(task: Task) -> Scheme:
    """The method: each midpoint from its two parents, level by level, from the largest noise to the smallest.

    Between keyframes that are aligned, the parents are the keyframes themselves, or a frame that leads.
    """
    made = dict(task.latents)
    around: dict[FrameKey, tuple[FrameKey, FrameKey]] = {}  # the neighbours of a frame when it was made
    while midpoints := task.tree.next_level(made, task.distance):
        around |= {m.key: (m.left, m.right) for m in midpoints}
        midpoints = tuple(
            _straight_midpoint(task, m, around) if m.key.pair in task.sight.aligned else m for m in midpoints
        )
        fresh: dict[FrameKey, Tensor] = {}
        by_noise = sorted(midpoints, key=task.noise_of, reverse=True)
        for noise, group in groupby(by_noise, key=task.noise_of):
            fresh |= yield _branching_level(task, made, task.point(noise), sorted(group, key=lambda m: m.key))
        made |= fresh


def _straight_midpoint(
    task: Task, midpoint: Midpoint, around: Mapping[FrameKey, tuple[FrameKey, FrameKey]]
) -> Midpoint:
    """A midpoint whose parents are the keyframes, or within the neighbours of a frame that leads, that frame."""
    left, right = midpoint.left, midpoint.right
    while left in around and not task.leads(left):
        left = around[left][0]
    while right in around and not task.leads(right):
        right = around[right][1]
    # What leads reaches as far as the frames beside it when it was made, as in the tree.
    ends = (
        max(left, around[right][0]) if right in around else left,
        min(right, around[left][1]) if left in around else right,
    )
    weight = (midpoint.key.place - ends[0].place) / (ends[1].place - ends[0].place)
    return replace(midpoint, left=ends[0], right=ends[1], weight=weight)


def _branching_level(task: Task, made: Latents, point: NoisePoint, midpoints: list[Midpoint]) -> Level:
    """Midpoints of one noise point; the parents of each share the candidate's noise."""
    by_key = {midpoint.key: midpoint for midpoint in midpoints}

    def see(midpoint: Midpoint) -> Sequence[Tensor]:
        return task.sight.seen(midpoint.key, [(parent, made[parent]) for parent in (midpoint.left, midpoint.right)])

    def sides(sample: Sample) -> Sides:
        midpoint = by_key[sample.key]
        eps = task.noise("midpoint", sample.key, sample.candidate)
        left, right = (diffuse(latent, eps, point) for latent in see(midpoint))
        return Sides((midpoint.left, midpoint.right), (left, right), bias_weight(midpoint, task.bias))

    def blend(sample: Sample) -> Tensor:
        eps = task.noise("midpoint", sample.of or sample.key, sample.candidate)
        if sample.key.is_keyframe and sample.alone is not None:
            (latent,) = task.sight.seen(sample.alone, [(sample.alone, task.latents[sample.alone])])
            return diffuse(latent, eps, point)
        midpoint = by_key[sample.key]
        left, right = see(midpoint)
        if sample.alone is not None:
            return diffuse(left if sample.alone == midpoint.left else right, eps, point)
        return task.blend(left[None], right[None], eps[None], point, bias_weight(midpoint, task.bias))[0]

    parents = {m.key: (m.left, m.right) for m in midpoints}
    usual = {m.key: task.point(m.noise) for m in midpoints}
    number = midpoints[0].level
    is_shared = bool(task.sight.aligned)
    return Level(number, parents, point, CLEAN, blend, True, is_shared, usual, sides)


def bias_weight(midpoint: Midpoint, bias: float) -> float:
    """The weight of the right parent; next to one keyframe it moves towards that keyframe: 0.1 makes 0.5 to 0.4.

    As in the released code, whose midpoints all lie in the middle; a weight of another value keeps its proportion.
    """
    weight = float(midpoint.weight)
    if midpoint.left.is_keyframe and not midpoint.right.is_keyframe:
        return weight * (1 - 2 * bias)
    if midpoint.right.is_keyframe and not midpoint.left.is_keyframe:
        return 1 - (1 - weight) * (1 - 2 * bias)
    return weight


def interpolate(task: Task) -> Scheme:
    """z_i = slerp(z^0, z^N, i / N), decoded; nothing is denoised."""
    frames = _frames_between(task)

    def blend(sample: Sample) -> Tensor:
        left, right = task.sight.seen(sample.key, [(end, task.latents[end]) for end in ends_of(sample.key)])
        return _slerp(left, right, float(sample.key.position))

    yield Level(0, {key: ends_of(key) for key in frames}, CLEAN, CLEAN, blend)


def interpolate_denoise(task: Task) -> Scheme:
    """Each frame blended from the stacks at a noise point of its own, that falls towards the ends; then denoised."""
    gap = _uniform_tree(task).num_frames - 1
    stacks = _stacks(task, gap // 2, shared=True)
    # The distance to the nearer end, in frames, is the number of the noise point.
    steps = {key: int(min(key.position, 1 - key.position) * gap) for key in _frames_between(task)}
    for number, rung in enumerate(sorted(set(steps.values()), reverse=True)):
        keys = [key for key, step in steps.items() if step == rung]

        def blend(sample: Sample, rung: int = rung) -> Tensor:
            left, right = ends_of(sample.key)
            if sample.alone is not None:  # at its own place, which is that of the key for the left end
                at = sample.alone
                return stacks.left(left, rung, at) if at == left else stacks.right(right, rung, at)
            ends = stacks.left(left, rung, sample.key), stacks.right(right, rung, sample.key)
            return _slerp(*ends, float(sample.key.position))

        parents = {key: ends_of(key) for key in keys}
        is_shared, sides = bool(task.sight.aligned), partial(_sides, stacks, rung)
        yield Level(number, parents, stacks.points[rung - 1], CLEAN, blend, is_shared=is_shared, sides=sides)


def denoise_interpolate_denoise(task: Task, *, shared: bool = True) -> Scheme:
    """The middle frame from the stacks at t_K, denoised to t_{K-1}, blended there with the stacks, and so on to 0."""
    tree = _uniform_tree(task)
    stacks = _stacks(task, tree.depth(tree.num_frames, tree.branching), shared=shared)
    made: set[FrameKey] = set(task.latents)
    state: dict[FrameKey, Tensor] = {}  # all frames in between, at the present noise point
    number = 0
    while midpoints := tree.next_level(made):
        rung = len(stacks.points) - number
        neighbours = {m.key: (m.left, m.right, float(m.weight)) for m in midpoints}
        state |= {key: _blend_at(stacks, rung, state, key, *around) for key, around in neighbours.items()}
        made |= set(neighbours)
        if task.retroactive and number in (1, 2):
            older = {key: _neighbours(key, made) for key in state if key not in neighbours}
            state |= {key: _blend_at(stacks, rung, dict(state), key, *around) for key, around in older.items()}
            neighbours |= older
        stop = stacks.points[rung - 2] if rung > 1 else CLEAN
        parents = {key: (*neighbours.get(key, ())[:2], key) for key in sorted(state)}
        present, sides = partial(_present_latent, dict(state)), partial(_sides, stacks, rung)
        state |= yield Level(number, parents, stacks.points[rung - 1], stop, present, sides=sides)
        number += 1


def denoise_interpolate_denoise_unshared(task: Task) -> Scheme:
    """denoise-interpolate-denoise with independent noise in the stacks of the two keyframes."""
    return denoise_interpolate_denoise(task, shared=False)


@dataclass(frozen=True)
class _Stacks:
    """Ever noisier latents of the keyframes: z_{t'} = a z_t + b eps for consecutive points of T, rungs 1 to K."""

    task: Task
    points: tuple[NoisePoint, ...]  # t_1 < ... < t_K
    shared: bool
    climbed: dict[tuple[FrameKey, FrameKey, str], list[Tensor]] = field(default_factory=dict)  # so far, at their places

    def left(self, keyframe: FrameKey, rung: int, key: FrameKey) -> Tensor:
        """The latent at t_rung of the keyframe that begins a pair, as it is seen at a frame of the pair."""
        return self._climb(keyframe, keyframe, rung, "stack" if self.shared else "stack-left", key)

    def right(self, keyframe: FrameKey, rung: int, key: FrameKey) -> Tensor:
        """The latent at t_rung of the keyframe that ends a pair, as it is seen at a frame of the pair."""
        pair = FrameKey(keyframe.pair - 1)
        return self._climb(keyframe, pair, rung, "stack" if self.shared else "stack-right", key)

    def _climb(self, keyframe: FrameKey, pair: FrameKey, rung: int, purpose: str, key: FrameKey) -> Tensor:
        is_aligned = pair.pair in self.task.sight.aligned
        at = key if is_aligned else keyframe
        # As seen at another frame it is asked for once or twice, and one for each frame would be many.
        stack = self.climbed.setdefault((keyframe, pair, purpose), []) if at == keyframe else []
        if not stack:
            latent = self.task.latents[keyframe]
            stack.append(self.task.sight.seen(at, [(keyframe, latent)])[0] if is_aligned else latent)
        for step in range(len(stack) - 1, rung):
            start = self.points[step - 1] if step else CLEAN
            eps = self.task.noise(purpose, pair, step=step)
            stack.append(diffuse(stack[step], eps, self.points[step], start))
        return stack[rung]


def _stacks(task: Task, count: int, *, shared: bool) -> _Stacks:
    """Stacks over that many noise points, spaced over the noise range."""
    levels = noise_levels(count, *task.noise_range)
    return _Stacks(task, tuple(task.point(f) for f in reversed(levels)), shared)


def _blend_at(
    stacks: _Stacks, rung: int, state: Latents, key: FrameKey, left: FrameKey, right: FrameKey, weight: float
) -> Tensor:
    """The blend of a frame's two neighbours at a rung: keyframes from their stacks, frames as they are."""
    carry = stacks.task.sight.carry
    a = stacks.left(left, rung, key) if left.is_keyframe else carry(key, left, state[left])
    b = stacks.right(right, rung, key) if right.is_keyframe else carry(key, right, state[right])
    return _slerp(a, b, weight)


def _sides(stacks: _Stacks, rung: int, sample: Sample) -> Sides:
    """The keyframes at a rung, as they are seen at a frame."""
    left, right = ends_of(sample.key)
    latents = stacks.left(left, rung, sample.key), stacks.right(right, rung, sample.key)
    return Sides((left, right), latents, float(sample.key.position))


def _present_latent(state: Latents, sample: Sample) -> Tensor:
    """A frame as it is at the present noise point."""
    return state[sample.key]


def _neighbours(key: FrameKey, made: Collection[FrameKey]) -> tuple[FrameKey, FrameKey, float]:
    """The frames made next to a frame on both sides, and where it lies between them."""
    left = max(other for other in made if other.place < key.place)
    right = min(other for other in made if other.place > key.place)
    return left, right, float((key.place - left.place) / (right.place - left.place))


def ends_of(key: FrameKey) -> tuple[FrameKey, FrameKey]:
    """The two keyframes that a frame lies between."""
    return FrameKey(key.pair), FrameKey(key.pair + 1)


def _frames_between(task: Task) -> list[FrameKey]:
    """The frames of a uniform film without its keyframes, in order."""
    return [key for key in _uniform_tree(task).frames if not key.is_keyframe]


def _uniform_tree(task: Task) -> UniformTree:
    """The fixed tree, which every scheme but branching needs."""
    if not isinstance(task.tree, UniformTree):
        raise SegueError("only the scheme branching decides its frames on the way; choose uniform spacing")
    return task.tree


def _slerp(a: Tensor, b: Tensor, weight: float | Fraction) -> Tensor:
    """The slerp of two single latents (C, h, w)."""
    blend: Tensor = slerp(a[None], b[None], float(weight))[0]
    return blend

"""Drive a scheme: compute its levels batch by batch, draw what is made, and have the best candidate chosen.

A batch is written whole, in one file; the samples that are still to be made are cut into batches of a fixed size. So
a run that was killed and continued computes the very batches that an unbroken run computes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from segue.engine.cache_keys import CacheKeys
from segue.engine.choosing import Choosing, numbers
from segue.engine.clock import Clock
from segue.engine.dialogue import Made
from segue.engine.drawing import Drawing
from segue.errors import warn
from segue.machine import free_cached, is_out_of_memory
from segue.method.conditioning import Conditioning
from segue.method.diffusion import CLEAN, NoisePoint
from segue.method.schemes import Latents, Level, NamedNoise, Sample, Scheme
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone, Parents, Sampling, inversion_of
from segue.run.folder import RunFolder
from segue.run.journal import Edit
from segue.run.schema import RUN_FILE

__all__ = ["Denoising", "Driver", "eta_noise", "steps_beside", "steps_of"]

ROUNDING = 1e-4  # of latents and embeddings


@dataclass(frozen=True)
class Denoising:
    """How samples are denoised.

    Attributes:
        backbone, sampling: the networks, and how they are used.
        conditioning: the conditioning of a sample, a batch of one, given the edits of the frames that it is made from.
        noise: named noise, for eta.
    """

    backbone: Backbone
    sampling: Sampling
    conditioning: Callable[[Sample, Mapping[FrameKey, Edit]], Conditioning]
    noise: NamedNoise


class Driver:
    """Makes what is missing of a film, and settles its frames."""

    def __init__(
        self,
        run: RunFolder,
        denoising: Denoising,
        cache_keys: CacheKeys,
        draw: Drawing,
        choosing: Choosing,
        clock: Clock,
        leading: set[FrameKey],
        batch_size: int,
    ) -> None:
        """Work in a run; the frames that were changed or chosen are added to ``leading``.

        ``batch_size`` is how many samples go through the networks at once, halved if memory does not suffice.
        """
        self.run, self.denoising, self.cache_keys = run, denoising, cache_keys
        self.draw, self.choosing, self.clock = draw, choosing, clock
        self.leading, self.batch_size = leading, batch_size
        self.latents: dict[FrameKey, Tensor] = {}  # of the frames that are settled
        self.candidates: dict[FrameKey, int] = {}  # which of its candidates each of them is
        self._shared: set[tuple[NoisePoint, Sample]] = set()  # keyframes alone that are counted

    def __call__(self, scheme: Scheme) -> Iterator[Made]:
        """Run a scheme, not yet started, to its end; yield each frame when it is settled."""
        level = next(scheme, None)
        while level is not None:
            yield from self._make(level)
            try:
                level = scheme.send(self._chosen(level))
            except StopIteration:
                level = None

    def _chosen(self, level: Level) -> Latents:
        return {key: self.latents[key] for key in level.parents}

    def _make(self, level: Level) -> Iterator[Made]:
        """Make all candidates of a level, then settle frame after frame."""
        self.clock.level += 1
        attempts = {key: self.choosing.attempts(level, key) for key in level.parents}
        known = {key: self.choosing.find_choice(level, tries) for key, tries in attempts.items()}
        self._compute(level, [Sample(key, n) for key, tries in attempts.items() for n in numbers(known[key], tries)])
        if self.choosing.keeps_all and level.is_final:  # of frames that were settled without being kept, too
            self.draw(level, [Sample(key, n) for key in level.parents for n in self.choosing.candidates(level, key)])
        chosen: dict[FrameKey, int] = {}
        for key, tries in attempts.items():
            choice = known[key] or self.choosing.choose(level, tries, lambda samples: self._compute(level, samples))
            chosen[key] = choice.candidate
            sample = Sample(key, choice.candidate)
            self.latents[key], self.candidates[key] = self._latent(level, sample), choice.candidate
            if choice.candidate or self.cache_keys.edit(level, sample) != Edit():
                self.leading.add(key)
            if level.is_final:
                made = self.choosing.show(level, choice, tries)
                if made.cache_key not in self.draw.drawn:
                    self.run.picture(made.cache_key)  # a damaged one is named before the film is written of it
                self.run.take_place()  # only now: the first frame may prove impossible
                self.clock.frames += 1
                self.clock.report(key, self.run.frame(key))
                yield made
        self.cache_keys.settle(level, chosen)

    def _compute(self, level: Level, samples: Sequence[Sample]) -> None:
        """Make what is missing of the samples and their pictures, batch by batch."""
        needed = list(dict.fromkeys(part for sample in samples for part in self.draw.detail.parts(level, sample)))
        missing = [part for part in needed if not self.run.has_latent(self.cache_keys(level, part))]
        twins = self._twins(level, samples, missing)
        missing = [part for part in missing if part not in twins]
        counted = {(level.start, part) for part in needed} - self._shared
        self._shared |= {(point, part) for point, part in counted if part.is_shared}
        self.clock.skip(self._count_steps(level, (part for _, part in counted)) - self._count_steps(level, missing))
        while missing:
            batch, before = missing[: self.batch_size], self.clock.step
            try:
                z = self._denoise(level, batch)
            except Exception as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                z = None
            if z is None:  # outside of the handler, which keeps what the batch had allocated
                self.clock.step = before
                self._halve(len(batch))
                continue
            self.run.save_latents({self.cache_keys(level, s): z[j] for j, s in enumerate(batch)})
            self.draw(level, list(dict.fromkeys(replace(part, alone=None) for part in batch if not part.is_shared)))
            missing = missing[len(batch) :]
        if twins:
            self.run.save_latents({self.cache_keys(level, s): self._latent(level, twin) for s, twin in twins.items()})
        self.draw(level, samples)

    def _denoise(self, level: Level, batch: Sequence[Sample]) -> Tensor:
        """One batch from the level's start to its stop, (B, C, h, w)."""
        if level.start == level.stop:
            return torch.stack([level.blend(sample) for sample in batch])
        if level.is_inversion:
            return self.denoising.backbone.invert(
                torch.stack([level.blend(sample) for sample in batch]),
                Conditioning.stack([self._conditioning(level, sample) for sample in batch]),
                level.stop,
                sampling=self.denoising.sampling,
                progress=lambda: self.clock.advance(len(batch)),
            )
        count = partial(steps_beside, level, self._steps(level), self.denoising.sampling)
        made: dict[Sample, Tensor] = {}
        for beside in sorted({count(sample) for sample in batch}):
            samples = [sample for sample in batch if count(sample) == beside]
            made |= zip(samples, self._denoise_group(level, samples, beside), strict=True)
        return torch.stack([made[sample] for sample in batch])

    def _denoise_group(self, level: Level, samples: Sequence[Sample], beside: int) -> Tensor:
        """Samples from the level's start to its stop, (B, C, h, w); their parents beside them in the first steps."""
        done = iter([3 * len(samples)] * beside)
        return self.denoising.backbone.denoise(
            torch.stack([level.blend(sample) for sample in samples]),
            Conditioning.stack([self._conditioning(level, sample) for sample in samples]),
            level.start,
            level.stop,
            sampling=self.denoising.sampling,
            noise=eta_noise(self.denoising.noise, level, samples),
            progress=lambda: self.clock.advance(next(done, len(samples))),
            parents=self._parents(level, samples) if beside else None,
        )

    def _parents(self, level: Level, samples: Sequence[Sample]) -> Parents:
        """What samples lie between, each under the conditioning of its own place."""
        assert level.sides
        sides = [level.sides(sample) for sample in samples]
        latents = [side.latents[end] for end in (0, 1) for side in sides]
        keys = [side.keys[end] for end in (0, 1) for side in sides]
        conditioning = [
            self.denoising.conditioning(Sample(key, self.candidates.get(key, 0)), self.cache_keys.edits.get(key, {}))
            for key in keys
        ]
        return Parents(torch.stack(latents), Conditioning.stack(conditioning), [side.weight for side in sides])

    def _twins(self, level: Level, samples: Sequence[Sample], missing: Sequence[Sample]) -> dict[Sample, Sample]:
        """What is missing between a keyframe and itself, and the keyframe alone whose latent it takes.

        A network gives half-precision results that depend on the batch, so such a film stands still only by copying.
        """
        twins: dict[Sample, Sample] = {}
        for sample in samples if level.is_shared else ():
            left, right = (self.cache_keys.settled[FrameKey(sample.key.pair + end)] for end in (0, 1))
            parts = [p for p in self.draw.detail.parts(level, sample) if p.alone is None or p.is_shared]
            first, *others = parts
            if first.is_shared and left == right:
                twins |= {part: first for part in others if part in missing and self._is_alike(level, part, first)}
        return twins

    def _is_alike(self, level: Level, a: Sample, b: Sample) -> bool:
        """Whether two samples go to the network under the same conditioning, up to rounding."""
        same = torch.allclose(level.blend(a), level.blend(b), rtol=0, atol=ROUNDING)
        return same and self._conditioning(level, a).is_close(self._conditioning(level, b), ROUNDING)

    def _conditioning(self, level: Level, sample: Sample) -> Conditioning:
        return self.denoising.conditioning(sample, self.cache_keys.edits_above(level, sample.key))

    def _halve(self, count: int) -> None:
        """Go on with half of a batch that did not fit, here and when the run is continued."""
        self.batch_size = count // 2
        free_cached()
        frames = "1 frame" if self.batch_size == 1 else f"{self.batch_size} frames"
        text = f"out of memory with {count} frames in a batch; going on with {frames}"
        warn(text)
        if (data := self.run.read(RUN_FILE)) is not None:
            self.run.write(RUN_FILE, {**data, "batch_size": self.batch_size})

    def _latent(self, level: Level, sample: Sample) -> Tensor:
        latent = self.run.latent(self.cache_keys(level, sample))
        assert latent is not None
        return latent

    def _count_steps(self, level: Level, samples: Iterable[Sample]) -> int:
        steps, sampling = self._steps(level), self.denoising.sampling
        return sum(steps + 2 * steps_beside(level, steps, sampling, sample) for sample in samples)

    def _steps(self, level: Level) -> int:
        return steps_of(self.denoising.backbone, level, self.denoising.sampling)


def eta_noise(noise: NamedNoise, level: Level, samples: Sequence[Sample]) -> Callable[[int], Tensor]:
    """The fresh noise of each step of a level by the step's number, (B, C, h, w)."""
    purpose = f"eta-{level.start.timestep:g}"
    return lambda step: torch.stack([noise(purpose, s.of or s.key, s.candidate, step) for s in samples])


def steps_beside(level: Level, steps: int, sampling: Sampling, sample: Sample) -> int:
    """In how many of a sample's denoising steps both its parents are denoised beside it."""
    return sampling.steps_beside(steps) if level.sides and sample.alone is None else 0


def steps_of(backbone: Backbone, level: Level, sampling: Sampling) -> int:
    """Denoising steps of one sample of a level."""
    if level.start == level.stop:
        return 0
    if level.is_inversion:
        return len(backbone.leg(level.stop, CLEAN, inversion_of(sampling)))
    return len(backbone.leg(level.start, level.stop, sampling))

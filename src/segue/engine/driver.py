"""Drive a scheme: compute its levels batch by batch, keep what is made, and have the best candidate chosen.

Everything that is made has a recipe, a digest of what it is made from: the recipes of its parents, its noise points,
its candidate's number and its edit. What the run already holds under a recipe is not made again, so resuming,
growing, remaking, undoing and replaying are one mechanism: run the scheme and make what is missing.

A batch is written whole, in one file; the samples that are still to be made are cut into batches of a fixed size. So
a run that was killed and continued computes the very batches that an unbroken run computes.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from segue.engine.dialogue import AcceptRest, Again, Candidates, Chooser, Cost, Made, Pick, Progress
from segue.errors import SegueError, warn
from segue.machine import free_cached, is_out_of_memory
from segue.method.diffusion import CLEAN, NoisePoint
from segue.method.schemes import Latents, Level, NamedNoise, Sample, Scheme
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone, Sampling
from segue.pictures.alpha import laid_on
from segue.run.folder import RunFolder
from segue.run.journal import Attempt, Choice, Edit
from segue.run.schema import RUN_FILE

__all__ = ["Work", "generate", "steps_of"]

KEPT = 16  # images of keyframes alone that are remembered
ROUNDING = 1e-4  # of latents and embeddings


@dataclass(frozen=True)
class Work:
    """What the driver works with.

    Attributes:
        backbone, sampling: the networks, and how they denoise.
        run: where everything made is kept.
        batch_size: samples in one network call; halved where memory does not suffice.
        conditioning: the conditioning of a sample, a batch of one, given the edits of the frames that it is made from.
        noise: named noise, for eta.
        candidates: how many candidates a frame of a level gets.
        picture: the finished picture of a frame from its decoded image (3, h, w) in [-1, 1] and those of ``alone``.
        alone: the samples of one keyframe alone that the picture of a sample needs.
        judge: scores of pictures, the higher the better.
        choose: who picks, where somebody does.
        report: the progress callback.
        leading: the frames that were changed or chosen, which the driver adds to.
        cost: what all of it costs, for the progress.
        keep_candidates: keep the pictures of candidates that were not chosen.
    """

    backbone: Backbone
    sampling: Sampling
    run: RunFolder
    batch_size: int
    conditioning: Callable[[Sample, Mapping[FrameKey, Edit]], Any]
    noise: NamedNoise
    candidates: Callable[[Level], int]
    picture: Callable[[FrameKey, Tensor, Mapping[Sample, Tensor]], Image.Image]
    alone: Callable[[Level, Sample], Sequence[Sample]] = lambda _level, _sample: ()
    judge: Callable[[Sequence[Image.Image]], list[float]] | None = None
    choose: Chooser | None = None
    report: Callable[[Progress], None] = lambda _progress: None
    leading: set[FrameKey] = field(default_factory=set)
    cost: Cost = field(default_factory=lambda: Cost(0, 0, 0, 0))
    keep_candidates: bool = False


def generate(scheme: Scheme, work: Work, keyframes: Mapping[FrameKey, str]) -> Iterator[Made]:
    """Run a scheme to its end; yield each frame when it is settled.

    Args:
        scheme: the scheme, not yet started.
        work: what to work with.
        keyframes: a recipe for each keyframe (a digest of its picture).
    """
    driver = _Driver(work, dict(keyframes))
    level = next(scheme, None)
    while level is not None:
        yield from driver.make(level)
        try:
            level = scheme.send(driver.chosen(level))
        except StopIteration:
            level = None


def eta_noise(noise: NamedNoise, level: Level, samples: Sequence[Sample]) -> Callable[[int], Tensor]:
    """The fresh noise of each step of a level by the step's number, (B, C, h, w)."""
    purpose = f"eta-{level.start.timestep:g}"
    return lambda step: torch.stack([noise(purpose, s.of or s.key, s.candidate, step) for s in samples])


class _Driver:
    """The state of one generation: recipes and latents of what is settled, and the clock."""

    def __init__(self, work: Work, recipes: dict[FrameKey, str]) -> None:
        self.work = work
        self.recipes = recipes
        self.latents: dict[FrameKey, Tensor] = {}
        self.edits: dict[FrameKey, dict[FrameKey, Edit]] = {}  # of a settled frame and of those that it is made from
        self.shared: set[tuple[NoisePoint, Sample]] = set()  # keyframes alone that are counted
        self.alone: dict[str, Tensor] = {}  # decoded images of keyframes alone, which frames share
        self.known: dict[Sample, str] = {}  # the recipes of the present level
        self.drawn: set[str] = set()  # the recipes whose pictures were made here
        self.ask = work.choose
        self.batch_size = work.batch_size
        self.frames = self.step = self.skipped = 0
        self.level = 0
        self.begun = time.monotonic()

    def chosen(self, level: Level) -> Latents:
        """The latents of a level's frames, as they were settled."""
        return {key: self.latents[key] for key in level.parents}

    def make(self, level: Level) -> Iterator[Made]:
        """Make all candidates of a level, then settle frame after frame."""
        self.level += 1
        self.known.clear()
        attempts = {key: self._attempts(level, key) for key in level.parents}
        settled = {key: self._choice(level, tries) for key, tries in attempts.items()}
        samples = [Sample(key, n) for key, tries in attempts.items() for n in _numbers(settled[key], tries)]
        self._compute(level, samples)
        if self.work.keep_candidates and level.is_final:  # of frames that were settled without being kept, too
            self._draw(level, [Sample(key, n) for key in level.parents for n in self._candidates(level, key)])
        recipes, edits = dict(self.recipes), dict(self.edits)
        for key, tries in attempts.items():
            choice = settled[key] or self._chosen(level, tries)
            recipe = self._recipe(level, Sample(key, choice.candidate))
            recipes[key] = recipe
            edits[key] = self._edits_above(level, key) | self._own_edit(level, key, choice.candidate)
            self.latents[key] = self._latent(recipe)
            if choice.candidate or edits[key].get(key):
                self.work.leading.add(key)
            if level.is_final:
                self._show(level, choice, tries)
                self.frames += 1
                if recipe not in self.drawn:
                    self.work.run.picture(recipe)  # a damaged one is named before the film is written of it
                self.work.run.take_place()  # only now: the first frame may prove impossible
                self._report(key, self.work.run.frame(key))
                yield Made(key, level.number, level.parents[key], choice.candidate, recipe, *self._others(level, tries))
        self.recipes, self.edits = recipes, edits

    def _others(self, level: Level, tries: list[Attempt]) -> tuple[dict[int, str], dict[int, float]]:
        """The candidates of a frame that are not undone and whose pictures are kept, and the scores that they got."""
        run, key = self.work.run, tries[0].key
        recipes = {number: self._recipe(level, Sample(key, number)) for number in self._candidates(level, key)}
        kept = {number: recipe for number, recipe in recipes.items() if run.has_picture(recipe)}
        contexts = [self._context(level, run.history.attempt_of(key, number)) for number in kept]
        scores = run.history.scores(key, contexts)
        return kept, {number: score for number, score in scores.items() if number in kept}

    def _candidates(self, level: Level, key: FrameKey) -> list[int]:
        """The numbers of a frame's candidates that are not undone."""
        count = self.work.candidates(level)
        return self.work.run.history.candidates(key, count, lambda attempt: self._context(level, attempt))

    def _attempts(self, level: Level, key: FrameKey) -> list[Attempt]:
        """The attempts at a frame that count: of legs in between there is only one."""
        if not level.is_final:
            return [Attempt(key)]
        count = self.work.candidates(level)
        return self.work.run.history.attempts(key, count, lambda attempt: self._context(level, attempt))

    def _choice(self, level: Level, tries: list[Attempt]) -> Choice | None:
        """The choice that is made already, or that is none because there is one candidate.

        A person is asked about a single candidate too, unless the film shows it already.
        """
        last, run = tries[-1], self.work.run
        if level.is_final and (choice := run.history.choice(last.key, self._context(level, last))):
            return choice
        if _numbers(None, tries) != [last.first]:
            return None
        only = Sample(last.key, last.first)
        is_asked = self.ask and level.is_final and not run.shows(only.key, self._recipe(level, only))
        return None if is_asked else Choice(only.key, only.candidate, "", "first")

    def _show(self, level: Level, choice: Choice, tries: list[Attempt]) -> None:
        """Show the chosen candidate as the frame; the pictures of the others go."""
        run, recipe = self.work.run, self._recipe(level, Sample(choice.key, choice.candidate))
        if run.shows(choice.key, recipe):
            return
        if not self.work.keep_candidates:
            others = (Sample(choice.key, n) for n in _numbers(None, tries) if n != choice.candidate)
            run.drop(self._recipe(level, sample) for sample in others)
        run.settle(choice.key, recipe)

    def _chosen(self, level: Level, tries: list[Attempt]) -> Choice:
        """Rank, ask or take the first; keep the decision in the journal. What is made again joins the attempts."""
        run, key = self.work.run, tries[0].key
        while True:
            pictures = {n: run.picture(self._recipe(level, Sample(key, n))) for n in _numbers(None, tries)}
            scores = (
                dict(zip(pictures, self.work.judge(list(pictures.values())), strict=True)) if self.work.judge else {}
            )
            shown = Candidates(key, level.number, level.parents[key], pictures, scores, tries[-1].first)
            answer = self.ask(shown) if self.ask else AcceptRest()
            if not isinstance(answer, Pick | Again | AcceptRest):
                raise SegueError(f"a chooser answers with Pick, Again or AcceptRest, not {answer!r}")
            if isinstance(answer, Again):
                tries.append(self._again(level, tries[-1], answer))
                continue
            if isinstance(answer, AcceptRest):
                self.ask = None
                number, by = shown.best, "rank" if scores else "first"
            elif answer.candidate in pictures:
                number, by = answer.candidate, "user"
            else:
                raise SegueError(f"frame {key} has no candidate {answer.candidate}")
            choice = Choice(key, number, self._context(level, tries[-1]), by, scores)
            run.record(choice)
            return choice

    def _again(self, level: Level, attempt: Attempt, answer: Again) -> Attempt:
        """A new attempt at a frame while picking: another edit where one is given, and always other noise."""
        if answer.edit and answer.edit.noise is not None:
            raise SegueError(
                "a frame's noise level cannot change while its level is picked; make the frame again instead"
            )
        edit = replace(answer.edit or replace(attempt.edit, seed=None), noise=attempt.edit.noise)
        first = self.work.run.history.next_candidate(attempt.key, self.work.candidates(level))
        fresh = Attempt(attempt.key, first, answer.count or attempt.count, edit, self._context(level, attempt))
        self.work.run.record(fresh)
        self._compute(level, [Sample(fresh.key, number) for number in fresh.candidates])
        return fresh

    def _compute(self, level: Level, samples: Sequence[Sample]) -> None:
        """Make what is missing of the samples and their pictures, batch by batch."""
        needed = list(dict.fromkeys(part for sample in samples for part in self._parts(level, sample)))
        missing = [part for part in needed if not self.work.run.has_latent(self._recipe(level, part))]
        twins = self._twins(level, samples, missing)
        missing = [part for part in missing if part not in twins]
        counted = {(level.start, part) for part in needed} - self.shared
        self.shared |= {(point, part) for point, part in counted if part.is_shared}
        self._count(level, len(counted) - len(missing), skipped=True)
        while missing:
            batch, before = missing[: self.batch_size], self.step
            try:
                z = self._denoised(level, batch)
            except Exception as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                z = None
            if z is None:  # outside of the handler, which keeps what the batch had allocated
                self.step = before
                self._halve(len(batch))
                continue
            self.work.run.save_latents({self._recipe(level, s): z[j] for j, s in enumerate(batch)})
            self._draw(level, list(dict.fromkeys(replace(part, alone=None) for part in batch if not part.is_shared)))
            missing = missing[len(batch) :]
        if twins:
            copies = {
                self._recipe(level, part): self._latent(self._recipe(level, twin)) for part, twin in twins.items()
            }
            self.work.run.save_latents(copies)
        self._draw(level, samples)

    def _twins(self, level: Level, samples: Sequence[Sample], missing: Sequence[Sample]) -> dict[Sample, Sample]:
        """What is missing between a keyframe and itself, and the keyframe alone whose latent it takes.

        A network gives half-precision results that depend on the batch, so such a film stands still only by copying.
        """
        twins: dict[Sample, Sample] = {}
        for sample in samples:
            ends = FrameKey(sample.key.pair), FrameKey(sample.key.pair + 1)
            first, *others = [part for part in self._parts(level, sample) if part.alone is None or part.is_shared]
            if first.is_shared and self.recipes[ends[0]] == self.recipes[ends[1]]:
                twins |= {part: first for part in others if part in missing and self._is_alike(level, part, first)}
        return twins

    def _is_alike(self, level: Level, a: Sample, b: Sample) -> bool:
        """Whether two samples go to the network under the same conditioning, up to rounding."""
        same = torch.allclose(level.blend(a), level.blend(b), rtol=0, atol=ROUNDING)
        given = [self.work.conditioning(sample, self._edits_above(level, sample.key)) for sample in (a, b)]
        return same and bool(given[0].is_close(given[1], ROUNDING))

    def _parts(self, level: Level, sample: Sample) -> list[Sample]:
        """A sample, and those of a keyframe alone that its picture needs; those that frames share come first."""
        alone = self.work.alone(level, sample)
        return [*(part for part in alone if part.is_shared), sample, *(part for part in alone if not part.is_shared)]

    def _halve(self, count: int) -> None:
        """Go on with half of a batch that did not fit, here and when the run is continued."""
        self.batch_size = count // 2
        free_cached()
        frames = "1 frame" if self.batch_size == 1 else f"{self.batch_size} frames"
        text = f"out of memory with {count} frames in a batch; going on with {frames}"
        warn(text)
        data = self.work.run.read(RUN_FILE)
        if data is not None:
            self.work.run.write(RUN_FILE, {**data, "batch_size": self.batch_size})

    def _denoised(self, level: Level, batch: Sequence[Sample]) -> Tensor:
        """One batch from the level's start to its stop, (B, C, h, w)."""
        z = torch.stack([level.blend(sample) for sample in batch])
        if level.start == level.stop:
            return z
        parts = [self.work.conditioning(sample, self._edits_above(level, sample.key)) for sample in batch]

        def progress() -> None:
            self.step += len(batch)
            self._report()

        return self.work.backbone.denoise(
            z,
            type(parts[0]).stack(parts),
            level.start,
            level.stop,
            sampling=self.work.sampling,
            noise=eta_noise(self.work.noise, level, batch),
            progress=progress,
        )

    def _draw(self, level: Level, samples: Sequence[Sample]) -> None:
        """Make the pictures that are missing and can be made."""
        if level.is_final:
            self.work.run.save_pictures(self._drawn(level, samples))

    def _drawn(self, level: Level, samples: Sequence[Sample]) -> Iterator[tuple[str, Image.Image]]:
        """Decode what is missing and can be decoded, one at a time, so that no batch matters to the pictures."""
        run = self.work.run
        for sample in samples:
            recipe = self._recipe(level, sample)
            if run.has_picture(recipe):
                continue
            recipes = {part: self._recipe(level, part) for part in self._parts(level, sample)}
            if not all(run.has_latent(part) for part in recipes.values()):
                continue  # the rest of it is in the next batch
            image = self._decoded(sample.key, recipe)
            alone = {part: self._decoded_alone(part, name) for part, name in recipes.items() if part.alone is not None}
            picture = self.work.picture(sample.key, image, alone)
            if _is_black(picture):
                self._warn_of_black(sample.key, level.parents[sample.key])
            self.drawn.add(recipe)
            yield recipe, picture

    def _decoded(self, key: FrameKey, recipe: str, *, screened: bool = True) -> Tensor:
        """The image (3, H, W) in [-1, 1] of a recipe of a frame."""
        image = self.work.backbone.decode(self._latent(recipe)[None], screened=screened)[0]
        if not torch.isfinite(image).all():
            raise SegueError(
                f"frame {key}: the model gave no numbers (NaN) for its picture; "
                "load it with dtype float32 (or bfloat16)"
            )
        return image

    def _decoded_alone(self, part: Sample, recipe: str) -> Tensor:
        """The image (3, h, w) of a keyframe alone; one that frames share is decoded once in a level."""
        if recipe in self.alone:
            return self.alone[recipe]
        image = self._decoded(part.key, recipe, screened=False)
        if part.is_shared:
            if len(self.alone) >= KEPT:
                self.alone.pop(next(iter(self.alone)))
            self.alone[recipe] = image
        return image

    def _warn_of_black(self, key: FrameKey, parents: Sequence[FrameKey]) -> None:
        """Name a black picture, unless it comes of black ones."""
        run = self.work.run
        if not any(run.frame(parent).exists() and _is_black(run.shown(parent)) for parent in parents):
            text = f"frame {key} is all black: a safety checker may have blacked it out, which another seed or prompt"
            text = f"{text} mends; or the model overflows, which dtype float32 (or bfloat16) mends"
            warn(text)

    def _latent(self, recipe: str) -> Tensor:
        latent = self.work.run.latent(recipe)
        assert latent is not None
        return latent

    def _own_edit(self, level: Level, key: FrameKey, candidate: int) -> dict[FrameKey, Edit]:
        """The edit that a candidate of a frame was made under, by the frame; nothing where there was none."""
        edit = self.work.run.history.attempt_of(key, candidate).edit if level.is_final else Edit()
        return {} if edit == Edit() else {key: edit}

    def _edits_above(self, level: Level, key: FrameKey) -> dict[FrameKey, Edit]:
        """The edits of the frames that a frame is made from, and of those that they are made from."""
        return {k: edit for parent in level.parents.get(key, ()) for k, edit in self.edits.get(parent, {}).items()}

    def _recipe(self, level: Level, sample: Sample) -> str:
        """The recipe of a sample: the frame's name, a digest of what it is made from, and the parent alone."""
        if sample not in self.known:
            edit = self.work.run.history.attempt_of(sample.key, sample.candidate).edit if level.is_final else Edit()
            recipe = f"{sample.key.name}-{self._digest(level, sample.key, sample.candidate, edit)}"
            parts = [recipe, *(key.name for key in (sample.alone, sample.of) if key is not None)]
            self.known[sample] = "-".join(parts)
        return self.known[sample]

    def _context(self, level: Level, attempt: Attempt) -> str:
        """What a choice among an attempt's candidates holds for."""
        return self._digest(level, attempt.key, attempt.first, attempt.edit)

    def _digest(self, level: Level, key: FrameKey, number: int, edit: Edit) -> str:
        parents = [self.recipes.get(parent, "") for parent in level.parents.get(key, ())]
        start = level.usual.get(key, level.start) if edit.noise is None else self.work.backbone.point(edit.noise)
        text = repr((str(key.place), parents, start.timestep, level.stop.timestep, number, edit))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _count(self, level: Level, samples: int, *, skipped: bool) -> None:
        """Samples that need no work count as done, but not for the speed."""
        steps = samples * steps_of(self.work.backbone, level, self.work.sampling)
        self.step += steps
        self.skipped += steps if skipped else 0

    def _report(self, key: FrameKey | None = None, file: Path | None = None) -> None:
        seconds = time.monotonic() - self.begun
        worked, cost = self.step - self.skipped, self.work.cost
        left = seconds / worked * max(cost.steps - self.step, 0) if worked and cost.steps else None
        self.work.report(
            Progress(
                "frames",
                self.level,
                cost.levels,
                self.frames,
                cost.frames,
                self.step,
                cost.steps,
                seconds,
                left,
                key,
                file,
            )
        )


def _numbers(choice: Choice | None, tries: Sequence[Attempt]) -> list[int]:
    """The candidates that are needed: the chosen one, or all of the attempts."""
    return [n for attempt in tries for n in attempt.candidates] if choice is None else [choice.candidate]


def _is_black(picture: Image.Image) -> bool:
    """Whether a picture shows nothing at all."""
    return laid_on(picture, "black").getbbox() is None


def steps_of(backbone: Backbone, level: Level, sampling: Sampling) -> int:
    """Denoising steps of one sample of a level."""
    start: NoisePoint = level.start
    return 0 if start == level.stop or start == CLEAN else backbone.steps(start, level.stop, sampling)

"""The film's words as conditioning: found, embedded, fitted to the keyframes (section 4.2)."""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from PIL import Image

from segue.engine.control import Controls, Edits
from segue.engine.dialogue import Progress
from segue.errors import warn
from segue.method.noise import Noise
from segue.method.path import ConditioningPath
from segue.method.schemes import Latents, Sample
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone
from segue.models.conditioning import TextConditioning
from segue.run.folder import RunFolder
from segue.settings.kinds import MorphSettings
from segue.words.captions import captions, describe_captions, prompts_of
from segue.words.inversion import invert
from segue.words.prompts import anchors, prompts

__all__ = ["Words", "words_of"]


@dataclasses.dataclass
class Words:
    """The conditioning of each sample: the film's path, or a frame's own words."""

    backbone: Backbone
    run: RunFolder
    path: Callable[[Fraction], TextConditioning]
    negative_prompt: str
    controls: Controls | None = None
    known: dict[tuple[str, str], TextConditioning] = dataclasses.field(default_factory=dict)

    def __call__(self, sample: Sample, edits: Edits) -> TextConditioning:
        """The conditioning of a sample, a batch of one; ``edits`` are those of the frames that it is made from."""
        if sample.is_shared and sample.alone is not None:  # a keyframe at its own place
            sample = Sample(sample.alone)
        words = self.path(sample.key.place)
        edit = self.run.history.attempt_of(sample.key, sample.candidate).edit
        if edit.prompt is not None:
            words = dataclasses.replace(words, prompt=self._embed(edit.prompt, self.negative_prompt).prompt)
        if edit.negative_prompt is not None:
            words = dataclasses.replace(words, negative=self._embed("", edit.negative_prompt).negative)
        return dataclasses.replace(words, controls=self.controls(sample, edits)) if self.controls else words

    def _embed(self, prompt: str, negative: str) -> TextConditioning:
        if (prompt, negative) not in self.known:
            found: Any = self.backbone.embed([prompt], [negative])
            self.known[prompt, negative] = found
        return self.known[prompt, negative]


def words_of(
    backbone: Backbone,
    run: RunFolder,
    settings: MorphSettings,
    keyframes: Sequence[Image.Image],
    latents: Latents,
    *,
    model_name: str,
    report: Callable[[Progress], None],
) -> Words:
    """The words of a film; what was found and fitted for them is kept in the run.

    Args:
        backbone: embeds prompts, and is what they are fitted for.
        run: the run folder, open.
        settings: prompts, or none to have captions found, and how they are fitted.
        keyframes: the keyframes as the film shows them.
        latents: their clean latents (C, h, w).
        model_name: the model that captions are found for.
        report: is handed the captions that were found, and each iteration of textual inversion.

    Warns:
        Notice: guidance has nothing to follow.
    """
    texts = run.read("prompts.json") or {}
    if "prompts" not in texts:
        found = [] if settings.prompt else captions(keyframes, settings.captioner, model_name=model_name)
        texts = {"prompts": prompts(settings, len(keyframes), lambda: prompts_of(found))}
        run.write("prompts.json", texts)
        if line := describe_captions(found):
            report(Progress("words", text=line))
        elif not any(texts["prompts"]):
            _warn_of_guidance(settings)
    path = cache(lambda: _path(backbone, run, settings, texts["prompts"], keyframes, latents, report))
    if settings.inversion:
        path()
    # Prompts that are only embedded are so when they are first needed: a finished film needs none.
    return Words(backbone, run, lambda place: path()(place), settings.negative_prompt)


def _warn_of_guidance(settings: MorphSettings) -> None:
    """Warn of guidance if no keyframe has a prompt and there are no other words that it could follow."""
    has_words = settings.negative_prompt.strip() or settings.prompt_at or settings.inversion
    guides = settings.guidance_scale > 1 and settings.guidance_start < settings.guidance_end
    if guides and not has_words and settings.scheme != "interpolate":
        warn(f"guidance_scale {settings.guidance_scale:g} has no prompt to follow: give --prompt, or a captioner")


def _path(
    backbone: Backbone,
    run: RunFolder,
    settings: MorphSettings,
    texts: Sequence[str],
    keyframes: Sequence[Image.Image],
    latents: Latents,
    report: Callable[[Progress], None],
) -> ConditioningPath[Any]:
    """The words of each keyframe, embedded and fitted, and of the places in between that have a prompt."""
    count = len(keyframes)
    with backbone.evaluating():
        words: Any = backbone.embed(texts, [settings.negative_prompt] * count)
    if settings.inversion:
        inverted = invert(
            backbone,
            torch.stack([latents[FrameKey(i)] for i in range(count)]),
            words,
            settings,
            Noise(settings.seed),
            [FrameKey(i) for i in range(count)],
            pictures=keyframes,
            folder=run.path / "words",
            progress=lambda step, steps: report(Progress("words", step=step, steps=steps)),
        )
        words = inverted.words
        run.save_losses(inverted.losses)

    def at(which: int | str) -> Any:
        """A keyframe's words, or a prompt in between, with the keyframes' negative embedding, fitted or not."""
        if isinstance(which, int):
            return words.sample(which)
        between: Any = backbone.embed([which], [""])
        return dataclasses.replace(between, negative=words.sample(0).negative)

    with backbone.evaluating():
        placed: Any = [(place, at(which)) for place, which in anchors(settings, count)]
    return ConditioningPath(placed, settings.embedding_blend)

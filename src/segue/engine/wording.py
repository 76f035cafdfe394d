"""The film's words as conditioning: found, embedded, fitted to the keyframes (section 4.2)."""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from segue.engine.control import Controls, Edits
from segue.engine.dialogue import Progress
from segue.errors import warn
from segue.method.conditioning import Conditioning
from segue.method.noise import Noise
from segue.method.path import ConditioningPath
from segue.method.schemes import Latents, Sample
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone
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
    path: Callable[[Fraction], Conditioning]
    negative_prompt: str
    controls: Controls | None = None
    lora_weights: Callable[[Fraction], Tensor] | None = None
    known: dict[tuple[str, str], Conditioning] = dataclasses.field(default_factory=dict)
    pictures: dict[str, Conditioning] = dataclasses.field(default_factory=dict)

    def __call__(self, sample: Sample, edits: Edits) -> Conditioning:
        """The conditioning of a sample, a batch of one; ``edits`` are those of the frames that it is made from."""
        if sample.is_shared and sample.alone is not None:  # a keyframe at its own place
            sample = Sample(sample.alone)
        words = self.path(sample.key.place)
        edit = self.run.history.attempt_of(sample.key, sample.candidate).edit
        if edit.prompt is not None:
            words = words.with_prompt_of(self._embed(edit.prompt, self.negative_prompt))
        if edit.negative_prompt is not None:
            words = words.with_negative_prompt_of(self._embed("", edit.negative_prompt))
        if edit.image is not None:
            words = words.with_image_of(self._embed_image(str(edit.image)))
        if self.lora_weights:
            words = words.with_lora(self.lora_weights(sample.key.place))
        return dataclasses.replace(words, controls=self.controls(sample, edits)) if self.controls else words

    def _embed(self, prompt: str, negative: str) -> Conditioning:
        if (prompt, negative) not in self.known:
            self.known[prompt, negative] = self.backbone.embed([prompt], [negative])
        return self.known[prompt, negative]

    def _embed_image(self, name: str) -> Conditioning:
        if name not in self.pictures:
            self.pictures[name] = self.backbone.embed([""], [""], [self.run.image(name)])
        return self.pictures[name]


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
            _warn_of_guidance(settings, with_images=_has_image_prompts(backbone, settings))
    path = cache(lambda: _path(backbone, run, settings, texts["prompts"], keyframes, latents, report))
    if settings.inversion:
        path()
    # Prompts that are only embedded are so when they are first needed: a finished film needs none.
    return Words(backbone, run, lambda place: path()(place), settings.negative_prompt)


def _warn_of_guidance(settings: MorphSettings, *, with_images: bool) -> None:
    """Warn of guidance if no keyframe has a prompt and there is nothing else that it could follow."""
    has_words = with_images or settings.negative_prompt.strip() or settings.prompt_at or settings.inversion
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
) -> Callable[[Fraction], Conditioning]:
    """The words of each keyframe, embedded and fitted, and of the places in between that have a prompt.

    Image prompts go from keyframe to keyframe, whatever prompts there are in between.
    """
    count = len(keyframes)
    images = keyframes if _has_image_prompts(backbone, settings) else ()
    with backbone.evaluating():
        words = backbone.embed(texts, [settings.negative_prompt] * count, images)
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

    def at(which: int | str) -> Conditioning:
        """A keyframe's words, or a prompt in between, with the keyframes' negative embedding, fitted or not."""
        if isinstance(which, int):
            return words.sample(which)
        return words.sample(0).with_prompt_of(backbone.embed([which], [""]))

    fixed = anchors(settings, count)
    with backbone.evaluating():
        placed = [(place, at(which)) for place, which in fixed]
    path = ConditioningPath(placed, settings.embedding_blend)
    if not images:
        return path
    keyframes_only = [one for one, (_, which) in zip(placed, fixed, strict=True) if isinstance(which, int)]
    pictures = ConditioningPath(keyframes_only)
    return lambda place: path(place).with_image_of(pictures(place))


def _has_image_prompts(backbone: Backbone, settings: MorphSettings) -> bool:
    """Whether the keyframes are their own prompts."""
    return backbone.takes_images and settings.image_prompt != 0

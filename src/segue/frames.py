"""What each frame is made under: its noise, its words; and how far apart two frames look."""

import dataclasses
from collections.abc import Callable, Collection
from fractions import Fraction
from typing import Any

from torch import Tensor

from segue.backbone import Backbone
from segue.backbone.stable_diffusion import TextConditioning
from segue.clip import Clip
from segue.control import Controls
from segue.noise import Noise
from segue.run import RunFolder
from segue.schemes import Sample
from segue.spacing import PerceptualTree
from segue.tree import Distance, FrameKey, Midpoint

__all__ = ["DecidedTree", "EditedNoise", "Look", "Words"]


@dataclasses.dataclass
class Words:
    """The conditioning of each sample: the film's path, or a frame's own words."""

    backbone: Backbone
    run: RunFolder
    path: Callable[[Fraction], TextConditioning]
    negative_prompt: str
    controls: Controls | None = None
    known: dict[tuple[str, str], TextConditioning] = dataclasses.field(default_factory=dict)

    def __call__(self, sample: Sample) -> TextConditioning:
        """The conditioning of a sample, a batch of one."""
        words = self.path(sample.key.place)
        edit = self.run.history.attempt_of(sample.key, sample.candidate).edit
        if edit.prompt is not None:
            words = dataclasses.replace(words, prompt=self._embedded(edit.prompt, self.negative_prompt).prompt)
        if edit.negative_prompt is not None:
            words = dataclasses.replace(words, negative=self._embedded("", edit.negative_prompt).negative)
        return dataclasses.replace(words, controls=self.controls(sample)) if self.controls else words

    def _embedded(self, prompt: str, negative: str) -> TextConditioning:
        if (prompt, negative) not in self.known:
            found: Any = self.backbone.embed([prompt], [negative])
            self.known[prompt, negative] = found
        return self.known[prompt, negative]


@dataclasses.dataclass
class Look:
    """How far apart two finished frames look: 1 - cosine of their CLIP features."""

    run: RunFolder
    name: str
    features: dict[FrameKey, Tensor] = dataclasses.field(default_factory=dict)
    clip: Clip | None = None

    def __call__(self, left: FrameKey, right: FrameKey) -> float:
        """The distance of two frames, from 0 to 2."""
        return 1 - float(self._feature(left) @ self._feature(right))

    def _feature(self, key: FrameKey) -> Tensor:
        if key not in self.features:
            self.clip = self.clip or Clip.load(None if self.name == "pocket" else self.name)
            self.features[key] = self.clip.images([self.run.shown(key)])[0]
        return self.features[key]


@dataclasses.dataclass(frozen=True)
class EditedNoise:
    """Named noise of a latent's shape; a frame with a seed of its own draws from that."""

    run: RunFolder
    seed: int
    shape: tuple[int, int, int]

    def __call__(self, purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> Tensor:
        """Draw the noise of that name, (C, h, w)."""
        attempt = self.run.history.attempt_of(key, candidate)
        if attempt.edit.seed is None:
            return Noise(self.seed)(purpose, key, candidate=candidate, step=step, shape=self.shape)
        own = Noise(attempt.edit.seed)
        return own(purpose, key, candidate=candidate - attempt.first, step=step, shape=self.shape)


@dataclasses.dataclass
class DecidedTree:
    """A tree that is decided on the way, and kept in the run.

    So continuing a film, and making frames again, does not change which frames there are.
    """

    run: RunFolder
    tree: PerceptualTree
    level: int = 0

    @property
    def keyframes(self) -> tuple[FrameKey, ...]:
        """The given frames in the order of the film."""
        return self.tree.keyframes

    def next_level(self, made: Collection[FrameKey], distance: Distance) -> tuple[Midpoint, ...]:
        """The next level as it was decided, or decided now."""
        levels = (self.run.read("tree.json") or {"levels": []})["levels"]
        if self.level == len(levels):
            decided = self.tree.next_level(made, distance)
            levels.append([_as_json(midpoint) for midpoint in decided])
            self.run.write("tree.json", {"levels": levels})
        self.level += 1
        return tuple(_from_json(midpoint) for midpoint in levels[self.level - 1])


def _as_json(midpoint: Midpoint) -> dict[str, Any]:
    keys = {name: str(getattr(midpoint, name).place) for name in ("key", "left", "right")}
    return {**keys, "weight": str(midpoint.weight), "level": midpoint.level, "noise": midpoint.noise}


def _from_json(values: dict[str, Any]) -> Midpoint:
    key, left, right = (FrameKey.at(Fraction(values[name])) for name in ("key", "left", "right"))
    return Midpoint(key, left, right, Fraction(values["weight"]), values["level"], values["noise"])

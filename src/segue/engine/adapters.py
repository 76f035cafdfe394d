"""What the frames are made under: their noise, and the tree that is decided on the way by how far apart they look."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from segue.method.noise import Noise
from segue.method.perceptual import PerceptualTree
from segue.method.schemes import Sample
from segue.method.tree import Distance, FrameKey, Midpoint, Tree
from segue.models.features.distances import Array
from segue.models.features.networks import reuse_network
from segue.run.folder import RunFolder

__all__ = ["DecidedTree", "EditedNoise", "FrameDistance"]


@dataclasses.dataclass
class FrameDistance:
    """How far apart two finished frames look to a feature network; what is measured once is remembered.

    Attributes:
        run: where the frames are.
        name: the network, as ``segue evaluate`` names it; it is loaded when the first distance is asked for.
    """

    run: RunFolder
    name: str
    measured: dict[tuple[FrameKey, FrameKey], float] = dataclasses.field(default_factory=dict)
    features: dict[FrameKey, Array] = dataclasses.field(default_factory=dict)

    def __call__(self, left: FrameKey, right: FrameKey) -> float:
        """The distance of two frames, in the network's units."""
        if (left, right) not in self.measured:
            network = reuse_network(self.name)
            if network.features is None:
                apart = network.path([self.run.shown_image(left), self.run.shown_image(right)]).steps[0]
            else:
                apart = np.linalg.norm(self._feature(network.features, left) - self._feature(network.features, right))
            self.measured[left, right] = float(apart)
        return self.measured[left, right]

    def _feature(self, features: Callable[[Sequence[Image.Image]], Array], key: FrameKey) -> Array:
        """A frame as a vector, (D,)."""
        if key not in self.features:
            self.features[key] = features([self.run.shown_image(key)])[0]
        return self.features[key]


@dataclasses.dataclass(frozen=True)
class EditedNoise:
    """Named noise of a latent's shape; a frame with a seed of its own draws from that.

    All frames of a gap in ``by_gap`` have the noise that is named after its beginning.
    """

    run: RunFolder
    seed: int
    shape: tuple[int, int, int]
    by_gap: frozenset[int] = frozenset()

    def has_seed(self, sample: Sample) -> bool:
        """Whether a candidate of a frame has a seed of its own."""
        return self.run.history.attempt_of(sample.key, sample.candidate).edit.seed is not None

    def __call__(self, purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> Tensor:
        """Draw the noise of that name, (C, h, w)."""
        attempt = self.run.history.attempt_of(key, candidate)
        name = FrameKey(key.pair) if key.pair in self.by_gap else key
        if attempt.edit.seed is None:
            return Noise(self.seed)(purpose, name, candidate=candidate, step=step, shape=self.shape)
        own = Noise(attempt.edit.seed)
        return own(purpose, name, candidate=candidate - attempt.first, step=step, shape=self.shape)


@dataclasses.dataclass
class DecidedTree:
    """A tree that is decided on the way, and kept in the run.

    So continuing a film, and making frames again, does not change which frames there are.
    """

    run: RunFolder
    tree: PerceptualTree
    level: int = 0

    @classmethod
    def of(cls, run: RunFolder, tree: Tree) -> Tree:
        """A tree that is decided on the way as one that is kept; any other as it is."""
        return cls(run, tree) if isinstance(tree, PerceptualTree) else tree

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

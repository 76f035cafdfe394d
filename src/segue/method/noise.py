"""Named noise: every random tensor is drawn from a generator of its own, seeded by what the noise is for.

So no noise depends on the batch, the order of the work, the device, or on how many other frames there are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from segue.method.tree import FrameKey

__all__ = ["Noise"]


@dataclass(frozen=True)
class Noise:
    """The noise of one seed: ``noise("midpoint", key, shape=(4, 64, 64))``."""

    seed: int

    def __call__(
        self, purpose: str, key: FrameKey, *, shape: Sequence[int], candidate: int = 0, step: int = 0
    ) -> Tensor:
        """Draw standard normal noise, float32 on the CPU.

        Args:
            purpose: what the noise is for ("midpoint", "stack", "eta", "inversion", ...).
            key: the frame it belongs to.
            shape: the tensor's shape.
            candidate: the number of the candidate, from 0.
            step: the number of the step, from 0.
        """
        generator = self.generator(purpose, key, candidate=candidate, step=step)
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")

    def generator(self, purpose: str, key: FrameKey, *, candidate: int = 0, step: int = 0) -> torch.Generator:
        """The CPU generator that the named noise is drawn from (for timesteps and crops as well as for noise)."""
        place = Fraction(key.position)
        name = f"{self.seed}/{purpose}/{key.pair}/{place.numerator}/{place.denominator}/{candidate}/{step}"
        digest = hashlib.sha256(name.encode()).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)

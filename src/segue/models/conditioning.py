"""What the Stable Diffusion family is conditioned on: the embeddings of text, and images for ControlNets."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from segue.errors import warn
from segue.method.blend import lerp, slerp

__all__ = ["Control", "TextConditioning", "cut"]


@dataclass(frozen=True, eq=False)
class Control:
    """The images that one ControlNet is given, and how strongly it acts on each sample."""

    image: Tensor  # (B, 3, H, W) float32 in [0, 1], of the frames' size
    scale: Tensor  # (B,) float32


@dataclass(frozen=True, eq=False)
class TextConditioning:
    """Embeddings of prompts and negative prompts, and a control for each ControlNet (or none): float32 on the CPU."""

    prompt: Tensor  # (B, L, D)
    negative: Tensor  # (B, L, D)
    controls: tuple[Control, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt)

    @classmethod
    def stack(cls, parts: Sequence[Self]) -> Self:
        """One batch of several, which have the same number of controls."""
        controls = zip(*(part.controls for part in parts), strict=True)
        return cls(
            torch.cat([part.prompt for part in parts]),
            torch.cat([part.negative for part in parts]),
            tuple(Control(torch.cat([c.image for c in cs]), torch.cat([c.scale for c in cs])) for cs in controls),
        )

    def sample(self, i: int) -> Self:
        """The i-th sample, as a batch of one."""
        one = slice(i, i + 1) if i != -1 else slice(i, None)
        controls = tuple(Control(control.image[one], control.scale[one]) for control in self.controls)
        return type(self)(self.prompt[one], self.negative[one], controls)

    def is_close(self, other: Self, tolerance: float) -> bool:
        """Whether all numbers are the same up to a tolerance."""
        pairs = [(self.prompt, other.prompt), (self.negative, other.negative)]
        for a, b in zip(self.controls, other.controls, strict=True):
            pairs += [(a.image, b.image), (a.scale, b.scale)]
        return all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)

    def blend(self, other: Self, w: float | Tensor, per_token: bool = False, linear: bool = False) -> Self:
        """Blend the embeddings by slerp, prompts and negatives, without controls: those belong to one frame each.

        Args:
            other: the conditioning at w = 1, of the same batch.
            w: the weight of other, one number or (B,).
            per_token: blend each token's vector by itself, not the embedding as one vector.
            linear: blend linearly instead.
        """

        def between(a: Tensor, b: Tensor) -> Tensor:
            if linear:
                return lerp(a, b, w)
            if not per_token:
                return slerp(a, b, w)
            weights = torch.as_tensor(w, dtype=torch.float64).expand(len(a)).repeat_interleave(a.shape[1])
            return slerp(a.flatten(0, 1), b.flatten(0, 1), weights).reshape(a.shape)  # (B L, D)

        return type(self)(between(self.prompt, other.prompt), between(self.negative, other.negative))


def cut(tokenizer: Any, prompt: str, written: Callable[[str], str] = lambda text: text) -> tuple[str, str]:
    """A prompt as far as the encoder's window takes it, and what is lost of it ("" where nothing is).

    It is cut between words; within a word only where the first one is too long by itself.

    Args:
        tokenizer: the text encoder's tokenizer, of transformers; its ``model_max_length`` is the window in tokens.
        prompt: the prompt.
        written: how a text is written for the tokenizer, where it is not as it stands.

    Warns:
        Notice: something is lost; it shows what.
    """
    window = tokenizer.model_max_length

    def is_too_long(end: int) -> bool:
        return bool(len(tokenizer(written(prompt[:end]), truncation=False, verbose=False).input_ids) > window)

    if not is_too_long(len(prompt)):
        return prompt, ""
    ends = [match.end() for match in re.finditer(r"\S+", prompt)]
    if is_too_long(ends[0]):
        ends = list(range(1, ends[0] + 1))
    fitting = bisect_right(ends, False, key=is_too_long)  # how many of the ends are not too long
    kept = prompt[: ends[fitting - 1]] if fitting else ""
    lost = prompt[len(kept) :].strip()
    warn(f"a prompt is longer than the {window} tokens of the text encoder; cut off: {lost}")
    return kept, lost

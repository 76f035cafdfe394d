"""What a denoiser is given beside the latent: named tensors for each branch of guidance, with one blend rule a name.

    text    token embeddings (B, L, D)      slerp, on the whole embedding as in the paper's released code, or per token
    image   embeddings of image prompts     slerp of each vector
    pooled  one vector for a prompt (B, D)  linear
    mask    which tokens count (B, L)       the union
    lora    weights of fitted LoRAs (B, N)  not blended: a frame's place gives them

Where two conditionings differ in L, the shorter is padded with zeros; a mask, in a family that has such, tells which
tokens are real. A family decides which names it has; nobody else needs to know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from segue.method.blend import lerp, slerp

__all__ = ["Conditioning", "Control", "stack_tensors"]

OF_TOKENS = ("text", "mask")  # names whose second axis is L


@dataclass(frozen=True, eq=False)
class Control:
    """The images that one ControlNet is given, and how strongly it acts on each sample."""

    image: Tensor  # (B, 3, H, W) float32 in [0, 1], of the frames' size
    scale: Tensor  # (B,) float32


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The conditioning of B samples: named tensors (B, ...), and a control for each ControlNet, or none.

    Attributes:
        positive: what the prompts stand for; "text" is always there.
        negative: the same names, for the negative prompts.
        controls: what ControlNets are given, in both branches.
    """

    positive: Mapping[str, Tensor]
    negative: Mapping[str, Tensor]
    controls: tuple[Control, ...] = ()

    def __len__(self) -> int:
        return len(self.text)

    @property
    def text(self) -> Tensor:
        """The prompts' token embeddings, (B, L, D): what textual inversion fits."""
        return self.positive["text"]

    @property
    def negative_text(self) -> Tensor:
        """The negative prompts' token embeddings, (B, L, D)."""
        return self.negative["text"]

    @classmethod
    def stack(cls, parts: Sequence[Self]) -> Self:
        """One batch of several, which have the same names and the same number of controls."""
        controls = zip(*(part.controls for part in parts), strict=True)
        return cls(
            stack_tensors([part.positive for part in parts]),
            stack_tensors([part.negative for part in parts]),
            tuple(Control(torch.cat([c.image for c in cs]), torch.cat([c.scale for c in cs])) for cs in controls),
        )

    def take(self, which: Sequence[int]) -> Self:
        """The samples of those numbers, as a batch."""
        rows = list(which)
        return replace(
            self,
            positive={name: tensor[rows] for name, tensor in self.positive.items()},
            negative={name: tensor[rows] for name, tensor in self.negative.items()},
            controls=tuple(Control(control.image[rows], control.scale[rows]) for control in self.controls),
        )

    def sample(self, i: int) -> Self:
        """The i-th sample, as a batch of one."""
        return self.take([i])

    def with_text(self, text: Tensor, negative_text: Tensor) -> Self:
        """The same with other token embeddings, (B, L, D) each."""
        return replace(
            self,
            positive={**self.positive, "text": text},
            negative={**self.negative, "text": negative_text},
        )

    def with_prompt_of(self, other: Self) -> Self:
        """The same with the words of another one's positive branch."""
        words = {name: tensor for name, tensor in other.positive.items() if name != "image"}
        return replace(self, positive={**self.positive, **words})

    def with_negative_prompt_of(self, other: Self) -> Self:
        """The same with the words of another one's negative branch."""
        words = {name: tensor for name, tensor in other.negative.items() if name != "image"}
        return replace(self, negative={**self.negative, **words})

    def with_image_of(self, other: Self) -> Self:
        """The same with another one's image prompt, if it has one."""
        image = {name: tensor for name, tensor in other.positive.items() if name == "image"}
        return replace(self, positive={**self.positive, **image})

    def with_lora(self, weights: Tensor) -> Self:
        """The same with the weights (B, N) of LoRAs that are fitted to keyframes, in both branches."""
        return replace(self, positive={**self.positive, "lora": weights}, negative={**self.negative, "lora": weights})

    def negated(self) -> Self:
        """The negative branch in place of both."""
        return replace(self, positive=self.negative)

    def is_unguided(self) -> bool:
        """Whether both branches are equal, so that guidance has nothing to follow."""
        return all(torch.equal(*_pad(name, [a, self.negative[name]])) for name, a in self.positive.items())

    def is_close(self, other: Self, tolerance: float) -> bool:
        """Whether all numbers are the same up to a tolerance."""
        pairs = [_pad(name, [tensor, other.positive[name]]) for name, tensor in self.positive.items()]
        pairs += [_pad(name, [tensor, other.negative[name]]) for name, tensor in self.negative.items()]
        for one, two in zip(self.controls, other.controls, strict=True):
            pairs += [[one.image, two.image], [one.scale, two.scale]]
        return all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)

    def blend(self, other: Self, w: float | Tensor, per_token: bool = False, linear: bool = False) -> Self:
        """Blend both branches by the rule of each name, without controls: those belong to one frame each.

        Args:
            other: the conditioning at w = 1, of the same batch.
            w: the weight of other, one number or (B,).
            per_token: blend each token's vector by itself, not the text embedding as one vector.
            linear: blend text linearly instead.
        """

        def between(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
            pairs = {name: _pad(name, [tensor, b[name]]) for name, tensor in a.items()}
            return {name: _blend(name, x, y, w, per_token, linear) for name, (x, y) in pairs.items()}

        return replace(
            self,
            positive=between(self.positive, other.positive),
            negative=between(self.negative, other.negative),
            controls=(),
        )


def stack_tensors(branches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Several mappings with the same names, of (B, ...), as one batch."""
    return {name: torch.cat(_pad(name, [branch[name] for branch in branches])) for name in branches[0]}


def _pad(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one name; those of tokens, (B, L, ...), with zeros up to the longest L."""
    if name not in OF_TOKENS:
        return list(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    return [pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, longest - tensor.shape[1])) for tensor in tensors]


def _blend(name: str, a: Tensor, b: Tensor, w: float | Tensor, per_token: bool, linear: bool) -> Tensor:
    """Two tensors of one name by its rule."""
    match name:
        case "mask":
            return torch.maximum(a, b)
        case "pooled":
            return lerp(a, b, w)
        case "image":
            return _slerp_vectors(a, b, w)
        case _ if linear:
            return lerp(a, b, w)
        case _:
            return _slerp_vectors(a, b, w) if per_token else slerp(a, b, w)


def _slerp_vectors(a: Tensor, b: Tensor, w: float | Tensor) -> Tensor:
    """Slerp of each vector (the last axis) by itself."""
    each = a[0].numel() // a.shape[-1]  # vectors of a sample
    weights = torch.as_tensor(w, dtype=torch.float64).expand(len(a)).repeat_interleave(each)
    return slerp(a.flatten(0, -2), b.flatten(0, -2), weights).reshape(a.shape)

"""Latents become the finished pictures of frames: decoded, given back their detail, written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from segue.engine.cache_keys import CacheKeys
from segue.errors import SegueError, warn
from segue.method.colour import ColourMatch
from segue.method.detail import Detail, enlarge
from segue.method.schemes import Level, Sample
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone
from segue.pictures.alpha import lay_on
from segue.pictures.tensors import to_images
from segue.run.folder import RunFolder

__all__ = ["Drawing"]

KEPT = 16  # images of keyframes alone that are remembered


@dataclass(frozen=True)
class Drawing:
    """What draws the frames of a run.

    Attributes:
        backbone: decodes latents.
        run: where pictures are kept.
        cache_keys: their names.
        size: (width, height) of the film.
        detail: which keyframes alone a picture needs beside its own latent, and what it is given back.
        match: brings a frame's colours nearer to its keyframes'.
        lift: gives a frame's picture its transparency, if the film has any.
    """

    backbone: Backbone
    run: RunFolder
    cache_keys: CacheKeys
    size: tuple[int, int]
    detail: Detail
    match: ColourMatch
    lift: Callable[[FrameKey, Image.Image], Image.Image] | None
    drawn: set[str] = field(default_factory=set)  # the cache keys whose pictures were made here
    alone: dict[str, Tensor] = field(default_factory=dict)  # decoded images of keyframes alone, which frames share

    def __call__(self, level: Level, samples: Sequence[Sample]) -> None:
        """Draw the samples of a level whose pictures are missing and whose latents are there."""
        if level.is_final:
            self.run.save_pictures(self._make_missing(level, samples))

    def _make_missing(self, level: Level, samples: Sequence[Sample]) -> Iterator[tuple[str, Image.Image]]:
        """Cache keys and pictures, one at a time, so that no batch matters to them."""
        for sample in samples:
            cache_key = self.cache_keys(level, sample)
            if self.run.has_picture(cache_key):
                continue
            names = {part: self.cache_keys(level, part) for part in self.detail.parts(level, sample)}
            if not all(self.run.has_latent(name) for name in names.values()):
                continue  # the rest of it is in the next batch
            image = self._decode(sample.key, cache_key)
            alone = {part: self._decode_alone(part, name) for part, name in names.items() if part.alone is not None}
            picture = self._finish(sample.key, image, alone)
            if _is_black(picture):
                self._warn_of_black(sample.key, level.parents[sample.key])
            self.drawn.add(cache_key)
            yield cache_key, picture

    def _finish(self, key: FrameKey, image: Tensor, alone: Mapping[Sample, Tensor]) -> Image.Image:
        """The picture of a frame from its decoded image (3, h, w) and those of keyframes alone, in [-1, 1]."""
        blacked_out = not bool((image > -1).any())  # and nothing is added to it
        image = enlarge(image, self.size[::-1])
        image = image if blacked_out else self.match(key, self.detail(key, image, alone))
        picture = to_images(image[None])[0]
        return self.lift(key, picture) if self.lift else picture

    def _decode(self, key: FrameKey, cache_key: str, *, screened: bool = True) -> Tensor:
        """The image (3, h, w) in [-1, 1] of a cache key of a frame."""
        latent = self.run.latent(cache_key)
        assert latent is not None
        image = self.backbone.decode(latent[None], screened=screened)[0]
        if not torch.isfinite(image).all():
            raise SegueError(
                f"frame {key}: the model returned NaN for its picture; load it with dtype float32 (or bfloat16)"
            )
        return image

    def _decode_alone(self, part: Sample, cache_key: str) -> Tensor:
        """The image (3, h, w) of a keyframe alone; one that frames share is decoded once."""
        if cache_key in self.alone:
            return self.alone[cache_key]
        image = self._decode(part.key, cache_key, screened=False)
        if part.is_shared:
            if len(self.alone) >= KEPT:
                self.alone.pop(next(iter(self.alone)))
            self.alone[cache_key] = image
        return image

    def _warn_of_black(self, key: FrameKey, parents: Sequence[FrameKey]) -> None:
        """Name a black picture, unless it comes of black ones."""
        if not any(self.run.frame(parent).exists() and _is_black(self.run.shown_image(parent)) for parent in parents):
            text = f"frame {key} is all black: a safety checker may have blacked it out (try another seed or prompt)"
            text = f"{text}, or the model overflows (load it with dtype float32 or bfloat16)"
            warn(text)


def _is_black(picture: Image.Image) -> bool:
    """Whether a picture shows nothing at all."""
    return lay_on(picture, "black").getbbox() is None

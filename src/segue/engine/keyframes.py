"""The keyframes of a film: the images as it shows them, their latents, and how a moving or bending camera sees them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segue.engine.plan import motion_of
from segue.errors import SegueError, warn
from segue.method.align import Correspondence, Match, align, is_plain, sample_picture
from segue.method.bend import Bends, BentPictures
from segue.method.camera import view_parents, warp
from segue.method.motion import Motion, is_beyond
from segue.method.schemes import Seen, Sight
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone
from segue.pictures.alpha import Floats, continue_colours, lift
from segue.pictures.images import MOST_LONGEST, Source, check_network_size, film_size, fit, load, network_size
from segue.pictures.tensors import to_images, to_tensor
from segue.run.folder import RunFolder
from segue.settings.kinds import MorphSettings, size_of

__all__ = [
    "Keyframes",
    "PixelSpace",
    "alpha_lifter",
    "camera",
    "correspondences",
    "encode_keyframes",
    "fit_images",
    "images_of",
    "load_images",
    "read_keyframes",
    "sight_of",
    "sizes",
    "view",
    "warn_of_crops",
    "warn_of_scenes",
]

MOST_CROPPED = 0.1  # of a keyframe that is cut off without a word


def view(motion: Motion, place: Fraction, picture: Image.Image) -> Image.Image:
    """A picture as the camera at a place shows it; the very picture where the camera did not move."""
    camera = motion.camera(place, picture.width / picture.height)
    if np.array_equal(camera, np.eye(3)):
        return picture
    return to_images(warp(to_tensor([picture])[0], camera)[0].clamp(-1, 1)[None])[0]


@dataclass(frozen=True)
class PixelSpace:
    """Parents that are moved in pixel space.

    Attributes:
        motion: how the camera moves.
        keyframes: the keyframes' images (3, H, W) in [-1, 1], as the film shows them.
        encode: images (B, 3, H, W) to latents (B, C, h, w).
        decode: latents to images.
    """

    motion: Motion
    keyframes: Mapping[FrameKey, Tensor]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    known: dict[FrameKey, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, key: FrameKey, parents: Sequence[tuple[FrameKey, Tensor]]) -> list[Tensor]:
        """The parents' latents (C, h, w) as the camera at a frame sees them; one at a time through the networks."""
        drawn = [(parent, *self._draw(parent, latent)) for parent, latent in parents]
        pictures = view_parents(self.motion, key, [(parent, picture) for parent, picture, _ in drawn])
        residuals = view_parents(self.motion, key, [(parent, residual) for parent, _, residual in drawn])
        return [
            self.encode(picture[None].clamp(-1, 1))[0] + residual
            for picture, residual in zip(pictures, residuals, strict=True)
        ]

    def _draw(self, parent: FrameKey, latent: Tensor) -> tuple[Tensor, Tensor]:
        """A parent's picture, and what its latent has beyond that; the last two parents are remembered."""
        if parent not in self.known:
            if len(self.known) > 1:
                self.known.pop(next(iter(self.known)))
            picture = self.keyframes[parent] if parent.is_keyframe else self.decode(latent[None])[0]
            self.known[parent] = picture, latent - self.encode(picture[None])[0]
        return self.known[parent]


def load_images(images: Sequence[Source], settings: MorphSettings) -> list[Image.Image]:
    """The images as they were given; huge JPEGs reduced, to no less than twice the film's longer side on either side.

    Raises:
        SegueError: there are fewer than two images, or one of them cannot be read.
    """
    if len(images) < 2:
        raise SegueError(f"a film needs at least two images, not {len(images)}")
    longest = max(MOST_LONGEST, *(settings.film_size or (0, 0)))
    return [load(image, background=settings.background, least=2 * longest) for image in images]


def sizes(
    pictures: Sequence[Image.Image], settings: MorphSettings, backbone: Backbone
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The sizes (width, height) of the film, and of the images that the model works on."""
    asked = settings.film_size
    if settings.network_size:
        network = size_of(settings.network_size)
        check_network_size(network, backbone.multiple_of)
    else:
        network = network_size(asked or pictures[0].size, backbone.native_size, backbone.multiple_of)
    return film_size(pictures, network, asked), network


def fit_images(pictures: Sequence[Image.Image], settings: MorphSettings, size: tuple[int, int]) -> list[Image.Image]:
    """The images as the film shows them: fitted to its size, seen through the moving camera."""
    of_one_size = [fit(picture, size, settings.fit, settings.background) for picture in pictures]
    if settings.is_transparent and all(picture.getchannel("A").getextrema() == (255, 255) for picture in of_one_size):
        warn("no keyframe is transparent anywhere: the frames are opaque")
        of_one_size = [picture.convert("RGB") for picture in of_one_size]
    if not settings.moves:
        return of_one_size
    motion = motion_of(settings)
    beyond = [str(i) for i in range(len(pictures)) if is_beyond(motion, Fraction(i), size[0] / size[1])]
    if beyond:
        named = f"the keyframe{'s' if len(beyond) > 1 else ''} at {', '.join(beyond)}"
        text = f"the camera sees beyond the edges of {named}, where their picture is mirrored"
        warn(text)
    return [_view_with_alpha(motion, Fraction(i), picture) for i, picture in enumerate(of_one_size)]


def _view_with_alpha(motion: Motion, place: Fraction, picture: Image.Image) -> Image.Image:
    """A picture as the camera at a place shows it, with its transparency."""
    if picture.mode == "RGB":
        return view(motion, place, picture)
    colours = view(motion, place, Image.fromarray(continue_colours(picture)[..., :3]))
    colours.putalpha(view(motion, place, picture.getchannel("A").convert("RGB")).getchannel("R"))
    return colours


def warn_of_crops(
    images: Sequence[Source], pictures: Sequence[Image.Image], settings: MorphSettings, size: tuple[int, int]
) -> None:
    """Say, in one line, which images lose more than a tenth to the shape of the film."""
    lost = {}
    for i, (image, picture) in enumerate(zip(images, pictures, strict=True)):
        shape = picture.width * size[1] / (picture.height * size[0])
        if (share := 1 - min(shape, 1 / shape)) > MOST_CROPPED:
            name = image if isinstance(image, str | PathLike) else getattr(image, "filename", "")
            lost[str(name) or f"the keyframe at {i}"] = f"{100 * share:.0f} %"
    if lost and settings.fit == "cover":
        named = ", ".join(f"{name} loses {share}" for name, share in lost.items())
        whole = "--fit contain shows pictures whole, --size 1280x720 sets another shape"
        warn(f"{named} at the edges to the film's shape of {size[0]} x {size[1]}; {whole}")


def warn_of_scenes(keyframes: Sequence[Image.Image]) -> None:
    """Say of pictures without a plain background, such as photographs, that pocket does not know their like."""
    scenes = [str(i) for i, keyframe in enumerate(keyframes) if not is_plain(to_tensor([keyframe])[0])]
    if scenes:
        which = f"keyframe{'s' if len(scenes) > 1 else ''} {', '.join(scenes)}"
        text = f"{which}: pocket knows drawn things on plain backgrounds, not photographs or scenes; for these name a"
        text = f"{text} checkpoint, such as --model stable-diffusion-v1-5/stable-diffusion-v1-5"
        warn(text)


@dataclass(frozen=True)
class Keyframes:
    """The keyframes of a run; that of a loop closes it, again behind the last one.

    Attributes:
        shown: their pictures as the film shows them.
        small: the same at the size that the network works at.
        digests: of their pixels.
        count: how many were given.
    """

    shown: Mapping[FrameKey, Image.Image]
    small: Mapping[FrameKey, Image.Image]
    digests: Mapping[FrameKey, str]
    count: int

    @property
    def given(self) -> list[Image.Image]:
        """Those that were given, at the network's size."""
        return list(self.small.values())[: self.count]

    @property
    def given_shown(self) -> list[Image.Image]:
        """Those that were given, at the film's size."""
        return list(self.shown.values())[: self.count]


def read_keyframes(run: RunFolder, data: Mapping[str, Any], settings: MorphSettings) -> Keyframes:
    """Read the keyframes of a run; a loop's closing one is made if it is missing."""
    count = len(data["keyframes"])
    shown = {FrameKey(i): run.shown_image(FrameKey(i)) for i in range(count)}
    size: tuple[int, int] = tuple(data.get("network", data["size"]))
    small = {key: fit(keyframe, size, "stretch") for key, keyframe in shown.items()}
    digests = {FrameKey(i): str(keyframe["pixels"]) for i, keyframe in enumerate(data["keyframes"])}
    if settings.loop:
        first, last = FrameKey(0), FrameKey(count)
        shown[last], small[last], digests[last] = shown[first], small[first], digests[first]
        if not run.frame(last).exists():
            run.save_keyframe(last, run.whole_image(first))
    return Keyframes(shown, small, digests, count)


def encode_keyframes(backbone: Backbone, run: RunFolder, keyframes: Keyframes) -> dict[FrameKey, Tensor]:
    """The clean latents (C, h, w) of the keyframes, one network call each, kept in the run.

    Raises:
        SegueError: the model has no numbers for a keyframe.
    """
    latents: dict[FrameKey, Tensor] = {}
    for i, (key, picture) in enumerate(keyframes.small.items()):
        given = FrameKey(i % keyframes.count)  # a loop closes with its first
        cache_key = f"{given.name}-{keyframes.digests[key][:12]}"
        if run.latent(cache_key) is None:
            with backbone.evaluating():
                z = backbone.encode(to_tensor([picture]))[0]
            if not torch.isfinite(z).all():
                raise SegueError(
                    f"the keyframe at {key.pair}: the model returned NaN for it; "
                    "load it with dtype float32 (or bfloat16)"
                )
            run.save_latents({cache_key: z})
        latent = run.latent(cache_key)
        assert latent is not None
        latents[key] = latent
    return latents


def sight_of(
    settings: MorphSettings,
    keyframes: Keyframes,
    backbone: Backbone,
    bends: Bends | None,
    finished: Callable[[FrameKey], Image.Image],
) -> Sight:
    """How a scheme sees parents: bent along, through the moving camera, or as they are.

    ``finished`` gives the picture of a frame that is made.
    """
    if bends is None:
        return Sight(camera(settings, keyframes.small, backbone)) if settings.moves else Sight()
    width, height = keyframes.small[FrameKey(0)].size

    def shrink(picture: Image.Image) -> Image.Image:
        twice = 2 * width, 2 * height  # of more pixels the network sees nothing
        return fit(picture, twice, "stretch") if picture.width > twice[0] else picture

    images = images_of({key: shrink(picture) for key, picture in keyframes.shown.items()})
    bent = BentPictures(
        bends, images, lambda key: to_tensor([shrink(finished(key))])[0], backbone.encode, (height, width)
    )
    return Sight(bent, bent.carry_noisy, bends.aligned)


def camera(settings: MorphSettings, keyframes: Mapping[FrameKey, Image.Image], backbone: Backbone) -> Seen:
    """How the moving camera, which does not bend, sees the parents of a frame."""
    images = {key: to_tensor([keyframe])[0] for key, keyframe in keyframes.items()}
    return PixelSpace(motion_of(settings), images, backbone.encode, partial(backbone.decode, screened=False))


def correspondences(
    run: RunFolder,
    settings: MorphSettings,
    keyframes: Keyframes,
    backbone: Backbone,
    points: Sequence[Sequence[Match]],
    keypoints: Callable[[int, int], Sequence[Match]],
) -> Bends:
    """How geometry moves over each gap; what is found once is kept in the run.

    Args:
        run: the run folder, open.
        settings: the camera's motion.
        keyframes: of which the network sees the small ones.
        backbone: its network's features.
        points: the user's matches of each gap, or none.
        keypoints: the keypoints that the poses of two keyframes share.
    """
    pictures = list(keyframes.small.values())

    @lru_cache(maxsize=2)
    def features(index: int) -> list[Tensor]:
        return [feature[0] for feature in backbone.features(to_tensor([pictures[index]]))]

    motion, gaps = motion_of(settings), {}
    for i in range(len(pictures) - 1):
        name = f"bend-{FrameKey(i).name}"
        kept = run.latent(name)
        if kept is None:
            left, right = to_tensor([pictures[i]])[0], to_tensor([pictures[i + 1]])[0]
            pairs = [] if torch.equal(left, right) else list(zip(features(i), features(i + 1), strict=True))
            found = align(
                left,
                right,
                pairs,
                keypoints=keypoints(i, i + 1),
                points=points[i] if points else (),
                camera=_camera(motion, i, left.shape[2] / left.shape[1]),
            )
            kept = torch.cat([found.left, found.right, torch.full_like(found.left[:1], found.confidence)])
            run.save_latents({name: kept})
        gaps[i] = Correspondence(kept[:2], kept[2:4], float(kept[4, 0, 0]))
    return Bends(gaps, motion, pictures[0].width / pictures[0].height)


def _camera(motion: Motion, gap: int, aspect: float) -> Tensor | None:
    """The map from the keyframe behind a gap to the one before it by the camera alone; None if it stands still."""
    if motion.still:
        return None
    return torch.from_numpy(motion.between(Fraction(gap + 1), Fraction(gap), aspect)).float()


def images_of(keyframes: Mapping[FrameKey, Image.Image]) -> Mapping[FrameKey, Tensor]:
    """The keyframes' images (3, H, W) in [-1, 1], made when they are asked for, of which the last few are kept."""
    return _Images(keyframes)


def alpha_lifter(
    run: RunFolder, keys: Iterable[FrameKey], bends: Bends | None, motion: Motion, ground: str | None
) -> Callable[[FrameKey, Image.Image], Image.Image] | None:
    """What gives a frame its alpha, if the film has any: by both its keyframes, whose alphas move as they do.

    Args:
        run: the run folder, open.
        keys: the keyframes.
        bends: how geometry moves, where keyframes are aligned.
        motion: how the camera moves.
        ground: the colour on which the picture is; None if the film is opaque, and pictures stay as they are.
    """
    if ground is None:
        return None
    keyframes = {key: run.whole_image(key).convert("RGBA") for key in keys}

    def view_from(key: FrameKey, keyframe: FrameKey) -> Floats:
        pixels = np.array(keyframes[keyframe].convert("RGBa"), np.float32) / 255
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if bends:
            image = sample_picture(image, bends.origin(key, keyframe, image.shape[1:]))
        elif not motion.still:
            image = warp(image, motion.between(key.place, keyframe.place, image.shape[2] / image.shape[1]))[0]
        seen_there: Floats = image.clamp(0, 1).permute(1, 2, 0).numpy()
        return seen_there

    def lift_frame(key: FrameKey, picture: Image.Image) -> Image.Image:
        left, right = (view_from(key, FrameKey(key.pair + end)) for end in (0, 1))
        return lift(picture, left, right, float(key.position), ground)

    return lift_frame


class _Images(Mapping[FrameKey, Tensor]):
    def __init__(self, keyframes: Mapping[FrameKey, Image.Image]) -> None:
        self.keyframes = keyframes
        self.kept = lru_cache(maxsize=4)(lambda key: to_tensor([keyframes[key]])[0])

    def __getitem__(self, key: FrameKey) -> Tensor:
        return self.kept(key)

    def __iter__(self) -> Iterator[FrameKey]:
        return iter(self.keyframes)

    def __len__(self) -> int:
        return len(self.keyframes)

"""Pictures in: whatever a user gives becomes an RGB picture of 8 bits, upright, opaque, and of the film's size.

Placement: a point (x, y) of the source, in pixels with (0, 0) at the outer corner of the first pixel, goes to

    (sx x + ox, sy y + oy)

of the fitted picture. ``placement`` gives these numbers, so that poses are fitted exactly as the pictures are.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from segue.errors import SegueError, warn
from segue.pictures.files import frame_note, open_picture, quiet_pillow
from segue.pictures.srgb import profile_of, to_srgb

__all__ = [
    "LEAST_SIDE",
    "MOST_LONGEST",
    "Fit",
    "Placement",
    "Source",
    "check_network_size",
    "digest",
    "film_size",
    "fit",
    "load",
    "network_size",
    "placement",
    "shown_size",
]

Source: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any]
Fit = Literal["cover", "contain", "stretch"]

LEAST_SIDE = 8  # pixels; below it there is nothing to interpolate
MOST_SIDE = 16384

_ORIENTATION = 0x0112  # in EXIF


def load(source: Source, background: str = "white", *, least: int | None = None) -> Image.Image:
    """Read a picture as RGB of 8 bits, in sRGB; what it holds beyond that is brought into it.

    Rotated as its EXIF says; its colours brought to plain sRGB by ``srgb``, without any information beside its pixels;
    transparency laid on the background; of 16 bits the upper 8, rounded; of several pictures in a file the one that
    ``files`` says, of several frames the first, with a Notice.

    Args:
        source: a path, also ``clip.mp4@last``; a PIL image, which stays as it is; or an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), of uint8, or of floats in [0, 1].
        background: a colour that PIL knows: a name, "#rrggbb", "rgb(r, g, b)"; or "transparent", for RGBA.
        least: a JPEG may be read at a half, a quarter or an eighth of its size, neither side shorter than this.

    Raises:
        SegueError: no such file, no picture, a damaged one, one below 8 x 8 or above 256 megapixels, one in HDR, an
            unknown colour.
    """
    colour = _colour(background)
    with _opening(source) as (image, name, note):
        return _flatten(_read(image, name, note, least), colour)


def shown_size(source: Source) -> tuple[int, int]:
    """Width and height of a picture as it is shown, from its header; raises as ``load`` does."""
    with _opening(source) as (image, name, _), _decoding(name):
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


@dataclass(frozen=True)
class Placement:
    """Where a fitted picture has each point of its source: scale and offset in x and y."""

    scale: tuple[float, float]
    offset: tuple[float, float]

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the source, in pixels, lies in the fitted picture."""
        return self.scale[0] * x + self.offset[0], self.scale[1] * y + self.offset[1]


def placement(source: tuple[int, int], size: tuple[int, int], how: Fit = "cover") -> Placement:
    """How a picture is fitted to a size, both (width, height) in pixels.

    cover: the smallest scale that fills the size, the middle kept. contain: the largest that shows all of the
    picture, in the middle, rounded to whole pixels. stretch: each side by itself.
    """
    across, down = size[0] / source[0], size[1] / source[1]
    if how == "stretch":
        return Placement((across, down), (0.0, 0.0))
    if how == "contain":
        scale = min(across, down)
        inner = [max(1, round(side * scale)) for side in source]
        return Placement(
            (inner[0] / source[0], inner[1] / source[1]), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
        )
    scale = max(across, down)
    offset = [(new - scale * old) / 2 for new, old in zip(size, source, strict=True)]
    if scale == 1:  # only cropped: whole pixels stay whole pixels
        offset = [float(math.ceil(o)) for o in offset]
    return Placement((scale, scale), (offset[0], offset[1]))


def fit(image: Image.Image, size: tuple[int, int], how: Fit = "cover", background: str = "white") -> Image.Image:
    """Bring an RGB picture to a size (width, height), placed by ``placement``, resampled with Lanczos.

    A picture that has the size already is kept to the byte. Around a contained one is the background. One in RGBA
    stays so; around it nothing is seen.
    """
    place = placement(image.size, size, how)
    if how == "contain":
        inner = (round(place.scale[0] * image.width), round(place.scale[1] * image.height))
        fitted = Image.new(image.mode, size, _colour(background) if image.mode == "RGB" else (255, 255, 255, 0))
        fitted.paste(image.resize(inner, Image.Resampling.LANCZOS), (int(place.offset[0]), int(place.offset[1])))
        return fitted
    left, top = (-offset / scale for offset, scale in zip(place.offset, place.scale, strict=True))
    right, bottom = left + size[0] / place.scale[0], top + size[1] / place.scale[1]
    box = (max(0.0, left), max(0.0, top), min(float(image.width), right), min(float(image.height), bottom))
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def check_network_size(size: tuple[int, int], multiple_of: int) -> None:
    """SegueError where a model cannot work at a size (width, height), or Pillow would not read its pictures again."""
    for name, side in zip(("width", "height"), size, strict=True):
        if side % multiple_of or side > MOST_SIDE:
            below = min(side, MOST_SIDE) // multiple_of * multiple_of
            near = [str(n) for n in (below, below + multiple_of) if 0 < n <= MOST_SIDE]
            what = f"network_size: {name} {side} is not a multiple of {multiple_of} up to {MOST_SIDE}"
            raise SegueError(f"{what}; use {' or '.join(near)}")
    most = Image.MAX_IMAGE_PIXELS
    if most and size[0] * size[1] > most:
        raise SegueError(f"frames of {size[0]} x {size[1]} pixels are too large; the limit is {most} pixels in all")


MOST_LONGEST = 1024  # pixels of a film's longer side, unless more are asked for


def network_size(size: tuple[int, int], native: int, multiple_of: int) -> tuple[int, int]:
    """The size (width, height) at which a model works on pictures of a size: about its native area, of their shape.

    Of the sizes in multiples of what the model needs, from three to five and a third quarters of its area, and of the
    native area's own rounded, the one of the nearest shape; of equal ones that of the nearest area.
    """
    area, shape = native**2, size[0] / size[1]
    rounded = [max(round(native * shape**power / multiple_of), 1) * multiple_of for power in (0.5, -0.5)]
    longest = max(2 * native, area // multiple_of)  # of a picture that is as low as can be
    sides = range(multiple_of, min(longest, MOST_SIDE) + 1, multiple_of)
    fitting = [(w, h) for w in sides for h in sides if 3 * area <= 4 * w * h and 3 * w * h <= 4 * area]

    def distance(found: tuple[int, int]) -> tuple[float, float]:
        width, height = found
        return round(abs(math.log(width / height / shape)), 6), abs(math.log(width * height / area))

    return min([*fitting, (rounded[0], rounded[1])], key=distance)


def film_size(
    images: Sequence[Image.Image], network: tuple[int, int], asked: tuple[int, int] | None = None
) -> tuple[int, int]:
    """The size (width, height) of a film: as asked for, or that of its first keyframe's shape and largest keyframe.

    Both sides are even, as video needs them; the longer one is at most 1024, or what the model works at where that is
    more, and not shorter than that.

    Raises:
        SegueError: a side that is asked for is odd, too small or too large.
    """
    if asked is not None:
        if asked[0] % 2 or asked[1] % 2 or min(asked) < LEAST_SIDE or max(asked) > MOST_SIDE:
            raise SegueError(
                f"size {asked[0]}x{asked[1]}: both sides are even numbers of pixels from {LEAST_SIDE} to {MOST_SIDE}"
            )
        return asked
    if max(network) >= MOST_LONGEST or max(network) >= max(max(image.size) for image in images):
        return network
    longest = min(max(max(image.size) for image in images), MOST_LONGEST)
    scale = longest / max(images[0].size)
    width, height = (max(LEAST_SIDE, 2 * round(side * scale / 2)) for side in images[0].size)
    return width, height


def digest(picture: Image.Image) -> str:
    """A digest of a picture's size and pixels."""
    return hashlib.sha256(repr(picture.size).encode() + np.asarray(picture).tobytes()).hexdigest()


def _colour(text: str) -> tuple[int, int, int] | None:
    """A colour by PIL's name for it; None for "transparent"."""
    if text == "transparent":
        return None
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise SegueError(
            f"background: '{text}' is not a colour; use a name such as white, #rrggbb, or transparent"
        ) from error


@contextmanager
def _opening(source: Source) -> Iterator[tuple[Image.Image, str, str]]:
    """A picture, its header read, its name for messages, and what to say of it once it is decoded."""
    if isinstance(source, np.ndarray):
        yield _from_array(source), "the array", ""
    elif isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "the image")
        yield source, name, frame_note(source, name)
    elif isinstance(source, str | os.PathLike):
        opened = open_picture(Path(source))
        with opened.image as image:
            yield image, os.fspath(source), opened.note
    else:
        raise SegueError(f"a picture is a path, a PIL image or a numpy array, not {type(source).__name__}")


def _read(image: Image.Image, name: str, note: str, least: int | None) -> Image.Image:
    """A new picture of an open one, of the frame at which it stands: upright, L, LA, RGB or RGBA in plain sRGB."""
    width, height = image.size
    if min(width, height) < LEAST_SIDE:
        raise SegueError(f"{name} is too small: {width} x {height} pixels, the minimum is {LEAST_SIDE} x {LEAST_SIDE}")
    with _decoding(name):
        profile = profile_of(image, name)
        if least and image.format in ("JPEG", "MPO"):
            image.draft(None, (least, least))
        with quiet_pillow():
            upright = ImageOps.exif_transpose(image)
        plain = to_srgb(upright, profile, name)
    if note:
        warn(note)
    return plain


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Errors of a decoder in one line that names the picture."""
    try:
        yield
    except SegueError as error:
        raise SegueError(f"{name} {error}") from error
    except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, ...
        raise SegueError(f"{name} is damaged: {' '.join(str(error).split())}") from error


def _flatten(image: Image.Image, colour: tuple[int, int, int] | None) -> Image.Image:
    """RGB, with transparency laid on a colour; without one RGBA."""
    if colour is None:
        return image.convert("RGBA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = Image.new("RGBA", image.size, (*colour, 255))
    return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")


def _from_array(array: NDArray[Any]) -> Image.Image:
    """A picture of an array of uint8, or of floats in [0, 1]."""
    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] == 1 else array.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (3, 4)) or not array.size:
        raise SegueError(f"the array has the shape {array.shape}; a picture is (H, W), (H, W, 3) or (H, W, 4)")
    array = array.reshape(shape)
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise SegueError("the array has values outside 0 to 1; floats must be within 0 to 1, uint8 within 0 to 255")
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise SegueError(f"the array is of {array.dtype}; a picture is of uint8 (0 to 255) or of floats (0 to 1)")
    return Image.fromarray(np.ascontiguousarray(array))

"""What the colours of a picture mean, decided in one place, and the same colours in plain sRGB.

A picture says what its colours mean by, in this order: the code points of a PNG (cICP); an ICC profile; the code points
of an AVIF or HEIC (nclx); a PNG's sRGB, gAMA and cHRM; Exif's Adobe RGB. Without any they are sRGB. Whatever it says
becomes one ICC profile, which littlecms applies, and a profile is judged by what it does, not by its name: colours that
it moves by 1 of 255 at most are kept to the byte.

Code points are those of ITU-T H.273; its transfer functions and primaries, and Bradford's adaptation to the white of
profiles (D50), are written out here.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from segue.errors import SegueError, warn

__all__ = ["Coded", "Profile", "profile_of", "to_srgb"]

Values: TypeAlias = NDArray[np.float64]
Curve: TypeAlias = Callable[[Values], Values]
Points: TypeAlias = tuple[float, float]  # chromaticity (x, y)

_SRGB = ImageCms.createProfile("sRGB")
_SPACES = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK"}  # of profiles, by mode
_SAME = 1  # of 255: a transform that moves no colour farther is none

_D65 = (0.3127, 0.3290)
_PRIMARIES: dict[int, tuple[Points, Points, Points, Points]] = {  # red, green, blue, white
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),  # BT.709, sRGB
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),  # BT.601 of 625 lines
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),  # BT.601 of 525 lines
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),  # SMPTE 240M
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),  # BT.2020
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # DCI-P3
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),  # Display P3
}
_ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), _D65)
_ADOBE_GAMMA = 563 / 256
_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}
_UNSPECIFIED = 2

_EXIF, _INTEROP, _COLOUR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
_UNCALIBRATED = 65535


@dataclass(frozen=True)
class Profile:
    """An ICC profile, and whether it was made here of what else a file says: one of RGB that also serves grey."""

    data: bytes
    is_made: bool = False


@dataclass(frozen=True)
class Coded:
    """Code points of primaries and transfer function; whether black is 0 and white 255, or 16 and 235."""

    primaries: int
    transfer: int
    is_full: bool = True

    def profile(self) -> Profile:
        """The profile that the code points stand for.

        Raises:
            SegueError: they are of an HDR picture.
            _UnknownColoursError: they stand for nothing that is known.
        """
        if self.transfer in _HDR:
            raise SegueError(f"is an HDR picture, {_HDR[self.transfer]}, which is not supported; save it as sRGB")
        curve = _curve(self.transfer)
        primaries = _PRIMARIES.get(1 if self.primaries == _UNSPECIFIED else self.primaries)
        if curve is None or primaries is None:
            raise _UnknownColoursError(f"code points {self.primaries} and {self.transfer} are not known")
        if self.is_full:
            return _matrix_profile(primaries, curve)
        return _matrix_profile(primaries, lambda v: curve(((255 * v - 16) / 219).clip(0, 1)))


class _UnknownColoursError(ValueError):
    """A picture says something of its colours that cannot be followed."""


def profile_of(image: Image.Image, name: str) -> Profile | None:
    """The ICC profile that says what the colours of an opened picture mean; None for sRGB.

    Args:
        image: as Pillow opened it: what stands in the file is read where it was not decoded yet.
        name: names the picture in a warning.

    Raises:
        SegueError: the picture is in HDR, PQ or HLG.
    """
    try:
        return _profile_of(image)
    except _UnknownColoursError as error:
        _warn_of_profile(name, str(error))
        return None


def to_srgb(image: Image.Image, profile: Profile | None, name: str) -> Image.Image:
    """A picture of 8 bits in sRGB, as L, LA, RGB or RGBA, without any information beside its pixels.

    Args:
        image: of any mode; one of 16 or 32 bits is brought to 8 behind its profile, not before.
        profile: what its colours mean; None for sRGB.
        name: names the picture in the warning about a profile that cannot be used.

    Raises:
        SegueError: values of 32 bits outside every usual range.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values, alpha = _read_deep_grey(image)
    else:
        image, values, alpha = _unpack(image), None, None
    found = None
    if profile and profile.data[16:20] == b"GRAY" and image.mode in ("RGB", "RGBA") and _is_grey(image):
        image = image.convert("LA" if image.mode == "RGBA" else "L")  # as Pillow opens grey of 16 bits with alpha
    if image.mode == "LAB":
        found = _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB", "RGB")
    elif profile is not None:
        try:
            found = _find_transform(profile, image.mode if values is None else "L")
        except (_UnknownColoursError, ImageCms.PyCMSError, OSError, ValueError) as error:
            _warn_of_profile(name, str(error))
    if values is not None:
        image = _grey(values, found, alpha)
    elif found is not None:
        image = _apply(image, found)
    plain = image if image.mode in ("L", "LA", "RGB", "RGBA") else image.convert("RGB")
    plain.info = {}
    return plain


def _warn_of_profile(name: str, reason: str) -> None:
    warn(f"{name}: its colour profile cannot be used ({' '.join(reason.split())}); its colours are taken for sRGB")


# What a file says.


def _profile_of(image: Image.Image) -> Profile | None:
    info = image.info
    icc = info.get("icc_profile") or _icc_of_jp2(image)
    coded = _cicp(image) if image.format == "PNG" else None if icc else _nclx(image)
    if coded is not None:
        return coded.profile()
    if icc:
        if (own := _cicp_of_profile(icc)) is not None and own.transfer in _HDR:
            own.profile()
        return Profile(icc)
    if "srgb" in info:
        return None
    if "gamma" in info or "chromaticity" in info:
        return _gamma_and_primaries(info.get("gamma"), info.get("chromaticity"))
    return _matrix_profile(_ADOBE_RGB, _power(_ADOBE_GAMMA)) if _is_adobe_rgb(image) else None


def _gamma_and_primaries(gamma: float | None, points: tuple[float, ...] | None) -> Profile:
    """The profile of a PNG's gAMA and cHRM (PNG specification, 11.3.2)."""
    if gamma is not None and not 0.01 < gamma < 100:
        raise _UnknownColoursError(f"a gamma of {gamma:g}")
    # 1/2.2 is how sRGB's own curve is written as a gamma
    curve = _srgb_curve if gamma is None or abs(gamma - 1 / 2.2) < 0.005 else _power(1 / gamma)
    if points is None:
        return _matrix_profile(_PRIMARIES[1], curve)
    white, red, green, blue = (points[i : i + 2] for i in (0, 2, 4, 6))
    return _matrix_profile(((red[0], red[1]), (green[0], green[1]), (blue[0], blue[1]), (white[0], white[1])), curve)


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether Exif says so: an uncalibrated colour space with the interoperability index R03 (DCF 2.0), or number 2."""
    exif = image.getexif() if "exif" in image.info else None
    if exif is None:
        return False
    own = exif.get_ifd(_EXIF)
    space = own.get(_COLOUR_SPACE)
    index = exif.get_ifd(_INTEROP).get(_INTEROP_INDEX, "") if _INTEROP in own else ""
    index = index.decode("ascii", "replace") if isinstance(index, bytes) else str(index)
    return space == 2 or (space == _UNCALIBRATED and index.rstrip("\0 ") == "R03")


def _cicp(image: Image.Image) -> Coded | None:
    """The code points of a PNG (PNG specification, 11.3.2.6), which Pillow passes over."""
    with _bytes_of(image) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"cICP" and length == 4:
                primaries, transfer, _, is_full = file.read(4)
                return Coded(primaries, transfer, bool(is_full))
            if kind in (b"IDAT", b"IEND"):
                break
            file.seek(length + 4, io.SEEK_CUR)
    return None


def _cicp_of_profile(icc: bytes) -> Coded | None:
    """The code points in an ICC profile (ICC.1:2022, 9.2.17)."""
    for place in range(132, min(132 + 12 * 100, len(icc) - 11), 12):
        tag, offset, size = struct.unpack(">4sII", icc[place : place + 12])
        if tag == b"cicp" and size == 12 and offset + 12 <= len(icc):
            return Coded(icc[offset + 8], icc[offset + 9])
    return None


def _nclx(image: Image.Image) -> Coded | None:
    """The code points of an AVIF's or HEIC's primary picture (ISO/IEC 14496-12 and 23008-12)."""
    if image.format not in ("AVIF", "HEIF"):
        return None
    with _bytes_of(image) as file:
        data = file.read()
    try:
        meta = dict(_boxes(dict(_boxes(data))[b"meta"], 4))
        properties = dict(_boxes(meta[b"iprp"]))
        pitm, number = meta[b"pitm"], ">I" if meta[b"pitm"][0] else ">H"
        (primary,) = struct.unpack_from(number, pitm, 4)
        kinds = list(_boxes(properties[b"ipco"]))
        for index in _property_numbers(properties[b"ipma"], primary):
            kind, content = kinds[index - 1]
            if kind == b"colr" and content[:4] == b"nclx":
                return Coded(*struct.unpack_from(">HH", content, 4))
    except (KeyError, IndexError, struct.error):  # without such boxes nothing is said
        return None
    return None


def _icc_of_jp2(image: Image.Image) -> bytes | None:
    """The ICC profile of a JPEG 2000 (ISO/IEC 15444-1, I.5.3.3), which Pillow passes over."""
    if image.format != "JPEG2000":
        return None
    with _bytes_of(image) as file:
        header = dict(_boxes(file.read())).get(b"jp2h", b"")
    return next((content[3:] for kind, content in _boxes(header) if kind == b"colr" and content[:1] in b"\2\3"), None)


def _property_numbers(ipma: bytes, primary: int) -> list[int]:
    """The numbers of a picture's properties, from 1."""
    item, entry = (">I" if ipma[0] else ">H"), (">H" if ipma[3] & 1 else ">B")
    (count,), place = struct.unpack_from(">I", ipma, 4), 8
    for _ in range(count):
        (number,) = struct.unpack_from(item, ipma, place)
        place += struct.calcsize(item)
        entries = [value for (value,) in struct.iter_unpack(entry, _cut(ipma, place + 1, ipma[place], entry))]
        place += 1 + ipma[place] * struct.calcsize(entry)
        if number == primary:
            return [value & (0x7FFF if entry == ">H" else 0x7F) for value in entries]
    return []


def _cut(data: bytes, place: int, count: int, form: str) -> bytes:
    return data[place : place + count * struct.calcsize(form)]


def _boxes(data: bytes, start: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of an ISO media file: each one's kind and content."""
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        size = size or len(data) - start
        if size < head:
            return
        yield kind, data[start + head : start + size]
        start += size


@contextmanager
def _bytes_of(image: Image.Image) -> Iterator[IO[bytes]]:
    """The file of an opened picture, which is left where it stood; an empty one for a picture of none."""
    file, name = getattr(image, "fp", None), getattr(image, "filename", "")
    if file is None or getattr(file, "closed", False):
        with Path(name).open("rb") if name and Path(name).is_file() else io.BytesIO() as own:
            yield own
        return
    place = file.tell()
    try:
        file.seek(0)
        yield file
    finally:
        file.seek(place)


# Profiles that are written here.


def _srgb_curve(v: Values) -> Values:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _bt709_curve(v: Values) -> Values:
    return np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))


def _power(exponent: float) -> Curve:
    return lambda v: v**exponent


def _curve(transfer: int) -> Curve | None:
    """From a value to linear light, by its code point; None for one that is not known."""
    if transfer in (_UNSPECIFIED, 13):
        return _srgb_curve
    if transfer in (1, 6, 14, 15):
        return _bt709_curve
    exponent = {4: 2.2, 5: 2.8, 8: 1.0}.get(transfer)
    return None if exponent is None else _power(exponent)


def _matrix_profile(primaries: tuple[Points, Points, Points, Points], curve: Curve) -> Profile:
    """An ICC profile (ICC.1:2001-04) of three primaries, a white and a curve to linear light."""
    try:
        columns = _adapt(primaries)
    except (ZeroDivisionError, np.linalg.LinAlgError) as error:
        raise _UnknownColoursError("primaries that span no colours") from error
    if not np.isfinite(columns).all() or abs(columns).max() > 100:
        raise _UnknownColoursError("primaries that span no colours")
    table = np.rint(curve(np.linspace(0, 1, 4096)) * 65535).astype(">u2").tobytes()
    trc = b"curv\0\0\0\0" + struct.pack(">I", 4096) + table
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 1) + bytes(79), b"wtpt": _xyz((0.9642, 1.0, 0.8249))}
    for i, colour in enumerate((b"r", b"g", b"b")):
        tags |= {colour + b"XYZ": _xyz(columns[:, i]), colour + b"TRC": trc}
    entries, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        entries += struct.pack(">4sII", tag, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">4s4s4s4s12s4s", b"\2\x10\0\0", b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp")
    head = (bytes(8) + head).ljust(68, b"\0") + _xyz((0.9642, 1.0, 0.8249))[8:]
    whole = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body
    return Profile(struct.pack(">I", len(whole)) + whole[4:], is_made=True)


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _adapt(primaries: tuple[Points, Points, Points, Points]) -> Values:
    """Columns of XYZ of the primaries at full light, their white brought to D50 by Bradford's matrix."""

    def whole(point: Points) -> Values:
        x, y = point
        return np.array([x / y, 1.0, (1 - x - y) / y])

    *colours, white = map(whole, primaries)
    matrix = np.array(colours).T
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gain = (cones @ [0.9642, 1.0, 0.8249]) / (cones @ white)
    adapted: Values = np.linalg.inv(cones) @ np.diag(gain) @ cones @ matrix
    return adapted


# What a profile does.


def _find_transform(found: Profile, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of a profile for pictures of a mode; None if it changes nothing."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(found.data))
    except OSError as error:
        raise _UnknownColoursError("it is damaged") from error
    space, wanted = found.data[16:20], _SPACES[mode]
    if space != wanted and not (wanted == b"GRAY" and found.is_made):
        kinds = [str(kind, "ascii", "replace").strip() for kind in (space, wanted)]
        raise _UnknownColoursError("it is for {} colours, and the picture has {}".format(*kinds))
    if wanted == b"GRAY":
        # littlecms shortens the way through a grey profile by a table too coarse for dark greys in linear light.
        transform = _transform(profile, "RGB" if found.is_made else "L", "RGB", ImageCms.Flags.NOOPTIMIZE)
        return None if abs(_greys(transform) - np.arange(256)).max() <= _SAME else transform
    transform = _transform(profile, mode, "RGBA" if mode == "RGBA" else "RGB")
    if mode == "CMYK":
        return transform
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(18, -1, 3)
    moved = np.asarray(_apply(Image.fromarray(grid).convert(mode), transform).convert("RGB"))
    return None if abs(moved.astype(int) - grid).max() <= _SAME else transform


def _transform(
    profile: ImageCms.ImageCmsProfile, mode: str, to: str, flags: ImageCms.Flags = ImageCms.Flags.NONE
) -> ImageCms.ImageCmsTransform:
    flags |= ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(profile, _SRGB, mode, to, ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """A picture through a transform; of a grey one the alpha stays."""
    if image.mode in ("L", "LA"):
        grey = image.getchannel("L").point([round(value) for value in _greys(transform)])
        return grey if image.mode == "L" else Image.merge("LA", (grey, image.getchannel("A")))
    applied = ImageCms.applyTransform(image, transform)
    assert applied is not None  # only what is changed in place comes back as None
    return applied


def _greys(transform: ImageCms.ImageCmsTransform) -> Values:
    """What becomes of the 256 greys."""
    greys = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    applied = ImageCms.applyTransform(greys.convert(transform.input_mode), transform)
    return np.asarray(applied, dtype=np.float64)[0, :, 1]


# Pictures of any mode.


def _unpack(image: Image.Image) -> Image.Image:
    """L, LA, RGB, RGBA, CMYK or LAB: without a palette, transparency in a channel of its own."""
    if image.mode in ("1", "L", "LA", "La"):
        if image.mode in ("LA", "La"):
            return image.convert("LA")
        if image.has_transparency_data:
            both = image.convert("RGBA")
            return Image.merge("LA", (both.getchannel("R"), both.getchannel("A")))
        return image.convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("CMYK", "LAB") else image.convert("RGB")


def _is_grey(image: Image.Image) -> bool:
    """Whether a picture of three colours shows grey alone."""
    red, green, blue = image.split()[:3]
    return not any(ImageChops.difference(red, other).getbbox() for other in (green, blue))


def _read_deep_grey(image: Image.Image) -> tuple[Values, Image.Image | None]:
    """Grey of 16 or 32 bits as values from 0 to 1, and where one value is transparent, the alpha."""
    values = np.asarray(image).astype(np.float64)
    # A file of 32 bits does not say what white is: the least usual range that holds all values.
    ranges = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    found = [most for most in ranges if values.min() >= 0 and values.max() <= most]  # none if there is a NaN
    if not found:
        raise SegueError(f"has values outside 0 to {ranges[-1]}; save it with 8 or 16 bits")
    clear = image.info.get("transparency")
    alpha = np.where(values == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
    return values / found[0], None if alpha is None else Image.fromarray(alpha)


def _grey(values: Values, transform: ImageCms.ImageCmsTransform | None, alpha: Image.Image | None) -> Image.Image:
    """Values from 0 to 1 as a grey picture, through a transform between whose 256 greys is interpolated."""
    if transform is not None:
        values = np.interp(values, np.linspace(0, 1, 256), _greys(transform) / 255)
    grey = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if alpha is not None:
        grey.putalpha(alpha)
    return grey

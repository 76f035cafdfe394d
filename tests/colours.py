"""A disc of (200, 80, 60) on grey 128, as each colour space writes it: by the published matrices, no profile."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

DISC, GREY = (200, 80, 60), 128

# From linear RGB to XYZ under D65: IEC 61966-2-1, BT.2020, Display P3, Adobe RGB (1998), BT.601 of 525 lines.
TO_XYZ = {
    "srgb": [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
    "bt2020": [[0.636958, 0.144617, 0.168881], [0.262700, 0.677998, 0.059302], [0.0, 0.028073, 1.060985]],
    "p3": [[0.486571, 0.265668, 0.198217], [0.228975, 0.691739, 0.079287], [0.0, 0.045113, 1.043944]],
    "adobe": [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]],
    "bt601": [[0.3936, 0.3652, 0.1917], [0.2124, 0.7010, 0.0865], [0.0187, 0.1119, 0.9584]],
}


def srgb(linear: Any) -> Any:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def bt709(linear: Any) -> Any:
    return np.where(linear < 0.018, 4.5 * linear, 1.099 * np.maximum(linear, 1e-9) ** 0.45 - 0.099)


def power(exponent: float) -> Callable[[Any], Any]:
    return lambda linear: np.maximum(linear, 0) ** (1 / exponent)


def write(colour: Any, space: str = "srgb", curve: Callable[[Any], Any] = srgb) -> Any:
    """What an sRGB colour (0 to 255) is in a space, as floats from 0 to 1."""
    value = np.asarray(colour, dtype=float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return curve(linear @ (np.linalg.inv(np.array(TO_XYZ[space])) @ np.array(TO_XYZ["srgb"])).T)


def disc(space: str = "srgb", curve: Callable[[Any], Any] = srgb, side: int = 64) -> Any:
    """The disc as a space writes it, (side, side, 3) of 8 bits."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (x**2 + y**2 < (side / 4) ** 2)[..., None]
    colours = np.where(inside, write(DISC, space, curve), write((GREY,) * 3, space, curve))
    return np.rint(255 * colours.clip(0, 1)).astype(np.uint8)


def assert_right(picture: Any) -> None:
    """The disc within 3, the grey within 2, and nothing beside the pixels."""
    assert picture.mode == "RGB"
    assert picture.info == {}
    middle = np.array(picture.getpixel((picture.width // 2, picture.height // 2)))
    corner = np.array(picture.getpixel((2, 2)))
    assert abs(middle - DISC).max() <= 3, middle
    assert abs(corner - GREY).max() <= 2, corner


def png(samples: Any, *chunks: tuple[bytes, bytes], bits: int = 8) -> bytes:
    """A PNG of samples (H, W) or (H, W, channels) with chunks before its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = samples.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in samples)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    extra = b"".join(chunk(*given) for given in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

"""A file becomes an opened picture, whatever its name says: of several pictures the one that is meant.

Of a TIFF, such as a DNG or a pyramid, that is the largest; of an animation or a video the first frame, or the one that
``clip.mp4@first`` and ``clip.mp4@last`` name.
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from segue.errors import SegueError
from segue.files import file_and_frame, file_of

if TYPE_CHECKING:
    from segue.pictures.stills import Which

__all__ = ["MOST_PIXELS", "Opened", "digest_of_source", "frame_note", "open_picture", "quiet_pillow"]

_FILTERS = RLock()
MOST_PIXELS = 256_000_000  # of a picture that is read

_LAYERED = ("HEIF", "MPO", "PSD")  # formats with several pictures in a file that are not animations
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _SUBFILE, _KIND, _SUBIFDS, _ORIENTATION, _ICC = 256, 257, 254, 262, 330, 274, 34675
_RAW = (32803, 34892)  # kinds of pictures in a camera's own colours: of a colour filter array, and linear
_REDUCED, _MASK = 1, 4  # bits of the subfile type
_MOST_IFDS = 1000
_LONG_ENOUGH = 1024  # pixels of a preview's longer side


@dataclass(frozen=True)
class Opened:
    """A picture, its header read, and what a user should know of it once it is decoded."""

    image: Image.Image
    note: str = ""


def digest_of_source(source: Path) -> str:
    """A digest of what a picture is read from: its file, and the frame of a video that is meant."""
    file = file_of(source)
    content = hashlib.sha256(file.read_bytes())
    if file != source:
        content.update(source.name.rpartition("@")[2].encode())
    return content.hexdigest()[:16]


def open_picture(source: Path) -> Opened:
    """Open a picture or a video's frame; errors in one line that names the file.

    Raises:
        SegueError: no such file, it is not a picture, a damaged one, or one above 256 megapixels.
    """
    path, which = file_and_frame(source)
    try:
        if path.is_dir():
            raise SegueError(f"{path} is a folder, not a picture")
        if path.exists() and not path.is_file():
            raise SegueError(f"{path} is not a regular file")
        if path.stat().st_size == 0:
            raise SegueError(f"{path} is empty")
        with quiet_pillow():
            found = _open(path, which)
    except FileNotFoundError as error:
        raise SegueError(f"{path}: no such file") from error
    except OSError as error:
        fault = f"cannot be read: {error.strerror}" if error.strerror else f"is damaged: {error}"
        raise SegueError(f"{path} {fault}") from error
    except SegueError:
        raise
    except Exception as error:  # a decoder's own way to say that the header is damaged
        raise SegueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    width, height = found.image.size
    if width * height > MOST_PIXELS:
        found.image.close()
        raise SegueError(
            f"{path} is too large: {width} x {height} pixels; the limit is {MOST_PIXELS // 10**6} megapixels"
        )
    return found


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings: Python keeps one list of filters for all threads, so one at a time is in here."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def frame_note(image: Image.Image, name: str) -> str:
    """What to say of a picture that stands at the first of several frames."""
    frames = getattr(image, "n_frames", 1) if image.format not in _LAYERED else 1
    return f"{name} has {frames} frames; the first one is used" if frames > 1 and image.tell() == 0 else ""


def _open(path: Path, which: "Which | None") -> Opened:
    """A picture by Pillow, a HEIC by its extra, a video by PyAV."""
    try:
        image = _read_by_pillow(path)
    except (UnidentifiedImageError, KeyError):  # one of these is how Pillow says that it knows no such TIFF
        head = _head(path)
        if head[:4] in _TIFF:
            return _largest(path)
        if not _is_heic(head):
            return _still(path, which)
        image = _heic(path)
    if image.format == "TIFF" and which is None:
        image.close()
        return _largest(path)
    if image.format == "MPEG":  # of which Pillow knows no more than this
        return _still(path, which)
    if which == "last":
        image.seek(getattr(image, "n_frames", 1) - 1)
    return Opened(image, "" if which else frame_note(image, str(path)))


def _read_by_pillow(path: Path) -> Image.Image:
    """A picture by Pillow, whose limit of pixels is the whole process's and stays as it is."""
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        head = _head(path)[:16]
        for factory, accept in list(Image.OPEN.values()):
            if accept is None or accept(head) is True:
                try:
                    return factory(str(path), str(path))  # type: ignore[arg-type]  # as its annotation forgets
                except (SyntaxError, IndexError, TypeError, struct.error):
                    continue
        raise


def _still(path: Path, which: "Which | None") -> Opened:
    still = None
    if _is_video(_head(path)):
        from segue.pictures.stills import read_still  # PyAV, which pictures do not need, takes its time

        still = read_still(path, which or "first")
    if still is None:
        raise SegueError(f"{path} is not a picture that can be read (PNG, JPEG, WebP, AVIF, GIF, TIFF, ...) or a video")
    return Opened(still, "" if which else f"{path} is a video; its first frame is used, {path.name}@last is its last")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _is_video(head: bytes) -> bool:
    """Whether a file begins as those of video containers do."""
    boxes = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    return head[4:8] in boxes or head.startswith(
        (b"\x1aE\xdf\xa3", b"RIFF", b"\0\0\1", b"OggS", b"FLV", b"0&\xb2u", b"G")
    )


def _is_heic(head: bytes) -> bool:
    """Whether a file says that it holds HEIC, in its first box."""
    brands = [head[i : i + 4] for i in (8, *range(16, min(int.from_bytes(head[:4]), 64), 4))]
    return head[4:8] == b"ftyp" and any(brand in _HEIC_BRANDS for brand in brands)


def _heic(path: Path) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise SegueError(f'{path} is a HEIC picture, which needs an extra: pip install "segue[heic]"') from error
    try:
        image: Image.Image = HeifImageFile(str(path), str(path))
    except SyntaxError as error:
        raise SegueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    return image


# TIFF: several pictures in a file.


@dataclass(frozen=True)
class _Ifd:
    """One picture of a TIFF (TIFF 6.0, section 2; SubIFDs and kinds of pictures: DNG 1.4)."""

    offset: int
    size: tuple[int, int]
    kind: int
    subfile: int
    tags: Any

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def named(self) -> str:
        return f"{self.size[0]} x {self.size[1]} pixels"


def _largest(path: Path) -> Opened:
    """The largest picture of a TIFF.

    Where that is in a camera's own colours, the largest that can be read, with a word, if it is large enough for a
    film: 1024 pixels long, or half as long as the camera's.
    """
    with path.open("rb") as file:
        ifds = [ifd for ifd in _ifds(file) if not ifd.subfile & _MASK and min(ifd.size) > 0]
    if not ifds:
        raise SegueError(f"{path} is damaged: it contains no picture")
    head, (largest, *smaller) = ifds[0], sorted(ifds, key=lambda ifd: -ifd.area)  # of equal ones the earlier
    if (image := _read_ifd(path, largest, head)) is not None:
        whole = [ifd for ifd in ifds if not ifd.subfile & _REDUCED]
        if len({ifd.size for ifd in whole}) > 1:
            return Opened(image, f"{path} has {len(whole)} pictures; the largest, {largest.named}, is used")
        return Opened(image, f"{path} has {len(whole)} frames; the first one is used" if len(whole) > 1 else "")
    unread = f"{largest.named} as raw data of a camera, or in an unsupported encoding"
    for ifd in smaller:
        is_thumbnail = max(ifd.size) < min(_LONG_ENOUGH, max(largest.size) / 2)
        if is_thumbnail or ifd.area > MOST_PIXELS or (image := _read_ifd(path, ifd, head)) is None:
            continue
        try:
            image.load()
        except Exception:  # decoders raise whatever they like; the next one may be better
            image.close()
            continue
        used = f"the one of {ifd.named} in it is used; save it as PNG or JPEG for the whole"
        return Opened(image, f"{path} holds its picture of {unread}; {used}")
    raise SegueError(f"{path} holds its picture of {unread}; save it as PNG or JPEG")


def _ifds(file: IO[bytes]) -> Iterator[_Ifd]:
    """All pictures of a TIFF, those of the chain and those below them."""
    head = file.read(8)
    if head[2] == 43:  # BigTIFF
        head += file.read(8)
    waiting, known = [TiffImagePlugin.ImageFileDirectory_v2(head).next], set[int]()
    while waiting and len(known) < _MOST_IFDS:
        offset = waiting.pop(0)
        if not offset or offset in known:
            continue
        known.add(offset)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(offset)
        tags.load(file)
        below = tags.get(_SUBIFDS, ())
        waiting = [*(below if isinstance(below, tuple) else (below,)), tags.next, *waiting]
        size = (int(tags.get(_WIDTH, 0)), int(tags.get(_HEIGHT, 0)))
        yield _Ifd(offset, size, int(tags.get(_KIND, -1)), int(tags.get(_SUBFILE, 0)), tags)


def _read_ifd(path: Path, ifd: _Ifd, head: _Ifd) -> Image.Image | None:
    """The picture of an IFD; None where Pillow knows no way to read it."""
    if ifd.kind in _RAW:
        return None
    try:
        if ifd is head:
            return TiffImagePlugin.TiffImageFile(str(path), str(path))
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(_begin_tiff_at(path.read_bytes(), ifd.offset)), str(path))
    except (SyntaxError, KeyError):
        return None
    if _ORIENTATION in head.tags and _ORIENTATION not in ifd.tags:  # what the file says of all its pictures
        image.getexif()[_ORIENTATION] = head.tags[_ORIENTATION]
    if _ICC in head.tags and head.kind == ifd.kind:
        image.info.setdefault("icc_profile", head.tags[_ICC])
    return image


def _begin_tiff_at(data: bytes, offset: int) -> bytearray:
    """A TIFF whose first picture is the one at an offset."""
    headed, order = bytearray(data), "<" if data[:2] == b"II" else ">"
    if data[2] == 43:  # BigTIFF
        struct.pack_into(f"{order}Q", headed, 8, offset)
    else:
        struct.pack_into(f"{order}I", headed, 4, offset)
    return headed

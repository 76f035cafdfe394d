"""Films out: frames with the time that each is on screen, as MP4, GIF, animated WebP or PNGs; and contact sheets.

Frames are taken one at a time and encoded at once, so that memory does not grow with the film. Times are counted from
the beginning in the format's own ticks (MP4: 1/90000 s, WebP: 1/1000 s, GIF: 1/100 s) and each frame gets the ticks up
to its exact end, so that rounding never adds up.
"""

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont

from segue.errors import SegueError, warn
from segue.files import sweep, writing, writing_folder
from segue.outputs import check_film, ending_of

__all__ = ["Frame", "contact_sheet", "sheet", "write_film"]

Frame: TypeAlias = Image.Image | str | os.PathLike[str]

_MP4_TICKS, _WEBP_TICKS, _GIF_TICKS = 90_000, 1000, 100  # ticks in a second
_WEBP_LEAST, _GIF_LEAST = 11, 2  # ticks; browsers show what is shorter for a tenth of a second
_BT709, _LIMITED = 1, 1  # the codes of colour space and range (ITU-T H.273)


def write_film(path: Path, frames: Iterable[tuple[Frame, float]], *, quality: int = 18) -> None:
    """Write a film; the ending of the path says which kind. It is there when it is whole, or not at all.

    ``.mp4``: H.264 that browsers play (yuv420p, BT.709, faststart); a side that is odd gets its last row or column
    once more. ``.gif``: 256 colours for each frame, dithered; ``.webp``: lossy. Both repeat for ever, and leave out
    frames that would be on screen for less than 0.02 s (GIF) or 0.011 s (WebP): no browser plays those in time.
    No ending: a folder with ``0000.png``, ``0001.png``, ..., without times.

    Args:
        path: where to.
        frames: pictures of one size (PIL images or paths) and for how many seconds each is on screen.
        quality: of an MP4: the constant rate factor of x264, 0 (the best; the same as 1) to 51.

    Raises:
        SegueError: an unknown ending, a place that cannot be written, or a folder that holds other things than frames.
    """
    write = _writer(path)
    if write is None:
        check_film(path)  # what else lies in the folder would be lost
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    pictures = ((_picture(frame), seconds) for frame, seconds in frames)
    if write is None:
        with writing_folder(path) as folder:
            _write_pngs(folder, pictures)
    else:
        with writing(path) as temporary:
            write(temporary, pictures, quality)


def contact_sheet(frames: Sequence[Frame], path: str | os.PathLike[str] | None = None) -> Image.Image:
    """All frames on one picture, row by row, also written as a PNG to a path where one is given."""
    if path is not None and Path(path).suffix.lower() != ".png":
        raise SegueError(f"{path}: a contact sheet is a .png")
    picture = sheet(frames)
    if path is not None:
        with writing(Path(path)) as temporary:
            picture.save(temporary, format="PNG")
    return picture


def sheet(
    images: Sequence[Frame],
    labels: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    side: int = 192,
    most: int = 4096,
) -> Image.Image:
    """Pictures side by side on white, each within a square cell's width, opened one at a time.

    Args:
        images: the pictures, of one size.
        labels: a line below each picture.
        columns: pictures in a row; about as many as make the sheet half as wide again as high, if not given.
        side: the longer side of each in pixels; smaller pictures keep their size.
        most: the width of the sheet is at most this.
    """
    if not images:
        raise ValueError("a sheet of no pictures")
    first = _picture(images[0])
    columns = columns or min(len(images), max(1, round(math.sqrt(len(images) * 1.5 * first.height / first.width))))
    gap, text = 4, 16 if labels else 0
    scale = min(1.0, side / max(first.size), ((most - gap) / columns - gap) / first.width)
    width, height = (max(1, math.floor(n * scale + 1e-6)) for n in first.size)
    rows = math.ceil(len(images) / columns)
    whole = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + text + gap) + gap), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        x, y = gap + column * (width + gap), gap + row * (height + text + gap)
        whole.paste(_picture(image).resize((width, height), Image.Resampling.LANCZOS), (x, y))
        if labels:
            draw.text((x, y + height + 1), labels[number], "black", font)
    return whole


# The formats.

Pictures: TypeAlias = Iterable[tuple[Image.Image, float]]


def _write_mp4(path: Path, pictures: Pictures, quality: int) -> None:
    """H.264 without B-frames, so that the frames lie in the file in order and each has exactly its time."""
    pictures = _of_one_size(pictures)
    first, pictures = _peek(pictures)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height = first.width + first.width % 2, first.height + first.height % 2
        stream.pix_fmt = "yuv420p"
        # A factor below 1 would be a lossless kind of H.264 that browsers do not play.
        stream.options = {"crf": str(max(quality, 1)), "bf": "0", "profile": "high"}
        context = stream.codec_context
        context.time_base = Fraction(1, _MP4_TICKS)
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED
        converter = VideoReformatter()  # one for all frames: what it prepares serves them all
        lengths: dict[int, int] = {}
        start = 0
        for picture, ticks in _ticks(pictures, _MP4_TICKS, 1):
            padded = np.pad(np.asarray(picture), ((0, picture.height % 2), (0, picture.width % 2), (0, 0)), mode="edge")
            frame = converter.reformat(
                av.VideoFrame.from_ndarray(padded, format="rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.AREA,
            )
            frame.pts, frame.time_base = start, Fraction(1, _MP4_TICKS)
            lengths[start] = ticks
            start += ticks
            _mux(container, stream.encode(frame), lengths)
        _mux(container, stream.encode(None), lengths)


def _mux(container: "av.container.OutputContainer", packets: "list[av.Packet]", lengths: dict[int, int]) -> None:
    """Write encoded frames with their time on screen."""
    for packet in packets:
        packet.duration = lengths.pop(packet.pts)
        container.mux(packet)


def _write_gif(path: Path, pictures: Pictures, _quality: int) -> None:
    """A GIF whose frames each have their own 256 colours (GIF89a specification, sections 18 to 27)."""
    with path.open("wb") as file:
        for number, (picture, ticks) in enumerate(_ticks(_of_one_size(pictures), _GIF_TICKS, _GIF_LEAST)):
            palette = picture.quantize(256, method=Image.Quantize.MEDIANCUT)
            image = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
            if number == 0:
                file.write(b"GIF89a" + struct.pack("<HHBBB", *picture.size, 0x70, 0, 0))
                file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # repeat for ever
            for ticks_here in _parts(ticks, 0xFFFF):
                blocks = GifImagePlugin.getdata(
                    image, duration=1000 // _GIF_TICKS * ticks_here, disposal=1, include_color_table=True
                )
                file.writelines(blocks)
                blocks.clear()  # a list that PIL would keep until the next collection of cycles
        file.write(b";")


def _write_webp(path: Path, pictures: Pictures, _quality: int) -> None:
    """Single WebP pictures in the container of an animation (WebP container specification, "Animation")."""
    with path.open("wb") as file:
        for number, (picture, ticks) in enumerate(_ticks(_of_one_size(pictures), _WEBP_TICKS, _WEBP_LEAST)):
            width, height = (struct.pack("<I", side - 1)[:3] for side in picture.size)
            if number == 0:
                file.write(b"RIFF\0\0\0\0WEBP")
                file.write(_chunk(b"VP8X", b"\x02\0\0\0" + width + height))  # 2: an animation
                file.write(_chunk(b"ANIM", b"\xff\xff\xff\xff\0\0"))  # on white, for ever
            for ticks_here in _parts(ticks, 0xFFFFFF):
                head = bytes(6) + width + height + struct.pack("<I", ticks_here)[:3] + b"\x02"  # 2: do not blend
                file.write(_chunk(b"ANMF", head + _vp8(picture)))
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def _vp8(picture: Image.Image) -> bytes:
    """The chunk of a single lossy WebP picture."""
    buffer = BytesIO()
    picture.save(buffer, format="WEBP", quality=90, method=4)
    return buffer.getvalue()[12:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a RIFF file, padded to an even length."""
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _write_pngs(folder: Path, pictures: Pictures) -> None:
    """One PNG for each frame."""
    for number, (picture, _) in enumerate(_of_one_size(pictures)):
        picture.save(folder / f"{number:04d}.png", format="PNG")


_FORMATS: dict[str, Callable[[Path, Pictures, int], None]] = {
    ".mp4": _write_mp4,
    ".gif": _write_gif,
    ".webp": _write_webp,
}


def _writer(path: Path) -> Callable[[Path, Pictures, int], None] | None:
    """What writes a film of that ending; None for a folder of PNGs."""
    ending = ending_of(path)
    return _FORMATS[ending] if ending else None


# Frames and times.


def _ticks(pictures: Pictures, per_second: int, least: int) -> Iterator[tuple[Image.Image, int]]:
    """The time of each frame in whole ticks, up to its exact end; a frame that gets too few is left out.

    The first and the last frame always stay, for the least time if need be.
    """
    exact = Fraction(0)
    given, waiting, dropped = 0, None, 0
    for picture, seconds in pictures:
        if waiting is not None:
            previous, end = waiting
            ticks = end - given
            if given == 0:
                ticks = max(ticks, least)
            if ticks >= least:
                yield previous, ticks
                given += ticks
            else:
                dropped += 1
        exact += Fraction(seconds)
        waiting = picture, round(exact * per_second)
    if waiting is not None:
        yield waiting[0], max(waiting[1] - given, least)
    if dropped:
        shortest = f"{1000 * least // per_second} ms"
        warn(
            f"{dropped} frames are left out: a film of this kind shows none for less than {shortest}; "
            "lower fps, or write .mp4"
        )


def _parts(ticks: int, most: int) -> list[int]:
    """A number as a sum of numbers up to a limit."""
    count = -(-ticks // most)
    return [(i + 1) * ticks // count - i * ticks // count for i in range(count)]


def _of_one_size(pictures: Pictures) -> Pictures:
    """The same pictures; ValueError where there is none, or one of another size."""
    size = None
    for picture, seconds in pictures:
        if size not in (None, picture.size):
            raise ValueError(
                f"a film of {size[0]} x {size[1]} pixels with a frame of {picture.width} x {picture.height}"
            )
        size = picture.size
        yield picture, seconds
    if size is None:
        raise ValueError("a film of no frames")


def _peek(pictures: Pictures) -> tuple[Image.Image, Pictures]:
    """The first picture, and all of them."""
    rest = iter(pictures)
    first = next(rest)

    def again() -> Iterator[tuple[Image.Image, float]]:
        yield first
        yield from rest

    return first[0], again()


def _picture(frame: Frame) -> Image.Image:
    """A frame as an RGB picture."""
    if isinstance(frame, Image.Image):
        return frame if frame.mode == "RGB" else frame.convert("RGB")
    with Image.open(frame) as image:
        return image.convert("RGB")

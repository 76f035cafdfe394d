"""Films out: MP4, MOV, WebM, GIF, animated WebP or PNGs, at a constant rate; and contact sheets.

A film is a sequence of pictures, each of which is on screen for a number of ticks of 1 / fps. Every frame of a video
lasts one tick, and pictures repeat. GIF and WebP have a time for each picture, counted from the beginning in units of
their own (1/100 s, 1/1000 s), so that rounding never adds up. Pictures are taken one at a time and encoded at once, so
that memory does not grow with the film.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import Image, ImageDraw, ImageFont

from segue.errors import SegueError, warn
from segue.files import sweep, writing, writing_folder
from segue.film.outputs import check_film, ending_of
from segue.method.timing import frame_rate
from segue.pictures.alpha import Array, continue_colours, lay_on

__all__ = ["WRITERS", "Frame", "contact_sheet", "sheet", "write_film"]

Frame: TypeAlias = Image.Image | str | os.PathLike[str]

QUALITY = 18  # what is meant where nobody says another
_BT709, _LIMITED = 1, 1  # the codes of colour space and range (ITU-T H.273)


def write_film(
    path: Path, pictures: Iterable[Frame], ticks: Sequence[int], fps: float, *, quality: int = QUALITY
) -> None:
    """Write a film; the ending of the path says which kind. It is there when it is whole, or not at all.

    ``.mp4``: H.264 that browsers play (yuv420p, faststart); a side that is odd gets its last row or column once more.
    ``.mov``: ProRes 4444. ``.webm``: VP9. All are in BT.709 of limited range. ``.gif``: 256 colours for each picture,
    dithered. ``.webp``: lossy. Both repeat for ever, and leave out pictures that would be on screen for less than
    0.02 s (GIF) or 0.011 s (WebP): no browser plays those in time. No ending: a folder with ``0000.png``,
    ``0001.png``, ..., one for each tick.

    Transparency stays in .mov, .webm, .webp and PNGs; a GIF's pixels are transparent or not; an MP4 is laid on white.

    Args:
        path: where to.
        pictures: of one size (PIL images or paths).
        ticks: for how many ticks each picture is on screen.
        fps: ticks a second.
        quality: of .mp4, .webm and .webp, 0 (the best) to 51: the constant rate factor of x264 (0 is the same as 1).

    Raises:
        SegueError: an unknown ending, a place that cannot be written, or a folder that holds other things than frames.
    """
    write = _writer(path)
    if write is None:
        check_film(path)  # what else lies in the folder would be lost
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    if quality != QUALITY and write not in (_write_mp4, _write_webm, _write_webp):
        warn(f"quality has no effect on {path.name}: only .mp4, .webm and .webp have one")
    coming = _check_kinds(map(_open, pictures))
    first = next(coming)
    film = Film(first.size, chain([first], coming), ticks, frame_rate(fps), quality, first.mode == "RGBA")
    if write is None:
        with writing_folder(path) as folder:
            _write_pngs(folder, film)
    else:
        with writing(path) as temporary:
            write(temporary, film)


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
        raise ValueError("a sheet needs at least one picture")
    first = _open(images[0])
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
        whole.paste(lay_on(_open(image), "white").resize((width, height), Image.Resampling.LANCZOS), (x, y))
        if labels:
            draw.text((x, y + height + 1), labels[number], "black", font)
    return whole


# The formats.


Pixels: TypeAlias = Callable[[Image.Image], Array]


@dataclass(frozen=True)
class Film:
    """What is written: pictures, for how many ticks each is on screen, the ticks a second, and the quality."""

    size: tuple[int, int]
    pictures: Iterator[Image.Image]
    ticks: Sequence[int]
    rate: Fraction
    quality: int
    is_transparent: bool

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        return zip(self.pictures, self.ticks, strict=True)


def _write_mp4(path: Path, film: Film) -> None:
    """H.264 without B-frames, so that the frames lie in the file in order."""
    if film.is_transparent:
        warn("an .mp4 has no transparency: the film is laid on white; .mov, .webm, .webp and PNGs keep it")
    # A factor below 1 would be a lossless kind of H.264 that browsers do not play.
    options = {"crf": str(max(film.quality, 1)), "bf": "0", "profile": "high"}
    _encode(path, "mp4", "libx264", "yuv420p", options, film, _pad_to_even)


def _write_mov(path: Path, film: Film) -> None:
    """ProRes 4444."""
    options = {"profile": "4444", "alpha_bits": "16" if film.is_transparent else "0"}
    pixel_format = "yuva444p10le" if film.is_transparent else "yuv444p10le"
    _encode(path, "mov", "prores_ks", pixel_format, options, film, continue_colours)


def _write_webm(path: Path, film: Film) -> None:
    """VP9; its factor of constant quality goes to 63, where that of x264 goes to 51."""
    options = {"crf": str(round(film.quality * 63 / 51)), "b:v": "0", "cpu-used": "2", "row-mt": "1"}
    if film.is_transparent:
        options["auto-alt-ref"] = "0"  # frames that are not shown cannot have alpha
    _encode(
        path, "webm", "libvpx-vp9", "yuva420p" if film.is_transparent else "yuv420p", options, film, continue_colours
    )


def _write_gif(path: Path, film: Film) -> None:
    """A GIF whose pictures each have a palette of their own, with a transparent colour where one is needed."""
    if film.is_transparent:
        warn("pixels of a .gif are transparent or not: soft edges become hard; .mov, .webm, .webp and PNGs keep them")
    with av.open(str(path), "w", format="gif") as container:
        # Without its flags: the encoder takes equal numbers for equal colours, whatever the palettes.
        stream = container.add_stream("gif", rate=100, options={"gifflags": "0"})
        stream.pix_fmt = "pal8"
        stream.width, stream.height = film.size
        start = 0
        for picture, time in _merge_still(film, _durations(film, 100, least=2)):
            frame = av.VideoFrame.from_ndarray(_apply_palette(picture), format="pal8")
            for part in _parts(time, 0xFFFF):
                frame.pts, frame.time_base = start, Fraction(1, 100)
                start += part
                for packet in stream.encode(frame):
                    packet.duration = part
                    container.mux(packet)


def _write_webp(path: Path, film: Film) -> None:
    """An animated WebP; a quality of 18 is 88 of the 100 of WebP."""
    durations = _durations(film, 1000, least=11)
    times = [time for time in durations if time]
    pictures = (picture for picture, _ in _merge_still(film, durations))
    with path.open("wb") as file:
        next(pictures).save(
            file,
            format="WEBP",
            save_all=True,
            append_images=[_Animation(pictures, len(times) - 1)],
            duration=times,
            loop=0,
            quality=round(100 - 100 * (film.quality / 51) ** 2),
            method=4,
        )


class _Animation:
    """What Pillow takes for an open file of several pictures: it would first make a list of an iterator."""

    def __init__(self, pictures: Iterator[Image.Image], count: int) -> None:
        self.n_frames = count
        self._pictures = pictures

    def seek(self, _number: int) -> None:
        """Go on to the next picture."""
        picture = next(self._pictures)
        self.mode, self.getim = picture.mode, picture.getim


def _write_pngs(folder: Path, film: Film) -> None:
    """A PNG for each tick; a picture that repeats is one file with several names, where the file system has such."""
    number = 0
    for picture, ticks in film:
        first = folder / f"{number:04d}.png"
        picture.save(first, format="PNG")
        for repeat in range(number + 1, number + ticks):
            try:
                os.link(first, folder / f"{repeat:04d}.png")
            except OSError:
                shutil.copyfile(first, folder / f"{repeat:04d}.png")
        number += ticks


WRITERS: dict[str, Callable[[Path, Film], None]] = {
    ".mp4": _write_mp4,
    ".mov": _write_mov,
    ".webm": _write_webm,
    ".gif": _write_gif,
    ".webp": _write_webp,
}


def _writer(path: Path) -> Callable[[Path, Film], None] | None:
    """What writes a film of that ending; None for a folder of PNGs."""
    ending = ending_of(path)
    return WRITERS[ending] if ending else None


def _encode(
    path: Path, kind: str, codec: str, pixel_format: str, options: dict[str, str], film: Film, pixels: Pixels
) -> None:
    """A video of a constant rate, in BT.709 of limited range.

    Args:
        path: where to.
        kind: the container.
        codec: FFmpeg's name of the encoder.
        pixel_format: what is encoded.
        options: the encoder's.
        film: the pictures.
        pixels: of a picture, (H, W, 3) or (H, W, 4).
    """
    converter = VideoReformatter()  # one for all frames: what it prepares serves them all
    # No random number in the file; what players must know first lies at its beginning.
    container_options = {"fflags": "+bitexact", **({} if kind == "webm" else {"movflags": "+faststart"})}
    with av.open(str(path), "w", format=kind, options=container_options) as container:
        stream = container.add_stream(codec, rate=film.rate, options=options)
        stream.pix_fmt = pixel_format
        stream.width, stream.height = (side + side % 2 if kind == "mp4" else side for side in film.size)
        context = stream.codec_context
        context.time_base = 1 / film.rate
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED
        if pixel_format == "yuva420p":
            stream.metadata["alpha_mode"] = "1"
        number = 0
        for picture, ticks in film:
            array = pixels(picture)
            frame = converter.reformat(
                av.VideoFrame.from_ndarray(array, format="rgba" if array.shape[2] == 4 else "rgb24"),
                format=pixel_format,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.AREA,
            )
            frame.color_primaries = frame.color_trc = _BT709
            for _ in range(ticks):
                frame.pts, frame.time_base = number, 1 / film.rate
                number += 1
                _mux(container, stream.encode(frame))
        _mux(container, stream.encode(None))


def _mux(container: "av.container.OutputContainer", packets: "list[av.Packet]") -> None:
    for packet in packets:
        packet.duration = 1
        container.mux(packet)


# Times.


def _durations(film: Film, per_second: int, least: int) -> list[int]:
    """The time of each picture in a format's own unit, up to its exact end; 0 of one that gets too little.

    The first and the last picture always stay, for the least time if need be.
    """
    found: list[int] = []
    given, last = 0, len(film.ticks) - 1
    for number, end in enumerate(accumulate(film.ticks)):
        time = round(end * per_second / film.rate) - given
        if number in (0, last):
            time = max(time, least)
        found.append(time if time >= least else 0)
        given += found[-1]
    if dropped := found.count(0):
        shortest = f"{1000 * least // per_second} ms"
        warn(
            f"{dropped} frames are left out: this format cannot show a frame for less than {shortest}; "
            "lower fps, or write .mp4"
        )
    return found


def _merge_still(film: Film, durations: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
    """The pictures that stay, each with its time."""
    return ((picture, time) for (picture, _), time in zip(film, durations, strict=True) if time)


def _parts(time: int, most: int) -> list[int]:
    """A number as a sum of numbers up to a limit."""
    count = -(-time // most)
    return [(i + 1) * time // count - i * time // count for i in range(count)]


# Pictures.


def _open(frame: Frame) -> Image.Image:
    """A frame as an RGB picture; as an RGBA one where it has transparency."""
    if isinstance(frame, Image.Image):
        mode = "RGBA" if frame.has_transparency_data else "RGB"
        return frame if frame.mode == mode else frame.convert(mode)
    with Image.open(frame) as image:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _check_kinds(pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """The same pictures; ValueError if there is none, or one of another size or with other channels."""
    first = None
    for picture in pictures:
        first = first or (picture.size, picture.mode)
        if first != (picture.size, picture.mode):
            (width, height), mode = first
            shown = "" if mode == picture.mode else f" in {picture.mode} instead of {mode}"
            raise ValueError(
                f"a film of {width} x {height} pixels with a frame of {picture.width} x {picture.height}{shown}"
            )
        yield picture
    if first is None:
        raise ValueError("a film needs at least one frame")


def _pad_to_even(picture: Image.Image) -> Array:
    """The pixels on white, (H, W, 3); a side that is odd has its last row or column once more."""
    pixels = np.asarray(lay_on(picture, "white"))
    return np.pad(pixels, ((0, picture.height % 2), (0, picture.width % 2), (0, 0)), mode="edge")


def _apply_palette(picture: Image.Image) -> tuple[Array, Array]:
    """The colours' numbers (H, W), and the palette (256, 4) as alpha, red, green and blue."""
    colours = picture if picture.mode == "RGB" else Image.fromarray(continue_colours(picture)[..., :3])
    palette = np.zeros((256, 4), np.uint8)
    own = colours.quantize(256 if picture.mode == "RGB" else 255, method=Image.Quantize.MEDIANCUT)
    numbers = np.array(colours.quantize(palette=own, dither=Image.Dither.FLOYDSTEINBERG))
    known = np.array(own.getpalette("RGB"), np.uint8).reshape(-1, 3)[:256]
    palette[: len(known), 1:] = known
    palette[:, 0] = 255
    if picture.mode == "RGBA":
        palette[255] = 0
        numbers[np.asarray(picture)[..., 3] < 128] = 255
    return numbers, palette

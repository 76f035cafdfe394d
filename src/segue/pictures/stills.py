"""The first or last frame of a video, as players show it: turned, of square pixels, its colours in sRGB.

The transfer function of a video counts as sRGB's and so do the primaries of BT.601, as in players; BT.2020's and P3's
primaries are brought to sRGB's. Matrix and range are those that the file names, or where it names none, BT.709 from 720
lines on and BT.601 below, and 16 to 235.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import Image

from segue.errors import SegueError
from segue.pictures.srgb import Coded, to_srgb

__all__ = ["Which", "read_still"]

Which = Literal["first", "last"]

_NOT_VIDEOS = ("image2", "tty", "hls", "concat", "dash")  # what else FFmpeg reads: pictures, text, lists of files
_LAST_SECONDS = 5  # before the end, where the search for the last frame begins
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_HD_LINES = 720
_HDR, _WIDE, _SRGB_TRANSFER = (16, 18), (9, 11, 12), 13
_TURNS: dict[
    tuple[int, ...], Image.Transpose
] = {  # by the signs of the display matrix's (a, b, c, d): x' = a x + c y, y' = b x + d y
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def read_still(path: Path, which: Which) -> Image.Image | None:
    """The first or last frame of a video, RGB or RGBA; None if the file is not a video.

    Raises:
        SegueError: the video is damaged, without frames, or in HDR.
    """
    with path.open("rb") as file:  # not its name, in which FFmpeg would see addresses
        try:
            container = av.open(file, options={"protocol_whitelist": "file"})
        except (av.error.FFmpegError, ValueError):
            return None
        with container:
            formats = container.format.name.split(",")
            if not container.streams.video or any(n in _NOT_VIDEOS or n.endswith("_pipe") for n in formats):
                return None
            stream = container.streams.video[0]
            try:
                frame = next(_frames(container, stream), None) if which == "first" else _last(container, stream)
            except (av.error.FFmpegError, ValueError) as error:
                raise SegueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
            if frame is None:
                raise SegueError(f"{path} is a video without frames, or a damaged one")
            try:
                return _picture(frame, stream, str(path))
            except SegueError as error:
                raise SegueError(f"{path} {error}") from error


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """The frames from where a file stands; those of VP8 and VP9 with their alpha, which one decoder alone knows."""
    decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if decoder is None or stream.metadata.get("alpha_mode") != "1":
        yield from container.decode(stream)
        return
    context = av.CodecContext.create(decoder, "r")
    for packet in container.demux(stream):
        yield from context.decode(packet)


def _last(container: Any, stream: Any) -> Any:
    """The last frame: those of the last seconds are decoded, or all where a file cannot be entered there."""
    frame = None
    if container.duration:
        try:
            container.seek(max(0, container.duration - _LAST_SECONDS * av.time_base), backward=True)
            for frame in _frames(container, stream):  # noqa: B007
                pass
        except av.error.FFmpegError:
            frame = None
    if frame is None:
        container.seek(0)
        for frame in _frames(container, stream):  # noqa: B007
            pass
    return frame


def _picture(frame: Any, stream: Any, name: str) -> Image.Image:
    """A decoded frame as it is shown."""
    if frame.color_trc in _HDR:
        Coded(1, frame.color_trc).profile()  # which is refused
    pixel_format = frame.format
    has_alpha = any(component.is_alpha for component in pixel_format.components)
    is_full = frame.color_range == ColorRange.JPEG or pixel_format.name.startswith("yuvj")
    guessed = Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601
    converted = VideoReformatter().reformat(
        frame,
        format="rgba" if has_alpha else "rgb24",
        src_colorspace=_MATRICES.get(frame.colorspace, guessed),
        src_color_range=ColorRange.JPEG if is_full or pixel_format.is_rgb else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    )
    image = Image.fromarray(np.ascontiguousarray(converted.to_ndarray()))
    wide = Coded(frame.color_primaries, _SRGB_TRANSFER).profile() if frame.color_primaries in _WIDE else None
    image = to_srgb(image, wide, name)
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        image = image.resize((max(1, round(image.width * aspect)), image.height), Image.Resampling.LANCZOS)
    turn = _TURNS.get(_signs(frame))
    return image if turn is None else image.transpose(turn)


def _signs(frame: Any) -> tuple[int, ...]:
    """The signs of the frame's display matrix, none of which turns nothing."""
    data = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), b"")
    if len(data) != 36:
        return ()
    matrix = np.frombuffer(data, dtype=np.int32)
    return tuple(int(np.sign(matrix[i])) for i in (0, 1, 3, 4))

"""Frames of videos as keyframes: the right one, with its right colours, turned as it is shown."""

import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from colours import DISC, GREY, disc
from notices import SegueWarning
from PIL import Image

from segue.errors import SegueError
from segue.pictures.images import load

OTHER = (60, 80, 200)  # in the middle of the last frame
MATRICES = {1: Colorspace.ITU709, 6: Colorspace.ITU601, 9: Colorspace.BT2020}


def frame(last: bool, size: tuple[int, int]) -> Any:
    """Grey with a rectangle in the middle and a black corner at the top left, RGBA."""
    width, height = size
    pixels = np.full((height, width, 4), (GREY, GREY, GREY, 255), np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4, :3] = OTHER if last else DISC
    pixels[:8, :8, :3] = 0
    return pixels


def write(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    matrix: int = 1,
    full: bool = False,
    tagged: bool = True,
    size: tuple[int, int] = (128, 96),
    frames: int = 12,
    transfer: int = 1,
    first: Any = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose last frame differs."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {"crf": "5", "g": "4"})
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        context = stream.codec_context
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if tagged:
            context.colorspace, context.color_primaries, context.color_trc = matrix, matrix, transfer
            context.color_range = 2 if full else 1
        for i in range(frames):
            array = frame(i == frames - 1, size) if first is None else first
            plain = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgba")
            to = {"dst_colorspace": MATRICES[matrix], "dst_color_range": ColorRange.JPEG if full else ColorRange.MPEG}
            for packet in stream.encode(VideoReformatter().reformat(plain, format=pixels, **to)):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def colour(picture: Image.Image, x: float = 0.5, y: float = 0.5) -> Any:
    return np.array(picture.getpixel((int(x * picture.width), int(y * picture.height))))


VIDEOS: dict[str, dict[str, Any]] = {
    "bt709.mp4": {},
    "bt601.mp4": {"matrix": 6, "transfer": 6},
    "full.mov": {"full": True},
    "untagged.mkv": {"matrix": 6, "tagged": False},
    "untagged-hd.mp4": {"tagged": False, "size": (1280, 720), "frames": 2},
    "frames-out-of-order.ts": {"options": {"crf": "5", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "matrix": 6, "options": {"crf": "5", "b:v": "0", "cpu-used": "8"}},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le", "frames": 3, "options": {}},
    "motion.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "matrix": 6, "full": True, "options": {"q": "2"}},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_first_and_last_frame(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **VIDEOS[name])
    for which, middle in (("first", DISC), ("last", OTHER)):
        picture = load(f"{path}@{which}")
        assert picture.size == VIDEOS[name].get("size", (128, 96))
        assert (picture.mode, picture.info) == ("RGB", {})
        assert abs(colour(picture) - middle).max() <= 3
        assert abs(colour(picture, 0.9, 0.9) - GREY).max() <= 2
        assert np.asarray(picture)[3, 3].max() < 20


def test_a_video_alone_is_its_first_frame_with_a_word(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    said = f"{path} is a video; its first frame is used, clip.mp4@last is its last"
    with pytest.warns(SegueWarning, match=re.escape(said)) as caught:
        picture = load(path)
    assert len(caught) == 1
    assert abs(colour(picture) - DISC).max() <= 3


def test_a_file_of_that_very_name_goes_before(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4")
    Image.new("RGB", (8, 8), "lime").save(tmp_path / "clip.mp4@last", format="PNG")
    assert load(tmp_path / "clip.mp4@last").getpixel((4, 4)) == (0, 255, 0)


def test_a_last_frame_far_from_the_last_second(tmp_path: Path) -> None:
    """One key frame alone, at the beginning, ten seconds before the end."""
    path = write(tmp_path / "long.mp4", frames=100, options={"crf": "5", "g": "1000", "sc_threshold": "0"})
    assert abs(colour(load(f"{path}@last")) - OTHER).max() <= 3


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations_have_a_last_frame_too(tmp_path: Path, name: str) -> None:
    shown = [Image.new("RGB", (16, 16), each) for each in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
    shown[0].save(tmp_path / name, save_all=True, append_images=shown[1:], **options)
    assert load(tmp_path / f"{name}@first").getpixel((8, 8)) == (255, 0, 0)
    assert load(tmp_path / f"{name}@last").getpixel((8, 8)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("matrix", "size", "corner"),
    [
        ((0, 1, -1, 0), (96, 128), (0.97, 0.02)),  # a telephone upright: turned to the right
        ((0, -1, 1, 0), (96, 128), (0.02, 0.97)),
        ((-1, 0, 0, -1), (128, 96), (0.97, 0.97)),
        ((-1, 0, 0, 1), (128, 96), (0.97, 0.02)),
    ],
)
def test_turned_as_players_show_it(
    tmp_path: Path, matrix: tuple[int, ...], size: tuple[int, int], corner: tuple[float, float]
) -> None:
    path = write(tmp_path / "a.mp4", frames=2)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # the track's matrix (ISO/IEC 14496-12, 8.3.2)
    a, b, c, d = (value << 16 for value in matrix)
    shift = [
        max(0, -each) * side for each, side in ((matrix[0] + matrix[2], size[0]), (matrix[1] + matrix[3], size[1]))
    ]
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, shift[0] << 16, shift[1] << 16, 1 << 30)
    path.write_bytes(data)
    picture = load(f"{path}@first")
    assert picture.size == size
    assert colour(picture, *corner).max() < 20


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", size=(72, 96), frames=2, aspect=Fraction(16, 9))
    assert load(f"{path}@first").size == (128, 96)


@pytest.mark.parametrize(("transfer", "kind"), [(16, "PQ (SMPTE ST 2084)"), (18, "HLG (ARIB STD-B67)")])
def test_hdr_is_refused_by_name(tmp_path: Path, transfer: int, kind: str) -> None:
    path = write(tmp_path / "a.mp4", pixels="yuv420p10le", matrix=9, transfer=transfer)
    with pytest.raises(SegueError, match=re.escape(f"{path} is an HDR picture, {kind}")):
        load(f"{path}@last")


def test_wide_primaries_are_brought_to_srgb(tmp_path: Path) -> None:
    opaque = np.dstack([disc("bt2020", side=96), np.full((96, 96), 255, np.uint8)])
    path = write(tmp_path / "a.mp4", matrix=9, transfer=14, size=(96, 96), frames=2, first=opaque)
    picture = load(f"{path}@first")
    assert abs(colour(picture) - DISC).max() <= 3
    assert abs(colour(picture, 0.1, 0.1) - GREY).max() <= 2


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p", {"crf": "5", "b:v": "0", "auto-alt-ref": "0"}),
        ("a.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
    ],
)
def test_transparency_lies_on_the_background(
    tmp_path: Path, name: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    half = frame(False, (64, 64))
    half[:, :16, 3] = 0
    path = write(tmp_path / name, codec, pixels, size=(64, 64), frames=2, first=half, options=options)
    picture = load(f"{path}@last", "rgb(0,200,0)")
    assert abs(colour(picture, 0.05, 0.5) - (0, 200, 0)).max() <= 4
    assert abs(colour(picture) - DISC).max() <= 4


def test_what_is_no_video(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp4").read_bytes()
    cut, text = tmp_path / "cut.mp4", tmp_path / "list.m3u8"
    cut.write_bytes(whole[:900])
    text.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{tmp_path}/a.mp4\n#EXT-X-ENDLIST\n")
    for path in (cut, text):
        with pytest.raises(SegueError, match=r"is not a picture that can be read .* or a video$"):
            load(path)
    with pytest.raises(SegueError, match=r"gone\.mp4: no such file"):
        load(tmp_path / "gone.mp4@last")

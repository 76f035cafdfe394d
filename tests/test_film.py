import gc
import re
import struct
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from notices import SegueWarning
from PIL import Image, ImageSequence

from segue.errors import SegueError
from segue.film.outputs import check_film
from segue.film.writers import contact_sheet, sheet, write_film

COLOURS = [(200, 30, 40), (30, 180, 60), (20, 60, 210), (240, 240, 240), (10, 10, 10), (250, 220, 20), (0, 128, 128)]
VIDEOS = ["film.mp4", "film.mov", "film.webm"]
FORMATS = [*VIDEOS, "film.gif", "film.webp"]


def plain(size: tuple[int, int] = (64, 48), count: int = 7) -> list[Image.Image]:
    return [Image.new("RGB", size, COLOURS[i % len(COLOURS)]) for i in range(count)]


def smooth(width: int, height: int, shift: float = 0.0) -> Image.Image:
    """A colourful picture without hard edges."""
    y, x = np.mgrid[:height, :width] / 20
    waves = np.stack([np.sin(x + shift), np.cos(y - shift), np.sin(x + y)], axis=-1)
    return Image.fromarray(np.rint(127.5 + 110 * waves).astype(np.uint8))


def decode(path: Path) -> tuple[list[Any], list[float]]:
    """The pixels and the seconds on screen of each frame, read by libraries that did not write them."""
    if path.name in VIDEOS or path.suffix == ".mp4":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
            pixels = [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]
            starts = [float(frame.pts * frame.time_base) for frame in frames]
            ends = [*starts[1:], container.duration / 1e6]
        return pixels, [end - start for start, end in zip(starts, ends, strict=True)]
    with Image.open(path) as image:
        shown = [(np.asarray(f.convert("RGB")).astype(int), f.info["duration"]) for f in ImageSequence.Iterator(image)]
    return [frame for frame, _ in shown], [duration / 1000 for _, duration in shown]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_and_times(tmp_path: Path, name: str) -> None:
    ticks = [12, 2, 3, 1, 7, 1, 30]
    write_film(tmp_path / name, plain(), ticks, 24)
    pixels, seconds = decode(tmp_path / name)
    colours, times = COLOURS, np.array(ticks) / 24
    if name in VIDEOS:
        colours = [colour for colour, count in zip(COLOURS, ticks, strict=True) for _ in range(count)]
        times = np.full(sum(ticks), 1 / 24)
    assert len(pixels) == len(colours)
    for frame, colour in zip(pixels, colours, strict=True):
        assert frame.shape == (48, 64, 3)
        assert abs(frame - colour).max() <= 4
    unit = {"film.gif": 0.01, "film.webp": 0.001, "film.webm": 0.002}.get(name, 1e-4)
    assert abs(np.cumsum(seconds) - np.cumsum(times)).max() <= unit / 2 + 1e-6
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("fps", [12, 24, 29.97, 30])
def test_rounding_does_not_add_up(tmp_path: Path, name: str, fps: float) -> None:
    write_film(tmp_path / name, plain((16, 16), 50), [1] * 50, fps)
    pixels, seconds = decode(tmp_path / name)
    assert len(pixels) == 50
    assert sum(seconds) == pytest.approx(50 / fps, abs=0.0051 if name == "film.gif" else 0.0021)
    assert max(seconds) - min(seconds) < 0.0101


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_survive(tmp_path: Path, name: str) -> None:
    frames = [smooth(96, 64, shift) for shift in (0, 0.5, 1)]
    write_film(tmp_path / name, frames, [1] * 3, 10)
    pixels, _ = decode(tmp_path / name)
    for found, frame in zip(pixels, frames, strict=True):
        assert abs(found - np.asarray(frame)).mean() < (8 if name == "film.gif" else 3)


@pytest.mark.parametrize("size", [(33, 47), (64, 47), (33, 48), (8, 9)])
def test_odd_sides(tmp_path: Path, size: tuple[int, int]) -> None:
    frame = smooth(*size)
    for name in FORMATS:
        write_film(tmp_path / name, [frame, frame], [1, 1], 10)
        pixels, _ = decode(tmp_path / name)
        exact = np.asarray(frame).astype(int)
        even = (0, 0)
        if name == "film.mp4":
            even = (size[0] % 2, size[1] % 2)
            exact = np.pad(exact, ((0, even[1]), (0, even[0]), (0, 0)), mode="edge")
        assert pixels[0].shape == (size[1] + even[1], size[0] + even[0], 3)
        assert abs(pixels[0] - exact).mean() < (8 if name == "film.gif" else 4)


def boxes(data: bytes) -> list[str]:
    """The names of an MP4's outer boxes, in order."""
    found, place = [], 0
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        found.append(kind.decode())
        place += size
    return found


@pytest.mark.parametrize("quality", [0, 18, 51])
def test_browsers_play_the_mp4(tmp_path: Path, quality: int) -> None:
    path = tmp_path / "film.mp4"
    write_film(path, (smooth(64, 64, i / 9) for i in range(9)), [1] * 9, 25, quality=quality)
    kinds = boxes(path.read_bytes())
    assert kinds.index("moov") < kinds.index("mdat")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert context.name == "h264"
        assert context.profile == "High"
        assert context.pix_fmt == "yuv420p"
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
    assert packets[0].pts == 0


def test_quality_counts(tmp_path: Path) -> None:
    frame, sizes, faults = smooth(128, 128), [], []
    noisy = np.asarray(frame).astype(int) + np.random.default_rng(0).integers(-15, 16, (128, 128, 1))
    frame = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    for quality in (0, 18, 40):
        path = tmp_path / f"{quality}.mp4"
        write_film(path, [frame] * 3, [1] * 3, 10, quality=quality)
        sizes.append(path.stat().st_size)
        faults.append(abs(decode(path)[0][0] - np.asarray(frame)).mean())
    assert sizes == sorted(sizes, reverse=True)
    assert faults == sorted(faults)
    assert faults[0] < 2.5


@pytest.mark.parametrize("name", ["film.gif", "film.webp"])
def test_it_repeats_for_ever(tmp_path: Path, name: str) -> None:
    write_film(tmp_path / name, plain(), [1] * 7, 10)
    with Image.open(tmp_path / name) as image:
        assert image.info["loop"] == 0
        assert getattr(image, "n_frames", 1) == 7


@pytest.mark.parametrize(("name", "least"), [("film.gif", 0.02), ("film.webp", 0.011)])
def test_frames_too_short_to_be_played_are_left_out(tmp_path: Path, name: str, least: float) -> None:
    with pytest.warns(SegueWarning, match=rf"^\d+ frames are left out: .* less than {1000 * least:.0f} ms; ") as caught:
        write_film(tmp_path / name, plain((8, 8), 48), [1] * 48, 240)
    pixels, seconds = decode(tmp_path / name)
    assert str(caught[0].message).startswith(f"{48 - len(pixels)} frames")
    assert min(seconds) >= least - 1e-9
    assert sum(seconds) == pytest.approx(0.2, abs=2 * least)
    assert abs(pixels[0][0, 0] - COLOURS[0]).max() <= 3
    assert abs(pixels[-1][0, 0] - COLOURS[47 % 7]).max() <= 3


def test_each_gif_frame_has_its_own_colours(tmp_path: Path) -> None:
    red, blue = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = blue[..., 2] = np.arange(256).reshape(16, 16)
    write_film(tmp_path / "film.gif", [Image.fromarray(red), Image.fromarray(blue)], [1, 1], 10)
    pixels, _ = decode(tmp_path / "film.gif")
    assert abs(pixels[0] - red).max() <= 4
    assert abs(pixels[1] - blue).max() <= 4


def test_a_very_long_still(tmp_path: Path) -> None:
    for name in FORMATS:
        write_film(tmp_path / name, plain((16, 16))[:2], [700, 1], 1)
        assert sum(decode(tmp_path / name)[1]) == pytest.approx(701)


@pytest.mark.parametrize("name", FORMATS)
def test_a_film_of_one_frame(tmp_path: Path, name: str) -> None:
    write_film(tmp_path / name, plain()[:1], [7], 10)
    pixels, seconds = decode(tmp_path / name)
    if name in VIDEOS:
        assert sum(seconds) == pytest.approx(0.7, abs=0.002)
    assert len(pixels) == (7 if name in VIDEOS else 1)
    assert abs(pixels[0] - COLOURS[0]).max() <= 3


def test_a_folder_of_pngs(tmp_path: Path) -> None:
    frames = [smooth(33, 47, i) for i in range(3)]
    path = tmp_path / "new" / "frames"
    for count in (3, 2):
        check_film(path)
        write_film(path, frames[:count], [1] * count, 10)
        assert names(path) == [f"{i:04d}.png" for i in range(count)]
    for i in range(2):
        with Image.open(path / f"{i:04d}.png") as image:
            assert image.mode == "RGB"
            assert (np.asarray(image) == np.asarray(frames[i])).all()
    assert names(tmp_path / "new") == ["frames"]


def test_frames_may_be_paths(tmp_path: Path) -> None:
    frame = smooth(32, 32)
    frame.save(tmp_path / "a.png")
    write_film(tmp_path / "b", [tmp_path / "a.png", str(tmp_path / "a.png"), frame], [1] * 3, 10)
    written = [(tmp_path / "b" / f"{i:04d}.png").read_bytes() for i in range(3)]
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("name", [*FORMATS, "frames"])
def test_memory_does_not_grow_with_the_film(tmp_path: Path, name: str) -> None:
    """At any time a few frames are alive, and none of what was encoded is kept."""
    alive: list[weakref.ref[Image.Image]] = []
    counts: list[int] = []
    memory: list[int] = []
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    def frames() -> Iterator[Image.Image]:
        for _ in range(60):
            counts.append(sum(ref() is not None for ref in alive))
            memory.append(tracemalloc.get_traced_memory()[0])
            copy = frame.copy()
            alive.append(weakref.ref(copy))
            yield copy
            del copy

    write_film(tmp_path / "warm" / name, [frame], [1], 20)
    gc.collect()
    tracemalloc.start()
    try:
        write_film(tmp_path / name, frames(), [1] * 60, 20)
    finally:
        tracemalloc.stop()
    assert max(counts) <= 3
    assert memory[-1] - memory[20] < 100_000


@pytest.mark.parametrize("name", [*FORMATS, "frames"])
def test_a_fault_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    write_film(tmp_path / name, plain()[:1], [1], 10)
    path = tmp_path / name / "0000.png" if name == "frames" else tmp_path / name
    before = path.read_bytes()

    def frames() -> Iterator[Image.Image]:
        yield plain()[1]
        yield plain()[2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / name, frames(), [1] * 3, 10)
    assert path.read_bytes() == before
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", [*FORMATS, "frames"])
def test_frames_of_two_sizes_are_no_film(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a film of 8 x 8 pixels with a frame of 16 x 8"):
        write_film(tmp_path / name, [Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))], [1, 1], 10)
    with pytest.raises(ValueError, match="at least one frame"):
        write_film(tmp_path / name, [], [], 10)
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".film.gif.0123abcd.part").write_text("half")
    (tmp_path / ".other.gif.0123abcd.part").write_text("somebody else's")
    write_film(tmp_path / "film.gif", plain()[:1], [1], 10)
    assert names(tmp_path) == [".other.gif.0123abcd.part", "film.gif"]


def test_the_same_film_twice_is_the_same_file(tmp_path: Path) -> None:
    for name in FORMATS:
        files = []
        for folder in ("a", "b"):
            write_film(tmp_path / folder / name, (smooth(48, 48, i) for i in range(5)), [1] * 5, 10)
            files.append((tmp_path / folder / name).read_bytes())
        assert files[0] == files[1]


# Before any work.


def test_check_film(tmp_path: Path) -> None:
    for name in ("a.mp4", "A.MP4", "a.mov", "a.webm", "a.gif", "a.webp", "frames", "new/a.mp4", "new/frames"):
        check_film(tmp_path / name)
    assert names(tmp_path) == []
    for name in ("a.avi", "a.mp5", "a.png", "my.frames"):
        with pytest.raises(
            SegueError, match=rf"{re.escape(name)}: unknown ending .*; a film can end in .mp4, .mov, .webm, .gif, .webp"
        ):
            check_film(tmp_path / name)
    with pytest.raises(SegueError, match="unknown ending"):
        write_film(tmp_path / "a.avi", [], [], 10)
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(SegueError, match=r"dir\.mp4 is a folder"):
        check_film(tmp_path / "dir.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(SegueError, match="file is a file; a film can end in"):
        check_film(tmp_path / "file")
    with pytest.raises(SegueError, match="file is not a folder"):
        check_film(tmp_path / "file" / "a.mp4")
    photos = tmp_path / "photos"
    photos.mkdir()
    check_film(photos)
    (photos / "0000.png").touch()
    check_film(photos)
    (photos / "cat.png").touch()
    with pytest.raises(SegueError, match=r"photos is a folder that holds other things than frames \(cat\.png\)"):
        check_film(photos)


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("0000.png", "0002.png"), ("20240117.png",)])
def test_pictures_with_numbers_for_names_are_no_frames(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(SegueError, match="holds other things than frames"):
        check_film(tmp_path)
    for name in names:
        (tmp_path / name).rename(tmp_path / f"{names.index(name):04d}.png")
    check_film(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="only Linux has /proc")
@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_nothing_can_be_written_there(name: str) -> None:
    with pytest.raises(SegueError, match=f"/proc/self/{name} cannot be written"):
        check_film(Path("/proc/self") / name)


# Sheets.


def test_contact_sheet(tmp_path: Path) -> None:
    frames = plain((64, 48), 7)
    picture = contact_sheet(frames, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert (np.asarray(image) == np.asarray(picture)).all()
    pixels = np.asarray(picture)
    assert picture.size == (4 + 3 * 68, 4 + 3 * 52)
    for i, colour in enumerate(COLOURS):
        row, column = divmod(i, 3)
        cell = pixels[4 + 52 * row : 52 + 52 * row, 4 + 68 * column : 68 + 68 * column]
        assert (cell == colour).all()
    assert (pixels[-52:, 72:] == 255).all()  # cells that nobody needs
    assert (pixels[:4] == 255).all()
    assert names(tmp_path) == ["sheet.png"]


def test_a_sheet_has_labels_and_a_largest_width() -> None:
    frames = [Image.new("RGB", (400, 200), "red") for _ in range(6)]
    bare, labelled = sheet(frames, columns=3), sheet(frames, ["a", "", "c", "", "", ""], columns=3)
    assert bare.size == (3 * 196 + 4, 2 * 100 + 4)
    assert labelled.size == (3 * 196 + 4, 2 * 116 + 4)
    strip = np.asarray(labelled)[100:116]
    assert (strip[:, 4:20] < 128).any()
    assert (strip[:, 200:392] == 255).all()
    assert sheet(frames, columns=6, most=300).width <= 300
    assert sheet(frames * 100).width <= 4096
    with pytest.raises(ValueError, match="at least one picture"):
        sheet([])

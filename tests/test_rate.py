"""The rate, the length and the pictures of whole films, as players and editors read them."""

import itertools
import json
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from notices import SegueWarning
from PIL import Image

from segue import FilmSettings, Morph
from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.pictures.alpha import lay_on

SIZE = (48, 40)


def picture(number: int, count: int, mode: str = "RGB") -> Image.Image:
    """Grey that becomes lighter, with a bar on the way to the right."""
    pixels = np.full((SIZE[1], SIZE[0], 4), 255, np.uint8)
    pixels[..., :3] = round(200 * number / (count - 1))
    left = round(32 * number / (count - 1))
    pixels[10:30, left : left + 12, :3] = (220, 40, 60)
    pixels[:8, :, 3] = 0  # the upper rows are transparent, the lower ones half so
    pixels[-8:, :, 3] = 128
    return Image.fromarray(pixels).convert(mode)


def film_of(folder: Path, places: list[Fraction], *, loop: bool = False, mode: str = "RGB") -> Morph:
    """A finished run of pictures that no model made; their distances are those of the pixels."""
    (folder / "frames").mkdir(parents=True)
    keys = [FrameKey.at(place) for place in places]
    for number, key in enumerate(keys):
        picture(number, len(keys), mode).save(folder / "frames" / f"{key.name}.png")
    settings = {"loop": loop}
    run = {"settings": settings, "size": SIZE, "keyframes": [], "model": {"name": "", "fingerprint": ""}}
    (folder / "run.json").write_text(json.dumps({**run, "batch_size": 1}))
    frames = [{"place": str(key.place), "name": key.name, "level": 0} for key in keys]
    (folder / "state.json").write_text(json.dumps({"frames": frames}))
    return Morph(folder)


def steps(count: int, gaps: int = 1) -> list[Fraction]:
    return [Fraction(i, count) for i in range(gaps * count + 1)]


def read(path: Path) -> tuple[Any, list[np.ndarray[Any, Any]]]:
    """The stream's numbers, and its frames as RGBA; FFmpeg's own decoder of VP9 knows no alpha."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        numbers = (stream.average_rate, stream.base_rate, container.duration)
        if path.suffix == ".webm":
            decoder = av.CodecContext.create("libvpx-vp9", "r")
            frames = [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]
        else:
            frames = list(container.decode(stream))
        tags = stream.codec_context
        assert (tags.color_primaries, tags.color_trc, tags.colorspace, tags.color_range) == (1, 1, 1, 1)
        return numbers, [frame.to_ndarray(format="rgba") for frame in frames]


COMBINATIONS = itertools.product(["linear", "even:pixels"], ["none", "dissolve", "motion"], [0.0, 0.02, 0.5, 0.77])


@pytest.mark.parametrize(("easing", "smooth", "hold"), COMBINATIONS)
def test_the_rate_of_the_file_is_fps(tmp_path: Path, easing: str, smooth: str, hold: float) -> None:
    film = film_of(tmp_path / "run", steps(6))
    variants: list[dict[str, Any]] = [
        {"fps": 24},
        {"fps": 12, "boomerang": True},
        {"fps": 30, "easing": "ease-in-out", "seconds": 1.5},
        {"fps": 23.976, "seconds": 0.9},
    ]
    for number, extra in enumerate(variants):
        settings, fps = {"easing": easing, "smooth": smooth, "hold": hold, **extra}, extra["fps"]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\d of 7 frames are left out")
            path = film.save(tmp_path / f"{number}.mp4", **settings)
        (average, base, length), frames = read(path)
        rate = Fraction(24000, 1001) if fps == 23.976 else Fraction(fps)
        assert average == base == rate
        gap = settings.get("seconds", 4 / 3)
        seconds = 2 * hold + (2 if "boomerang" in extra else 1) * gap
        assert len(frames) / rate == pytest.approx(seconds, abs=float(1.01 / rate))
        assert length / 1e6 == pytest.approx(len(frames) / rate, abs=1e-3)
        assert film.seconds(FilmSettings(**settings)) == pytest.approx(len(frames) / rate)
        first, last = picture(0, 7), picture(6, 7)
        assert abs(frames[0][..., :3].astype(int) - np.asarray(first)).mean() < 4
        if "boomerang" not in extra:
            assert abs(frames[-1][..., :3].astype(int) - np.asarray(last)).mean() < 4


@pytest.mark.parametrize("ending", ["mov", "webm"])
@pytest.mark.parametrize("fps", [24, 12.5, 29.97])
def test_the_rate_of_files_for_editors(tmp_path: Path, ending: str, fps: float) -> None:
    film = film_of(tmp_path / "run", steps(2))
    (average, base, _), frames = read(film.save(tmp_path / f"a.{ending}", fps=fps, hold=0.2, seconds=0.6))
    rate = Fraction(30000, 1001) if fps == 29.97 else Fraction(fps)
    assert average == base == rate
    assert len(frames) / rate == pytest.approx(1.0, abs=float(0.51 / rate))


def test_a_loop_and_several_gaps_last_as_long_as_all_their_gaps(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(4, 3))
    assert film.seconds(FilmSettings(hold=0.31, seconds=0.77)) == pytest.approx(4 * 0.31 + 3 * 0.77, abs=0.5 / 24)
    loop = film_of(tmp_path / "loop", steps(4, 3), loop=True)
    assert len(loop) == 12
    assert loop.seconds(FilmSettings(hold=0.31, seconds=0.77)) == pytest.approx(3 * (0.31 + 0.77), abs=0.5 / 24)
    _, frames = read(loop.save(tmp_path / "a.mp4", hold=0.0, seconds=1, smooth="dissolve"))
    assert len(frames) == 72
    assert abs(frames[-1].astype(int) - frames[0])[..., :3].max() < 80  # almost where it began


def test_a_keyframe_stands_for_its_hold(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(4, 2))
    film.save(tmp_path / "pngs", fps=10, hold=0.6, seconds=1.2, smooth="dissolve")
    shown = [path.read_bytes() for path in sorted((tmp_path / "pngs").iterdir())]
    assert len(shown) == 3 * 6 + 2 * 12
    keyframes = [picture(number, 9) for number in (0, 4, 8)]
    for begin, keyframe in zip((0, 18, 36), keyframes, strict=True):
        for k in range(begin, begin + 6):
            with Image.open(tmp_path / "pngs" / f"{k:04d}.png") as image:
                assert (np.asarray(image) == np.asarray(keyframe)).all()
    assert len(set(shown)) == 3 + 2 * 11
    again = tmp_path / "pngs" / "0001.png"
    assert again.samefile(tmp_path / "pngs" / "0000.png")  # one file, several names


def test_dissolves_fill_the_gap_with_weighted_means(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(1))
    film.save(tmp_path / "pngs", fps=8, hold=0.0, seconds=0.5, smooth="dissolve")
    pixels = [int(np.asarray(Image.open(path))[0, 0, 0]) for path in sorted((tmp_path / "pngs").iterdir())]
    assert pixels == [0, 50, 100, 150, 200]


def test_a_gap_takes_the_same_time_whatever_its_frames(tmp_path: Path) -> None:
    lengths = [film_of(tmp_path / str(n), steps(n)).seconds(FilmSettings()) for n in (2, 8, 16, 32)]
    assert lengths == pytest.approx([2 * 0.5 + 4 / 3] * 4)


def test_no_frame_is_left_out_silently(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(64))
    film.save(tmp_path / "pngs", hold=0.0)
    assert len(list((tmp_path / "pngs").iterdir())) == 65  # longer than 1.33 s
    assert len({path.read_bytes() for path in (tmp_path / "pngs").iterdir()}) == 65
    with pytest.warns(SegueWarning, match=r"32 of 65 frames are left out: .* less than 1/24 s; more seconds") as caught:
        film.save(tmp_path / "pngs", hold=0.0, seconds=4 / 3)
    assert len(caught) == 1
    with Image.open(tmp_path / "pngs" / "0032.png") as last:
        assert (np.asarray(last) == np.asarray(picture(64, 65))).all()


def test_an_even_film_spends_its_ticks_on_what_changes(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", [Fraction(i, 8) for i in (0, 1, 2, 8)])
    film.save(tmp_path / "pngs", fps=40, hold=0.0, seconds=2, easing="even:pixels")
    shown = [path.read_bytes() for path in sorted((tmp_path / "pngs").iterdir())]
    ticks = [len(list(same)) for _, same in itertools.groupby(shown)]
    way = np.array(film.distances("pixels")) / sum(film.distances("pixels")) * 80
    assert ticks == pytest.approx([way[0] / 2, (way[0] + way[1]) / 2, (way[1] + way[2]) / 2, way[2] / 2 + 1], abs=1.01)


# Transparency.


@pytest.mark.parametrize("ending", ["mov", "webm"])
@pytest.mark.parametrize("smooth", ["none", "dissolve", "motion"])
def test_editors_get_the_alpha(tmp_path: Path, ending: str, smooth: Literal["none", "dissolve", "motion"]) -> None:
    film = film_of(tmp_path / "run", steps(2), mode="RGBA")
    _, frames = read(film.save(tmp_path / f"a.{ending}", hold=0.2, seconds=0.5, smooth=smooth))
    for found, number in ((frames[0], 0), (frames[-1], 2)):
        exact = np.asarray(picture(number, 3, "RGBA")).astype(int)
        assert abs(found[..., 3].astype(int) - exact[..., 3]).max() <= (2 if ending == "mov" else 12)
        assert abs(found[..., 3].astype(int) - exact[..., 3]).mean() < 1.5
        for dark in ("black", "#203040"):
            laid = [lay_on(Image.fromarray(pixels.astype(np.uint8)), dark) for pixels in (found, exact)]
            assert abs(np.subtract(*(np.asarray(one).astype(int) for one in laid))).mean() < 3
    middle = frames[len(frames) // 2]
    assert abs(middle[:6, :, 3].astype(int)).max() <= 12
    assert abs(middle[-6:, :, 3].astype(int) - 128).max() <= 12


def test_opaque_films_have_no_alpha(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(2))
    for ending, kind in (("mov", "yuv444p"), ("webm", "yuv420p")):
        with av.open(str(film.save(tmp_path / f"a.{ending}", seconds=0.2))) as container:
            frame = next(container.decode(video=0))
            assert frame.format.name.startswith(kind)
            assert "alpha_mode" not in {name.lower() for name in container.streams.video[0].metadata}


def test_pngs_and_webp_keep_the_alpha(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(2), mode="RGBA")
    film.save(tmp_path / "pngs", seconds=0.2)
    with Image.open(tmp_path / "pngs" / "0000.png") as image:
        assert (np.asarray(image) == np.asarray(picture(0, 3, "RGBA"))).all()
    with Image.open(film.save(tmp_path / "a.webp", seconds=0.2)) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(int)
        assert abs(pixels[..., 3] - np.asarray(picture(0, 3, "RGBA"))[..., 3]).max() <= 1
        image.seek(2)
        assert (np.asarray(image.convert("RGBA"))[:8, :, 3] == 0).all()  # nothing of the frames before shows through


def test_a_gif_is_transparent_or_not(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(2), mode="RGBA")
    with pytest.warns(SegueWarning, match=r"pixels of a \.gif are transparent or not: soft edges become hard"):
        path = film.save(tmp_path / "a.gif", seconds=0.2)
    with Image.open(path) as image:
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
            assert (alpha[:8] == 0).all()
            assert (alpha[8:] == 255).all()


def test_an_mp4_is_laid_on_white_and_says_so(tmp_path: Path) -> None:
    film = film_of(tmp_path / "run", steps(2), mode="RGBA")
    with pytest.warns(SegueWarning, match=r"an \.mp4 has no transparency: the film is laid on white") as caught:
        path = film.save(tmp_path / "a.mp4", seconds=0.2, quality=1)
    assert len(caught) == 1
    frame = read(path)[1][0]
    assert frame[:6].min() >= 250
    assert frame[-6:, :, :3].mean() == pytest.approx(127, abs=4)


@pytest.mark.parametrize("name", ["a.mov", "a.gif", "pngs"])
def test_a_quality_that_changes_nothing_is_told(tmp_path: Path, name: str) -> None:
    film = film_of(tmp_path / "run", steps(1))
    with pytest.warns(SegueWarning, match=f"quality has no effect on {name}: only .mp4, .webm and .webp have one"):
        film.save(tmp_path / name, seconds=0.1, hold=0.0, quality=30)


@pytest.mark.parametrize("ending", ["mp4", "webm", "webp"])
def test_a_better_quality_is_nearer_and_larger(tmp_path: Path, ending: str) -> None:
    film = film_of(tmp_path / "run", steps(1))
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for path in film.frames.paths:
        Image.fromarray(noise).save(path)
    sizes = [film.save(tmp_path / f"{q}.{ending}", seconds=0.1, quality=q).stat().st_size for q in (0, 18, 51)]
    assert sizes[0] > 1.05 * sizes[1]
    assert sizes[1] > 1.5 * sizes[2]


def test_a_rate_that_no_file_has_is_refused() -> None:
    with pytest.raises(SegueError, match="fps"):
        FilmSettings(fps=0.01)

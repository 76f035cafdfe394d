"""Perceptual spacing and even timing in whole films, on tiny networks."""

from pathlib import Path

import av
import pytest
from PIL import Image
from shapes import QUICK, contents, interpolator, picture
from tiny_clip import save_tiny_clip

from segue import Edit, FilmSettings, Morph
from segue.clip import Clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def film(clip: Path, tmp_path: Path) -> Morph:
    settings = {**QUICK, "num_frames": 9, "spacing": "perceptual", "look": str(clip)}
    return interpolator()(picture(0), picture(1), **settings, output=tmp_path / "run")


def test_the_frames_are_those_that_were_decided(film: Morph) -> None:
    assert len(film) == 9
    depths = [key.position.denominator for key in film.keys]
    assert all(depth & (depth - 1) == 0 for depth in depths)  # every frame is the middle of two


def test_a_redo_keeps_the_decided_frames_and_undo_brings_all_back(film: Morph) -> None:
    before = contents(film.path / "frames")
    middle = next(key for key in film.keys if key.position.denominator == 2)
    changed = interpolator().redo(film.path, middle, Edit(seed=5))
    assert changed.keys == film.keys
    assert contents(film.path / "frames") != before
    interpolator().undo(film.path)
    assert contents(film.path / "frames") == before


def test_nothing_is_decided_again(film: Morph, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.frames.Look.__call__", lambda *_: pytest.fail("measured again"))
    settings = {**QUICK, "num_frames": 9, "spacing": "perceptual", "look": str(clip)}
    again = interpolator()(picture(0), picture(1), **settings, output=film.path)
    assert again.keys == film.keys


def test_a_largest_distance_stops_early(clip: Path) -> None:
    settings = {**QUICK, "num_frames": 65, "spacing": "perceptual", "look": str(clip), "max_distance": 5.0}
    assert len(interpolator()(picture(0), picture(1), **settings)) == 2


def test_even_timing_gives_the_time_to_what_changes(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Clip.load(str(clip))
    monkeypatch.setattr("segue.morph.Clip.load", lambda: tiny)
    film = interpolator()(picture(0), picture(1), **QUICK)
    shown = dict(film.timed(FilmSettings(timing="even", hold=0.0, fps=10)))
    distances = film.distances()
    assert len(distances) == 4
    # The middle frame is shown from the middle of the step before it to the middle of the step after it, of 4 in 0.4 s.
    assert shown[2] == pytest.approx((distances[1] + distances[2]) / 2 / sum(distances) * 0.4, rel=1e-3)
    assert sum(shown.values()) == pytest.approx(0.5)
    path = film.save(tmp_path / "film.mp4", timing="even", hold=0.0, fps=10)
    with av.open(str(path)) as container:
        times = [float(frame.time or 0) for frame in container.decode(video=0)]
    starts = [sum(list(shown.values())[:i]) for i in range(5)]
    assert times == pytest.approx(starts, abs=0.002)
    for kind in ("gif", "webp"):
        with Image.open(film.save(tmp_path / f"film.{kind}", timing="even", hold=0.0, fps=10)) as image:
            lengths = []
            for i in range(image.n_frames):  # type: ignore[attr-defined]
                image.seek(i)
                image.load()
                lengths.append(image.info["duration"] / 1000)
        assert sum(lengths) == pytest.approx(0.5, abs=0.011)

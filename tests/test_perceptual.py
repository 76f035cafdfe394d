"""Perceptual spacing and even timing in whole films, on tiny networks."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from safetensors.torch import save_file
from shapes import QUICK, contents, picture, tiny_interpolator
from test_evaluate_features import lpips_weights, save_tiny_dinov2
from tiny_clip import save_tiny_clip

from segue import Edit, FilmSettings, Morph
from segue.errors import SegueError
from segue.method.perceptual import PerceptualTree
from segue.method.tree import FrameKey
from segue.models.features.networks import load_network


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def networks(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny feature networks of each kind, by the names that --spacing perceptual: takes."""
    folder = tmp_path_factory.mktemp("networks")
    save_tiny_dinov2(folder / "dinov2")
    save_file(lpips_weights(alex=True), folder / "lpips.safetensors")
    return {
        "clip": f"clip:{clip}",
        "dinov2": f"dinov2:{folder / 'dinov2'}",
        "lpips": f"lpips:{folder / 'lpips.safetensors'}",
        "pixels": "pixels",
    }


@pytest.fixture
def film(clip: Path, tmp_path: Path) -> Morph:
    settings = {**QUICK, "num_frames": 9, "spacing": f"perceptual:clip:{clip}"}
    return tiny_interpolator()(picture(0), picture(1), **settings, output=tmp_path / "run")


def test_the_frames_are_those_that_were_decided(film: Morph) -> None:
    assert len(film) == 9
    depths = [key.position.denominator for key in film.keys]
    assert all(depth & (depth - 1) == 0 for depth in depths)  # every frame is the middle of two


def test_a_redo_keeps_the_decided_frames_and_undo_brings_all_back(film: Morph) -> None:
    before = contents(film.path / "frames")
    middle = next(key for key in film.keys if key.position.denominator == 2)
    changed = tiny_interpolator().remake(film.path, middle, Edit(seed=5))
    assert changed.keys == film.keys
    assert contents(film.path / "frames") != before
    tiny_interpolator().undo(film.path)
    assert contents(film.path / "frames") == before


def test_nothing_is_decided_again(film: Morph, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.engine.adapters.FrameDistance.__call__", lambda *_: pytest.fail("measured again"))
    settings = {**QUICK, "num_frames": 9, "spacing": f"perceptual:clip:{clip}"}
    again = tiny_interpolator()(picture(0), picture(1), **settings, output=film.path)
    assert again.keys == film.keys


@pytest.mark.parametrize("kind", ["clip", "dinov2", "lpips", "pixels"])
def test_the_network_that_is_named_decides(kind: str, networks: dict[str, str], tmp_path: Path) -> None:
    settings = {**QUICK, "num_frames": 9, "spacing": f"perceptual:{networks[kind]}"}
    film = tiny_interpolator()(picture(0), picture(1), **settings, output=tmp_path / "run")
    network = load_network(networks[kind])
    tree, made = PerceptualTree(1, 9, (0.55, 0.425, 0.3)), {FrameKey(0), FrameKey(1)}
    frames = dict(zip(film.keys, film.frames, strict=True))

    def distance(left: FrameKey, right: FrameKey) -> float:
        return float(network.path([frames[left], frames[right]]).steps[0])

    while level := tree.next_level(made, distance):
        made |= {midpoint.key for midpoint in level}
    assert sorted(made) == list(film.keys)
    assert film.distances(networks[kind]) == pytest.approx(network.path(list(film.frames)).steps.tolist())


def test_a_network_that_is_not_there_is_named_before_anything(tmp_path: Path) -> None:
    for name, fault in (("resnet", "unknown feature network 'resnet'"), ("lpips:gone.safetensors", "gone.safetensors")):
        settings = {**QUICK, "spacing": f"perceptual:{name}"}
        with pytest.raises(SegueError, match=fault):
            tiny_interpolator()(picture(0), picture(1), **settings, output=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_largest_distance_stops_early(clip: Path) -> None:
    settings = {**QUICK, "num_frames": 65, "spacing": f"perceptual:clip:{clip}", "max_distance": 9.0}
    assert len(tiny_interpolator()(picture(0), picture(1), **settings)) == 2


def test_even_timing_gives_the_time_to_what_changes(clip: Path, tmp_path: Path) -> None:
    film = tiny_interpolator()(picture(0), picture(1), **QUICK)
    shown = dict(film.screen_times(FilmSettings(easing=f"even:clip:{clip}", hold=0.0, seconds=0.4)))
    distances = film.distances(f"clip:{clip}")
    assert len(distances) == 4
    # The middle frame is shown from the middle of the step before it to the middle of the step after it.
    assert shown[2] == pytest.approx((distances[1] + distances[2]) / 2 / sum(distances) * 0.4, rel=1e-3)
    assert sum(shown.values()) == pytest.approx(0.4)
    film.save(tmp_path / "film", easing=f"even:clip:{clip}", hold=0.0, seconds=0.4, fps=200)
    pictures = [path.read_bytes() for path in sorted((tmp_path / "film").iterdir())]
    ticks = [len(list(same)) for _, same in groupby(pictures)]
    assert np.cumsum(ticks) == pytest.approx(np.cumsum(list(shown.values())) * 200, abs=1.01)
    for kind in ("gif", "webp"):
        with Image.open(
            film.save(tmp_path / f"film.{kind}", easing=f"even:clip:{clip}", hold=0.0, seconds=4, fps=50)
        ) as image:
            lengths = [(frame.load(), frame.info["duration"])[1] / 1000 for frame in ImageSequence.Iterator(image)]
        assert np.cumsum(lengths) == pytest.approx(np.cumsum(list(shown.values())) * 10, abs=0.025)


def test_the_seam_of_a_loop_is_timed_as_any_other_gap(clip: Path) -> None:
    film = tiny_interpolator()(picture(0), picture(1), **QUICK, loop=True)
    assert len(film) == len(film.distances(f"clip:{clip}")) == 8
    apart = load_network(f"clip:{clip}").path([film.frames[7], film.frames[0]]).steps
    assert film.distances(f"clip:{clip}")[-1] == pytest.approx(float(apart[0]))
    eased = [seconds for _, seconds in film.screen_times(FilmSettings(easing="ease-in-out", hold=0.0))]
    assert eased[:4] == pytest.approx(eased[4:])
    assert sum(eased) == pytest.approx(2 * 4 / 3)
    there_and_back = film.screen_times(FilmSettings(easing=f"even:clip:{clip}", hold=0.0, boomerang=True))
    assert [number for number, _ in there_and_back] == [*range(8), 0, *range(7, 0, -1)]  # it turns where it began
    assert sum(seconds for _, seconds in there_and_back) == pytest.approx(4 * 4 / 3)

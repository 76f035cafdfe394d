"""Transparency from the keyframes to the frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from notices import SegueWarning
from PIL import Image, ImageDraw
from shapes import QUICK, contents, picture, tiny_interpolator

from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.pictures.alpha import continue_colours, ground_for, lay_on, lift
from segue.run.folder import RunFolder


def disc(left: int, colour: tuple[int, int, int], hidden: tuple[int, int, int] = (9, 99, 9)) -> Image.Image:
    """A disc with soft edges; what nobody sees has a colour of its own."""
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).ellipse((left, 80, left + 96, 176), fill=255)
    mask = mask.resize((64, 64), Image.Resampling.LANCZOS)
    drawn = Image.composite(
        Image.new("RGB", (64, 64), colour), Image.new("RGB", (64, 64), hidden), mask.point(bool, "1")
    )
    drawn.putalpha(mask)
    return drawn


RED, BLUE = disc(40, (210, 40, 30)), disc(120, (30, 60, 200))


def premultiply(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGBa"), np.float32) / 255


def difference(a: Image.Image, b: Image.Image) -> Any:
    return abs(np.asarray(a).astype(int) - np.asarray(b))


# One picture.


@pytest.mark.parametrize("ground", ["white", "gray", "black"])
def test_what_is_laid_on_a_ground_is_lifted_again(ground: str) -> None:
    seen = premultiply(RED)
    again = lift(lay_on(RED, ground), seen, seen, 0.5, ground)
    assert (np.asarray(again)[..., 3] == np.asarray(RED)[..., 3]).all()
    for other in ("white", "black", "#ff00ff"):
        assert difference(lay_on(again, other), lay_on(RED, other)).max() <= 2


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_picture_says_where_only_one_keyframe_is_opaque(share: float) -> None:
    """A frame that shows only the left disc is that disc, though the right one's alpha is there."""
    frame = lift(lay_on(RED, "white"), premultiply(RED), premultiply(BLUE), share, "white")
    alone = (np.asarray(BLUE)[..., 3] == 255) & (np.asarray(RED)[..., 3] == 0)
    assert alone.sum() > 100
    assert np.asarray(frame)[..., 3][alone].max() <= 3  # and no white
    alone = (np.asarray(RED)[..., 3] == 255) & (np.asarray(BLUE)[..., 3] == 0)
    assert np.asarray(frame)[..., 3][alone].min() >= 230


def test_a_dissolve_is_the_mean_of_both() -> None:
    mixed = (premultiply(RED) + premultiply(BLUE)) / 2
    on_white = Image.fromarray(np.rint((mixed[..., :3] + 1 - mixed[..., 3:]) * 255).astype(np.uint8))
    frame = lift(on_white, premultiply(RED), premultiply(BLUE), 0.5, "white")
    assert abs(np.asarray(frame)[..., 3] - 255 * mixed[..., 3]).max() <= 6
    on_black = Image.fromarray(np.rint(mixed[..., :3] * 255).astype(np.uint8))
    assert difference(lay_on(frame, "black"), on_black).max() <= 8


def test_colours_go_on_where_nothing_is_seen() -> None:
    pixels = continue_colours(RED)
    seen = np.asarray(RED)[..., 3] > 0
    assert (pixels[..., 3] == np.asarray(RED)[..., 3]).all()
    far = abs(pixels[..., :3].astype(int) - (210, 40, 30))
    assert far.max() <= 16  # everywhere, though green is hidden there; faint edges are rounded
    assert far.mean() <= 5
    assert seen.mean() < 0.3


def test_the_ground_is_one_on_which_the_subject_is_seen() -> None:
    assert ground_for([RED, BLUE]) == "white"
    assert ground_for([disc(40, (250, 250, 245)), disc(80, (255, 255, 255))]) == "black"
    assert ground_for([disc(40, (255, 255, 255)), disc(80, (0, 0, 0))]) == "white"


# Whole films, on tiny networks.

SMALL: dict[str, Any] = {**QUICK, "network_size": "64x64"}
TRANSPARENT: dict[str, Any] = {**SMALL, "background": "transparent"}


@pytest.fixture(scope="module", params=[True, False], ids=["aligned", "unaligned"])
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("film") / "run"
    return tiny_interpolator()(RED, BLUE, **TRANSPARENT, align=request.param, output=path)


def test_keyframes_are_exact(film: Any) -> None:
    for frame, keyframe in ((film.frames[0], RED), (film.frames[-1], BLUE)):
        assert frame.mode == "RGBA"
        assert (np.asarray(frame) == np.asarray(keyframe)).all()


def test_frames_are_transparent_where_both_keyframes_are(film: Any) -> None:
    aligned = film.frames[2].mode == "RGBA" and "true" in (film.path / "run.json").read_text().split('"align": ')[1][:5]
    union = np.maximum(np.asarray(RED)[..., 3], np.asarray(BLUE)[..., 3])
    for frame in film.frames:
        alpha = np.asarray(frame)[..., 3]
        assert alpha[:12].max() == 0
        assert alpha.max() > 100
        assert aligned or (alpha <= union.astype(int) + 1).all()
    if aligned:  # the disc is on its way, and whole there
        columns = np.asarray(film.frames[len(film) // 2])[32, :, 3].astype(float)
        assert (columns * np.arange(64)).sum() / columns.sum() == pytest.approx(32, abs=2.5)
        assert columns[28:36].min() == 255


def test_networks_see_the_frames_on_the_ground(film: Any) -> None:
    with RunFolder(film.path) as run:
        shown = run.shown_image(FrameKey(0))
        assert shown.mode == "RGB"
        assert (np.asarray(shown) == np.asarray(lay_on(RED, "white"))).all()
    assert len(film.distances()) == len(film) - 1
    assert film.contact_sheet().getpixel((6, 6)) == (255, 255, 255)


def test_without_transparent_nothing_changes(tmp_path: Path) -> None:
    laid = [lay_on(image, "white") for image in (RED, BLUE)]
    plain = tiny_interpolator()(*laid, **SMALL, output=tmp_path / "plain")
    given = tiny_interpolator()(RED, BLUE, **SMALL, output=tmp_path / "given")
    for a, b in zip(plain.frames.paths, given.frames.paths, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert '"ground"' not in (tmp_path / "given" / "run.json").read_text()


def test_a_transparent_film_goes_on_and_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    tiny_interpolator()(RED, BLUE, **TRANSPARENT, loop=True, output=path)
    before = contents(path / "frames")
    with Image.open(path / "frames" / f"{FrameKey(2).name}.png") as closing:
        assert (np.asarray(closing) == np.asarray(RED)).all()
    tiny_interpolator()(RED, BLUE, **TRANSPARENT, loop=True, output=path)
    assert contents(path / "frames") == before
    morph = tiny_interpolator().remake(path, FrameKey.at("1/2"))
    assert morph.frames[2].mode == "RGBA"
    assert contents(path / "frames") != before
    tiny_interpolator().undo(path)
    assert contents(path / "frames") == before


def test_a_contained_keyframe_has_nothing_around_it() -> None:
    morph = tiny_interpolator()(RED.crop((0, 16, 64, 48)), BLUE, **TRANSPARENT, fit="contain")
    alpha = np.asarray(morph.frames[0])[..., 3]
    assert alpha[:16].max() == alpha[48:].max() == 0
    assert alpha[28:36].max() == 255


def test_the_camera_moves_the_alpha_too() -> None:
    settings = {**TRANSPARENT, "rotate": 90.0}
    morph = tiny_interpolator()(RED, RED, **settings)
    turned = np.asarray(RED.rotate(-90))[..., 3].astype(int)
    assert abs(np.asarray(morph.frames[-1])[..., 3].astype(int) - turned).mean() < 3


def test_opaque_keyframes_make_an_opaque_film_and_it_is_told() -> None:
    with pytest.warns(SegueWarning, match="no keyframe is transparent anywhere: the frames are opaque"):
        morph = tiny_interpolator()(picture(0), picture(1), **TRANSPARENT)
    assert {frame.mode for frame in morph.frames} == {"RGB"}


def test_another_background_is_another_run(tmp_path: Path) -> None:
    tiny_interpolator()(RED, BLUE, **TRANSPARENT, output=tmp_path / "run")
    with pytest.raises(SegueError, match="background: 'transparent', now 'white'"):
        tiny_interpolator()(RED, BLUE, **SMALL, output=tmp_path / "run")

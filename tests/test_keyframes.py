"""Keyframes as users have them: photographs, panoramas, frames of videos, colours of all kinds, names of all kinds."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import assert_right
from notices import SegueWarning
from PIL import Image
from shapes import QUICK, picture, tiny_interpolator
from test_stills import write

from segue.engine.keyframes import load_images, warn_of_crops
from segue.errors import SegueError
from segue.pictures.images import film_size, network_size
from segue.run.folder import RunFolder
from segue.settings.kinds import MorphSettings, parse_settings

CASES = Path(__file__).parent / "data" / "cases"
POCKET = (128, 32)  # native size, and what its sides are multiples of


@pytest.mark.parametrize("size", [(3024, 4032), (4032, 3024), (1080, 1920), (1170, 2532), (2000, 2000), (600, 800)])
def test_a_photograph_keeps_its_shape(size: tuple[int, int]) -> None:
    photograph = Image.new("1", size)
    width, height = film_size([photograph], network_size(size, *POCKET))
    assert max(width, height) == min(max(size), 1024)
    assert abs(width / height / (size[0] / size[1]) - 1) < 0.003
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_crops(["a.jpg"], [photograph], MorphSettings(), (width, height))


def test_a_crop_of_more_than_a_tenth_is_told_in_one_line(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", size) for size in ((3000, 100), (64, 4000), (1000, 33), (110, 100), (112, 100))]
    names: list[Any] = ["pano.png", tmp_path / "tall.png", "like.png", pictures[3], np.zeros((100, 112, 3))]
    size = (1024, 34)
    with pytest.warns(SegueWarning) as caught:
        warn_of_crops(names[:3], pictures[:3], MorphSettings(), size)
    whole = "--fit contain shows pictures whole, --size 1280x720 sets another shape"
    assert [str(each.message) for each in caught] == [
        f"{tmp_path}/tall.png loses 100 % at the edges to the film's shape of 1024 x 34; {whole}"
    ]
    with pytest.warns(
        SegueWarning, match=r"^pano\.png loses 97 %, .*tall\.png loses 98 %, .*, the keyframe at 4 loses"
    ):
        warn_of_crops(names, pictures, MorphSettings(), (100, 100))
    with pytest.warns(SegueWarning) as caught:
        warn_of_crops(names[3:], pictures[3:], MorphSettings(), (100, 100))
    assert "the keyframe at 1 loses 11 %" in str(caught[0].message)
    assert "at 0" not in str(caught[0].message)  # 9 %
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fit in ("contain", "stretch"):
            warn_of_crops(names, pictures, MorphSettings(fit=fit), (100, 100))


def test_a_film_tells_of_its_crops(tmp_path: Path) -> None:
    picture(1, (100, 32)).save(tmp_path / "wide.png")
    with pytest.warns(SegueWarning, match=r"wide\.png loses 68 % at the edges to the film's shape of 32 x 32; --fit"):
        tiny_interpolator()(picture(0), tmp_path / "wide.png", output=tmp_path / "run", **{**QUICK, "num_frames": 3})


def test_a_huge_jpeg_is_read_no_smaller_than_twice_the_film(tmp_path: Path) -> None:
    Image.new("L", (4096, 4096), 128).save(tmp_path / "a.jpg", quality=10)
    images = [tmp_path / "a.jpg"] * 2
    for settings, side in (({}, 2048), ({"size": "1400x1000"}, 4096), ({"network_size": "2048x1440"}, 4096)):
        assert {found.size for found in load_images(images, parse_settings(MorphSettings, settings))} == {(side, side)}


def test_poses_and_points_count_the_pixels_of_a_picture_that_was_read_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("L", (8192, 4096), 128).save(tmp_path / "a.jpg", quality=10, exif=turned)
    monkeypatch.setattr("segue.engine.interpolator.read_given", lambda _settings, given, *_: given)
    settings = MorphSettings(network_size="64x128")
    _, _, given = tiny_interpolator()._prepare([tmp_path / "a.jpg", str(tmp_path / "a.jpg")], settings)
    sizes: Any = given
    assert sizes == [(4096, 8192)] * 2


COLOURS = [
    "colour-broken-profile/broken_icc.png",
    "colour-icc-named-srgb/linear_srgb_name.png",
    "colour-icc-named-srgb/p3_named_srgbtrc.png",
    "colour-icc-named-srgb/plain.png",
]


def chunks(path: Path) -> set[bytes]:
    """The kinds of chunks of a PNG."""
    data, place, found = path.read_bytes(), 8, set()
    while place < len(data):
        found.add(data[place + 4 : place + 8])
        place += 12 + int.from_bytes(data[place : place + 4])
    return found


def test_frames_films_and_folders_carry_the_same_colour_information(tmp_path: Path) -> None:
    with pytest.warns(SegueWarning, match="colour profile cannot be used"):
        morph = tiny_interpolator()(
            *(CASES / name for name in COLOURS),
            output=tmp_path / "run",
            **{**QUICK, "num_frames": 3, "prompt": tuple("abcd")},
        )
    morph.save(tmp_path / "frames")
    for path in [*(tmp_path / "run" / "frames").glob("*.png"), *(tmp_path / "frames").glob("*.png")]:
        assert chunks(path) == {b"IHDR", b"IDAT", b"IEND"}
    for frame in (morph.frames[0], morph.frames[2], morph.frames[4], morph.frames[6]):
        assert_right(frame)


def test_first_and_last_frame_of_a_film_as_keyframes(tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.mp4", size=(32, 32))
    settings = {**QUICK, "num_frames": 3}
    morph = tiny_interpolator()(f"{clip}@last", f"{clip}@first", output=tmp_path / "run", **settings)
    first, last = (np.array(morph.frames[i].getpixel((16, 16))) for i in (0, 2))
    assert abs(first - (60, 80, 200)).max() <= 3
    assert abs(last - (200, 80, 60)).max() <= 3
    sources = [keyframe["source"] for keyframe in json.loads((tmp_path / "run" / "run.json").read_text())["keyframes"]]
    assert sources == [f"{clip}@last", f"{clip}@first"]


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    with open(name, "wb") as file:  # noqa: PTH123
        picture(0).save(file, format="PNG")
    settings: dict[str, Any] = {**QUICK, "num_frames": 3}
    morph = tiny_interpolator()(name, picture(1), output=tmp_path / "run", **settings)
    with RunFolder(morph.path) as run:
        data = run.read("run.json")
    assert data is not None
    assert data["keyframes"][0]["source"] == name
    (tmp_path / "run" / "run.json").read_bytes().decode()  # the file itself is UTF-8
    again = tiny_interpolator()(name, picture(1), output=tmp_path / "run", **settings)
    assert len(again.frames) == 3
    with pytest.raises(SegueError, match="the name of an output must be UTF-8"):
        tiny_interpolator()(name, picture(1), output=os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"), **settings)

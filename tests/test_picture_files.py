"""Which picture of a file is opened: the largest of a TIFF, HEIC whatever its name, photographs of many megapixels."""

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import DISC, GREY, assert_right
from notices import SegueWarning
from PIL import Image

from segue.errors import SegueError
from segue.files import file_of
from segue.pictures.files import digest_of_source
from segue.pictures.images import load, shown_size

CASES = Path(__file__).parent / "data" / "cases"
RGB, CFA, LINEAR_RAW, REDUCED = 2, 32803, 34892, 1


def picture(size: tuple[int, int]) -> Any:
    """The middle of DISC, the rest grey, (H, W, 3)."""
    width, height = size
    pixels = np.full((height, width, 3), GREY, np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = DISC
    return pixels


def ifd(
    size: tuple[int, int], *, kind: int = RGB, subfile: int = 0, below: Any = (), orientation: int = 0
) -> dict[str, Any]:
    return {"size": size, "kind": kind, "subfile": subfile, "below": list(below), "orientation": orientation}


def tiff(*chain: dict[str, Any], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of uncompressed pictures (TIFF 6.0, section 2; BigTIFF) with those below them in tag 330."""
    word, entry, head = ("Q", 20, 16) if big else ("I", 12, 8)
    data = bytearray(head)

    def add(picture_: dict[str, Any]) -> int:
        below = [add(other) for other in picture_["below"]]
        width, height = picture_["size"]
        is_raw = picture_["kind"] != RGB
        samples = np.zeros((height, width), f"{order}u2") if is_raw else picture((width, height))
        strip = len(data)
        data.extend(samples.tobytes())
        if len(data) % 2:
            data.append(0)
        tags: dict[int, tuple[int, ...]] = {
            254: (picture_["subfile"],),
            256: (width,),
            257: (height,),
            258: (16,) if is_raw else (8, 8, 8),
            259: (1,),
            262: (picture_["kind"],),
            273: (strip,),
            277: (1 if is_raw else 3,),
            278: (height,),
            279: (samples.nbytes,),
        }
        if picture_["orientation"]:
            tags[274] = (picture_["orientation"],)
        if below:
            tags[330] = tuple(below)
        rows = []
        for tag, values in sorted(tags.items()):
            packed = struct.pack(f"{order}{len(values)}{word}", *values)
            if len(packed) > struct.calcsize(word):
                place = len(data)
                data.extend(packed)
                packed = struct.pack(f"{order}{word}", place)
            rows.append(struct.pack(f"{order}HH{word}", tag, 16 if big else 4, len(values)) + packed)
        place = len(data)
        data.extend(struct.pack(f"{order}{'Q' if big else 'H'}", len(rows)) + b"".join(rows) + bytes(8 if big else 4))
        return place

    places = [add(each) for each in chain]
    for place, following in zip(places, [*places[1:], 0], strict=True):
        count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, place)[0]
        struct.pack_into(f"{order}{word}", data, place + (8 if big else 2) + count * entry, following)
    mark = b"II" if order == "<" else b"MM"
    head_bytes = struct.pack(f"{order}HHH", 43, 8, 0) if big else struct.pack(f"{order}H", 42)
    data[:head] = mark + head_bytes + struct.pack(f"{order}{word}", places[0])
    return bytes(data)


LARGE, SMALL = (64, 48), (16, 12)
TIFFS = {
    "a thumbnail with the picture below it": [ifd(SMALL, subfile=REDUCED, below=[ifd(LARGE)])],
    "a thumbnail before the picture": [ifd(SMALL, subfile=REDUCED), ifd(LARGE)],
    "a pyramid below its base": [ifd(LARGE, below=[ifd((32, 24), subfile=REDUCED), ifd(SMALL, subfile=REDUCED)])],
    "a pyramid from its top": [ifd(SMALL, subfile=REDUCED), ifd((32, 24), subfile=REDUCED), ifd(LARGE)],
    "a transparency mask of the same size": [ifd(LARGE), ifd((128, 96), subfile=4)],
}


@pytest.mark.parametrize("name", TIFFS)
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_the_largest_picture_of_a_tiff(tmp_path: Path, name: str, order: str, big: bool) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(*TIFFS[name], order=order, big=big))
    found = load(path)
    assert found.size == LARGE == shown_size(path)
    assert_right(found)


def test_pages_of_several_sizes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(ifd(SMALL), ifd(LARGE)))
    with pytest.warns(SegueWarning) as caught:
        assert load(path).size == LARGE
    assert [str(each.message) for each in caught] == [f"{path} has 2 pictures; the largest, 64 x 48 pixels, is used"]


def test_a_picture_below_is_turned_as_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    path.write_bytes(tiff(ifd(SMALL, subfile=REDUCED, below=[ifd(LARGE)], orientation=6)))
    assert load(path).size == LARGE[::-1] == shown_size(path)


@pytest.mark.parametrize("kind", [CFA, LINEAR_RAW])
def test_raw_data_is_refused_and_never_its_thumbnail_taken(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "phone.dng"
    for content in (
        tiff(ifd(SMALL, subfile=REDUCED, below=[ifd(LARGE, kind=kind)])),
        tiff(ifd(LARGE, kind=kind)),
        tiff(ifd(LARGE, kind=kind, below=[ifd(SMALL, subfile=REDUCED)])),
    ):
        path.write_bytes(content)
        with pytest.raises(SegueError) as caught:
            load(path)
        raw = "64 x 48 pixels as raw data of a camera, or in an unsupported encoding"
        assert str(caught.value) == f"{path} holds its picture of {raw}; save it as PNG or JPEG"


def test_a_large_preview_of_raw_data_is_taken_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "phone.dng"
    raw, preview = ifd(LARGE, kind=CFA), ifd((32, 24), subfile=REDUCED)
    path.write_bytes(tiff(ifd(SMALL, subfile=REDUCED, below=[raw, preview])))
    with pytest.warns(SegueWarning, match=r"64 x 48 pixels as raw data .* the one of 32 x 24 pixels in it is used"):
        assert_right(load(path))


def test_a_tiff_that_goes_round(tmp_path: Path) -> None:
    data = bytearray(tiff(ifd(LARGE)))
    place = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, place)[0]
    struct.pack_into("<I", data, place + 2 + 12 * count, place)
    (tmp_path / "a.tif").write_bytes(data)
    assert_right(load(tmp_path / "a.tif"))


# Many megapixels.


def test_a_jpeg_of_108_megapixels_is_read_small(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with Image.new("L", (12000, 9000), 128) as huge:
        exif = Image.Exif()
        exif[0x0112] = 6
        huge.save(path, quality=50, exif=exif)
    limit = Image.MAX_IMAGE_PIXELS
    assert load(path, least=2048).size == (2250, 3000)
    assert shown_size(path) == (9000, 12000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_200_megapixels_are_beyond_pillows_limit_and_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with Image.new("L", (16320, 12240), 128) as huge:
        huge.save(path, quality=20)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    found = load(path, least=2048)
    assert found.size == (4080, 3060)
    assert abs(np.array(found.getpixel((1000, 1000))) - 128).max() <= 1


def test_neither_side_of_a_panorama_gets_too_short(tmp_path: Path) -> None:
    Image.new("RGB", (4096, 300)).save(tmp_path / "a.jpg")
    assert load(tmp_path / "a.jpg", least=150).size == (2048, 150)
    assert load(tmp_path / "a.jpg", least=200).size == (4096, 300)
    assert load(tmp_path / "a.jpg").size == (4096, 300)


# HEIC.


@pytest.mark.parametrize("name", ["iphone.heic", "iphone_named.jpg"])
def test_heic_whatever_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = CASES / "heic" / name
    Image.init()  # all of Pillow's own formats
    known = dict(Image.OPEN)
    assert_right(load(path))
    assert dict(Image.OPEN) == known  # Pillow's table is the whole process's
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(SegueError) as caught:
        load(path)
    assert str(caught.value) == f'{path} is a HEIC picture, which needs an extra: pip install "segue[heic]"'


def test_heic_in_other_colours_and_turned(tmp_path: Path) -> None:
    from colours import disc
    from pillow_heif import from_pillow

    plain = Image.fromarray(disc("p3"))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.resize((96, 64)).save(tmp_path / "plain.png")
    heif = from_pillow(plain)
    heif.info["exif"] = exif.tobytes()
    heif.save(tmp_path / "a.heic", quality=100, chroma=444)
    data = bytearray((tmp_path / "a.heic").read_bytes())
    place = data.index(b"colrnclx") + 8
    data[place : place + 4] = struct.pack(">HH", 12, 13)
    (tmp_path / "a.heic").write_bytes(data)
    assert_right(load(tmp_path / "a.heic"))
    data[place : place + 4] = struct.pack(">HH", 9, 16)
    (tmp_path / "a.heic").write_bytes(data)
    with pytest.raises(SegueError, match=r"is an HDR picture, PQ \(SMPTE ST 2084\)"):
        load(tmp_path / "a.heic")


def test_a_cut_heic_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes((CASES / "heic" / "iphone.heic").read_bytes()[:1500])
    with pytest.raises(SegueError, match=f"^{path} is damaged: "):
        load(path)


# Names.


def test_the_file_behind_a_frame(tmp_path: Path) -> None:
    assert file_of(Path("a/clip.mp4@last")) == Path("a/clip.mp4")
    assert file_of(Path("a@last/clip.mp4")) == Path("a@last/clip.mp4")
    assert file_of(Path("me@home.png")) == Path("me@home.png")
    assert file_of(Path("@last")) == Path("@last")
    (tmp_path / "a.mp4").write_bytes(b"x")
    first, last = (digest_of_source(tmp_path / f"a.mp4@{which}") for which in ("first", "last"))
    assert len({first, last, digest_of_source(tmp_path / "a.mp4")}) == 3

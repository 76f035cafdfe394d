"""What the colours of a picture mean: each way in which a file says it, with the right colours behind it."""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import DISC, GREY, assert_right, bt709, disc, png, power, write
from notices import SegueWarning
from PIL import Image, ImageCms
from test_pictures import profile

from segue.errors import SegueError
from segue.pictures.images import load

CASES = Path(__file__).parent / "data" / "cases"
SRGB_AT_D50 = ((0.6485, 0.3309), (0.3212, 0.5979), (0.1559, 0.0660))
CHRM = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)


def chrm(*points: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(100_000 * point) for point in points))


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 * gamma))


def iccp(data: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"profile\0\0" + zlib.compress(data)


def grey_profile(gamma: float) -> bytes:
    """A grey profile with a power curve (ICC.1:2001-04, 6.3.1.1)."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    head = struct.pack(">I4s4s4s4s4s12s4s", 0, bytes(4), b"\2\x10\0\0", b"mntr", b"GRAY", b"XYZ ", bytes(12), b"acsp")
    entries = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 16)
    whole = (head.ljust(68, b"\0") + white[8:]).ljust(128, b"\0") + entries + white + curve
    return struct.pack(">I", len(whole)) + whole[4:]


def code(primaries: int, transfer: int, is_full: int = 1) -> tuple[bytes, bytes]:
    return b"cICP", bytes((primaries, transfer, 0, is_full))


@pytest.mark.parametrize("name", [path.name for path in sorted((CASES / "colour-icc-named-srgb").iterdir())])
def test_a_profile_is_judged_by_what_it_does(name: str) -> None:
    assert_right(load(CASES / "colour-icc-named-srgb" / name))


@pytest.mark.parametrize("name", ["grey_l_icc.png", "grey_la_icc.png", "grey_16_icc.png", "grey_plain.png"])
def test_grey_through_its_profile(name: str) -> None:
    picture = load(CASES / "colour-grey-profiles" / name)
    assert abs(np.array(picture.getpixel((64, 64))) - 128).max() <= 2
    assert picture.info == {}


def test_grey_of_every_depth_through_a_profile(tmp_path: Path) -> None:
    value, icc = write((GREY,) * 3, curve=power(1.0))[0], grey_profile(1.0)
    deep = np.full((8, 8), round(65535 * value), np.uint16)
    whole = np.full((8, 8), round(255 * value), np.uint8)
    (tmp_path / "la16.png").write_bytes(png(np.dstack([deep, np.full_like(deep, 65535)]), iccp(icc), bits=16))
    (tmp_path / "l16.png").write_bytes(png(deep, iccp(icc), bits=16))
    (tmp_path / "l.png").write_bytes(png(whole, iccp(icc)))
    Image.fromarray(whole).save(tmp_path / "l.jpg", icc_profile=icc, quality=100)
    Image.fromarray(deep).save(tmp_path / "l16.tif", icc_profile=icc)
    Image.fromarray(np.full((8, 8), value, np.float32)).save(tmp_path / "f.tif", icc_profile=icc)
    Image.fromarray(np.full((8, 8), int(deep[0, 0]), np.int32)).save(tmp_path / "i.tif", icc_profile=icc)
    for path in sorted(tmp_path.iterdir()):
        assert abs(np.asarray(load(path), int) - GREY).max() <= 2, path.name


def test_sixteen_bits_are_rounded_behind_the_profile(tmp_path: Path) -> None:
    """In linear light, 16 bits have the dark greys that 8 bits lack: every one of sRGB comes out."""
    ramp = np.tile(np.arange(256), (8, 1))
    linear = np.where(ramp / 255 <= 0.04045, ramp / 255 / 12.92, ((ramp / 255 + 0.055) / 1.055) ** 2.4)
    (tmp_path / "a.png").write_bytes(png(np.rint(65535 * linear).astype(np.uint16), iccp(grey_profile(1.0)), bits=16))
    found = np.asarray(load(tmp_path / "a.png"), int)[..., 0]
    assert abs(found - ramp).max() <= 2
    assert len(np.unique(found)) > 220


def test_alpha_stays_where_a_profile_is_applied(tmp_path: Path) -> None:
    colours = disc(curve=power(1.0))
    clear = np.full((64, 64), 255, np.uint8)
    clear[:, :8] = 0
    (tmp_path / "a.png").write_bytes(png(np.dstack([colours, clear]), iccp(profile(SRGB_AT_D50, 1.0))))
    picture = load(tmp_path / "a.png", "rgb(1,2,3)")
    assert picture.getpixel((2, 32)) == (1, 2, 3)
    assert np.abs(np.array(picture.getpixel((32, 32))) - DISC).max() <= 3


def test_a_palette_through_its_profile(tmp_path: Path) -> None:
    picture = Image.fromarray(disc(curve=power(1.0))).quantize(4)
    picture.save(tmp_path / "p.png", icc_profile=profile(SRGB_AT_D50, 1.0))
    assert_right(load(tmp_path / "p.png"))


def test_a_profile_of_srgb_keeps_every_byte(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=srgb)
    picture = load(tmp_path / "a.png")
    assert (np.asarray(picture) == pixels).all()
    assert picture.info == {}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (CASES / "colour-broken-profile" / "broken_icc.png", "it is damaged"),
        (CASES / "colour-broken-profile" / "grey_l_rgbicc.png", "it is for RGB colours, and the picture has GRAY"),
    ],
)
def test_an_unusable_profile_is_told_and_not_kept(case: Path, reason: str) -> None:
    with pytest.warns(SegueWarning) as caught:
        picture = load(case)
    assert [str(each.message) for each in caught] == [
        f"{case}: its colour profile cannot be used ({reason}); its colours are taken for sRGB"
    ]
    assert picture.info == {}
    with Image.open(case) as given:
        assert (np.asarray(picture) == np.asarray(given.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("points", "space", "curve"),
    [
        ((12, 13), "p3", None),
        ((9, 13), "bt2020", None),
        ((9, 1), "bt2020", bt709),
        ((9, 14), "bt2020", bt709),
        ((12, 1), "p3", bt709),
        ((6, 6), "bt601", bt709),
        ((1, 13), "srgb", None),
        ((2, 2), "srgb", None),
        ((1, 4), "srgb", power(2.2)),
        ((1, 8), "srgb", power(1.0)),
    ],
)
def test_code_points_of_a_png(tmp_path: Path, points: tuple[int, int], space: str, curve: Any) -> None:
    pixels = disc(space, curve) if curve else disc(space)
    (tmp_path / "a.png").write_bytes(png(pixels, code(*points)))
    assert_right(load(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as opened:  # also of a picture that a program opened itself
        assert_right(load(opened))
    with (tmp_path / "a.png").open("rb") as file, Image.open(io.BytesIO(file.read())) as opened:
        assert_right(load(opened))


def test_code_points_of_narrow_range(tmp_path: Path) -> None:
    narrow = np.rint(16 + 219 / 255 * disc("p3").astype(float)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(narrow, code(12, 13, 0)))
    assert_right(load(tmp_path / "a.png"))


def test_code_points_go_before_a_profile_and_srgb_before_gamma(tmp_path: Path) -> None:
    wrong = profile(SRGB_AT_D50, 1.0)
    (tmp_path / "a.png").write_bytes(png(disc("p3"), code(12, 13), iccp(wrong)))
    (tmp_path / "b.png").write_bytes(png(disc("p3"), code(12, 13), (b"sRGB", b"\0"), gama(1.0)))
    (tmp_path / "c.png").write_bytes(png(disc(), (b"sRGB", b"\0"), gama(1.0), chrm(*CHRM)))
    (tmp_path / "d.png").write_bytes(png(disc(curve=power(1.0)), iccp(wrong), gama(0.45455)))
    for name in "abcd":
        assert_right(load(tmp_path / f"{name}.png"))


def test_unknown_code_points_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(disc(), code(1, 99)))
    with pytest.warns(SegueWarning, match=r"a\.png: its colour profile .*code points 1 and 99 are not known"):
        assert_right(load(tmp_path / "a.png"))


HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_refused_by_name(tmp_path: Path, transfer: int) -> None:
    paths = [tmp_path / name for name in ("a.png", "a.avif", "icc.png")]
    paths[0].write_bytes(png(disc(), code(9, transfer)))
    paths[1].write_bytes(avif(disc(), 9, transfer))
    own = bytearray(profile(SRGB_AT_D50, 1.0))  # a profile that says so in a tag, in place of its description
    place = own.index(b"desc")
    offset = struct.unpack_from(">I", own, place + 4)[0]
    own[place : place + 12] = struct.pack(">4sII", b"cicp", offset, 12)
    own[offset : offset + 12] = b"cicp" + bytes(4) + bytes((9, transfer, 0, 1))
    paths[2].write_bytes(png(disc(), iccp(bytes(own))))
    for path in paths:
        with pytest.raises(SegueError) as caught:
            load(path)
        said = f"{path} is an HDR picture, {HDR[transfer]}, which is not supported; save it as sRGB"
        assert str(caught.value) == said


def avif(pixels: Any, primaries: int, transfer: int, **options: Any) -> bytes:
    """An AVIF with code points of its own."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="AVIF", quality=100, subsampling="4:4:4", **options)
    data = bytearray(buffer.getvalue())
    place = data.index(b"colrnclx") + 8
    data[place : place + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)


@pytest.mark.parametrize(
    ("points", "space", "curve"),
    [((12, 13), "p3", None), ((9, 13), "bt2020", None), ((9, 1), "bt2020", bt709), ((1, 13), "srgb", None)],
)
def test_code_points_of_an_avif(tmp_path: Path, points: tuple[int, int], space: str, curve: Any) -> None:
    pixels = disc(space, curve) if curve else disc(space)
    (tmp_path / "a.avif").write_bytes(avif(pixels, *points))
    (tmp_path / "alpha.avif").write_bytes(avif(np.dstack([pixels, np.full((64, 64), 255, np.uint8)]), *points))
    for name in ("a", "alpha"):
        assert_right(load(tmp_path / f"{name}.avif"))


@pytest.mark.parametrize(
    ("chunks", "space", "curve"),
    [
        ((gama(1.0),), "srgb", power(1.0)),
        ((gama(1.0), chrm(*CHRM)), "srgb", power(1.0)),
        ((gama(1 / 1.8),), "srgb", power(1.8)),
        ((gama(0.45455),), "srgb", None),  # as sRGB's own curve is written
        ((gama(0.45455), chrm(*CHRM)), "srgb", None),
        ((gama(256 / 563), chrm(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)), "adobe", None),
        ((chrm(0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),), "p3", None),
    ],
)
def test_gamma_and_primaries_of_a_png(tmp_path: Path, chunks: Any, space: str, curve: Any) -> None:
    pixels = disc(space, curve) if curve else disc(space)
    (tmp_path / "a.png").write_bytes(png(pixels, *chunks))
    assert_right(load(tmp_path / "a.png"))


def test_gamma_of_a_grey_png(tmp_path: Path) -> None:
    value = write((GREY,) * 3, curve=power(1.0))[0]
    (tmp_path / "8.png").write_bytes(png(np.full((8, 8), round(255 * value), np.uint8), gama(1.0)))
    deep = np.full((8, 8), round(65535 * value), np.uint16)
    (tmp_path / "16.png").write_bytes(png(deep, gama(1.0), bits=16))
    for name in ("8", "16"):
        assert abs(np.asarray(load(tmp_path / f"{name}.png"), int) - GREY).max() <= 2


def test_impossible_primaries_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(disc(), gama(0.45455), chrm(*(0.0,) * 8)))
    with pytest.warns(SegueWarning, match="primaries that span no colours"):
        assert_right(load(tmp_path / "a.png"))


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png"])
def test_adobe_rgb_of_exif(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    plain = Image.Exif()
    plain[0x8769] = {0xA001: 65535}  # uncalibrated by itself says nothing
    options: dict[str, Any] = (
        {"quality": 100, "subsampling": 0} if name == "a.jpg" else {"lossless": True} if name == "a.webp" else {}
    )
    Image.fromarray(disc("adobe", power(563 / 256))).save(tmp_path / name, exif=exif, **options)
    assert_right(load(tmp_path / name))
    Image.fromarray(disc()).save(tmp_path / name, exif=plain, **options)
    assert_right(load(tmp_path / name))


def test_a_profile_of_a_jpeg_2000(tmp_path: Path) -> None:
    Image.fromarray(disc(curve=power(1.0))).save(tmp_path / "a.jp2")
    data, icc = bytearray((tmp_path / "a.jp2").read_bytes()), profile(SRGB_AT_D50, 1.0)
    colr, jp2h = data.index(b"colr") - 4, data.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", data, colr)
    own = struct.pack(">I4sBBB", 11 + len(icc), b"colr", 2, 0, 0) + icc
    struct.pack_into(">I", data, jp2h, struct.unpack_from(">I", data, jp2h)[0] + len(own) - length)
    data[colr : colr + length] = own
    (tmp_path / "a.jp2").write_bytes(data)
    assert_right(load(tmp_path / "a.jp2"))


def test_cmyk_through_its_profile_or_with_a_word(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(tmp_path / "a.jpg", icc_profile=srgb, quality=100)
    with pytest.warns(SegueWarning, match=re.escape("it is for RGB colours, and the picture has CMYK")):
        picture = load(tmp_path / "a.jpg")
    assert abs(np.array(picture.getpixel((4, 4))) - [255, 0, 255]).max() <= 3


def test_a_given_picture_keeps_its_own_information(tmp_path: Path) -> None:
    with Image.open(CASES / "colour-icc-named-srgb" / "linear_other_name.png") as given:
        assert_right(load(given))
        assert "icc_profile" in given.info

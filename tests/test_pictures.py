import os
import re
import stat
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from notices import SegueWarning
from PIL import Image, ImageCms

from segue.errors import SegueError
from segue.pictures.images import Fit, Source, check_network_size, film_size, fit, load, network_size, placement
from segue.pictures.tensors import to_images, to_tensor


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def array(image: Image.Image) -> np.ndarray[Any, np.dtype[np.int64]]:
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


# Pictures in.


def test_rgb_is_kept_to_the_byte(tmp_path: Path) -> None:
    pixels = noise(9, 13)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    sources: list[Source] = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels]
    sources.append(pixels.astype(np.float32) / 255)
    sources.append(pixels.astype(np.float64) / 255)
    for source in sources:
        assert (array(load(source)) == pixels).all()


def test_a_given_image_stays_as_it_is() -> None:
    image = Image.fromarray(noise(8, 8))
    loaded = load(image)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert (np.asarray(image) == noise(8, 8)).all()


def test_the_file_is_closed(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        load(tmp_path / "a.png")


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    grey = noise(8, 9, 1)
    for source in (Image.fromarray(grey), grey, grey[..., None]):
        assert (array(load(source)) == grey[..., None]).all()
    bits = grey > 127
    assert (array(load(Image.fromarray(bits))) == 255 * bits[..., None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    pixels = noise(8, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    flips = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }
    assert (array(load(tmp_path / "a.png")) == flips[orientation]).all()


def test_exif_rotation_of_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8), 16).reshape(24, 16)).save(
        tmp_path / "a.jpg", exif=exif, quality=100
    )
    loaded = array(load(tmp_path / "a.jpg"))
    assert loaded.shape == (16, 24, 3)
    assert abs(loaded[8, :, 0] - np.arange(230, -1, -10)).max() <= 2


@pytest.mark.parametrize(
    ("background", "colour"),
    [("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("rgb(1,2,3)", (1, 2, 3)), ("#10203040", (16, 32, 48))],
)
def test_transparency_lies_on_the_background(background: str, colour: tuple[int, int, int]) -> None:
    pixels = noise(16, 16, 4)
    alpha = pixels[..., 3:] / 255
    exact = pixels[..., :3] * alpha + np.array(colour) * (1 - alpha)
    assert abs(array(load(Image.fromarray(pixels), background)) - exact).max() <= 1
    assert abs(array(load(pixels, background)) - exact).max() <= 1
    grey = Image.merge("LA", [Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[..., 3])])
    exact = pixels[..., :1] * alpha + np.array(colour) * (1 - alpha)
    assert abs(array(load(grey, background)) - exact).max() <= 1


def test_transparent_palette_and_transparent_colour(tmp_path: Path) -> None:
    half = np.zeros((8, 8), dtype=np.uint8)
    half[:, 4:] = 1
    palette = Image.frombytes("P", (8, 8), half.tobytes())
    palette.putpalette([200, 10, 20, 0, 0, 255])
    red, blue = np.array([200, 10, 20]), np.array([0, 0, 255])
    for index, (left, right) in enumerate([((1, 2, 3), blue), (red, (1, 2, 3))]):
        palette.save(tmp_path / "p.png", transparency=index)
        palette.save(tmp_path / "p.gif", transparency=index)
        for name in ("p.png", "p.gif"):
            loaded = array(load(tmp_path / name, "rgb(1,2,3)"))
            assert (loaded[:, :4] == left).all()
            assert (loaded[:, 4:] == right).all()
    palette.save(tmp_path / "alphas.png", transparency=bytes([255, 51]))
    mixed = array(load(tmp_path / "alphas.png", "black"))
    assert (mixed[:, :4] == red).all()
    assert abs(mixed[:, 4:] - [0, 0, 51]).max() <= 1

    palette.convert("RGB").save(tmp_path / "rgb.png", transparency=(0, 0, 255))
    assert (array(load(tmp_path / "rgb.png", "lime"))[:, 4:] == [0, 255, 0]).all()
    Image.fromarray(half * 200).save(tmp_path / "grey.png", transparency=200)
    loaded = array(load(tmp_path / "grey.png", "lime"))
    assert (loaded[:, 4:] == [0, 255, 0]).all()
    assert (loaded[:, :4] == 0).all()


def test_an_unknown_colour_names_the_option() -> None:
    message = "'mauvish' is not a colour; use a name such as white, #rrggbb, or transparent"
    with pytest.raises(SegueError, match=message):
        load(noise(8, 8), "mauvish")


def test_cmyk(tmp_path: Path) -> None:
    plain = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    plain.save(tmp_path / "a.tif")
    assert (array(load(tmp_path / "a.tif")) == [0, 255, 255]).all()
    plain.save(tmp_path / "a.jpg", quality=100)
    assert abs(array(load(tmp_path / "a.jpg")) - [0, 255, 255]).max() <= 3


def profile(primaries: tuple[tuple[float, float], ...] | None, gamma: float) -> bytes:
    """A matrix profile with a power curve, written from the ICC's specification (4.3): independent of lcms."""

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: Any) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(s15(v) for v in values)

    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    columns = primaries_to_xyz(primaries) if primaries else np.eye(3)
    tags = {
        b"desc": text,
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        b"rXYZ": xyz(columns[:, 0]),
        b"gXYZ": xyz(columns[:, 1]),
        b"bXYZ": xyz(columns[:, 2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = b"", b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", 0, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp")
    head += bytes(128 - len(head) - 60) + s15(0.9642) + s15(1.0) + s15(0.8249)
    whole = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def primaries_to_xyz(primaries: tuple[tuple[float, float], ...]) -> Any:
    """Columns of XYZ under D50 of primaries given under D50."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, [0.9642, 1.0, 0.8249])


def test_another_gamma_is_brought_to_srgb(tmp_path: Path) -> None:
    # sRGB's own primaries under D50 and a plain gamma of 1.8: only the curve differs.
    primaries = ((0.6485, 0.3309), (0.3212, 0.5979), (0.1559, 0.0660))
    grey = np.repeat(np.arange(40, 250, 10, dtype=np.uint8), 3).reshape(1, 21, 3).repeat(8, 0)
    Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=profile(primaries, 1.8))
    linear = (grey / 255) ** (round(1.8 * 256) / 256)
    srgb = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert abs(array(load(tmp_path / "a.png")) - srgb).max() <= 2


def test_profiles_of_srgb_change_nothing_and_broken_ones_are_told(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, data in {"srgb": srgb, "empty": b""}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", icc_profile=data)
        assert (array(load(tmp_path / f"{name}.png")) == pixels).all()
    Image.fromarray(pixels).save(tmp_path / "broken.png", icc_profile=b"no profile")
    with pytest.warns(SegueWarning, match=r"broken\.png: its colour profile cannot be used"):
        assert (array(load(tmp_path / "broken.png")) == pixels).all()


def test_lab_of_a_tiff() -> None:
    lab = Image.new("LAB", (8, 8), (255, 128, 128))
    assert abs(array(load(lab)) - 255).max() <= 2


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 128).round().astype(np.uint16).reshape(8, 16)
    exact = np.floor(values / 257 + 0.5)[..., None]
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.frombytes("I;16B", (16, 8), values.astype(">u2").tobytes()).save(tmp_path / "b.tif")
    for name in ("a.png", "a.tif", "b.tif"):
        assert (array(load(tmp_path / name)) == exact).all()
    (tmp_path / "a.pgm").write_bytes(b"P5 16 8 65535\n" + values.astype(">u2").tobytes())
    assert (array(load(tmp_path / "a.pgm")) == exact).all()


def test_sixteen_bit_colour_and_grey_with_alpha(tmp_path: Path) -> None:
    def png(colour_type: int, samples: np.ndarray[Any, np.dtype[np.uint16]], extra: bytes = b"") -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        height, width = samples.shape[:2]
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    rng = np.random.default_rng(0)
    colour = rng.integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    (tmp_path / "rgb.png").write_bytes(png(2, colour))
    assert abs(array(load(tmp_path / "rgb.png")) - colour / 257).max() <= 1
    both = rng.integers(0, 65536, (8, 8, 2)).astype(np.uint16)
    (tmp_path / "la.png").write_bytes(png(4, both))
    exact = both[..., :1] / 257 * (both[..., 1:] / 65535)
    assert abs(array(load(tmp_path / "la.png", "black")) - exact).max() <= 2

    grey = np.full((8, 8), 1000, dtype=np.uint16)
    grey[:, 4:] = 40_000
    trns = b"tRNS" + struct.pack(">H", 40_000)
    (tmp_path / "grey.png").write_bytes(png(0, grey, struct.pack(">I", 2) + trns + struct.pack(">I", zlib.crc32(trns))))
    loaded = array(load(tmp_path / "grey.png", "red"))
    assert (loaded[:, :4] == round(1000 / 257)).all()
    assert (loaded[:, 4:] == [255, 0, 0]).all()


def test_pictures_of_numbers() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for most in (1, 255, 65535):
        exact = np.rint(ramp.astype(np.float64) * 255)[..., None]
        assert abs(array(load(Image.fromarray(ramp * most))) - exact).max() <= 1
    whole = np.arange(64, dtype=np.int32).reshape(8, 8) * 1040
    assert (array(load(Image.fromarray(whole)))[..., 0] == np.rint(whole / 257)).all()
    for bad in (ramp - 0.5, ramp * 1e6, ramp * np.nan):
        with pytest.raises(SegueError, match="the image has values outside 0 to 65535"):
            load(Image.fromarray(bad.astype(np.float32)))


def test_of_several_frames_the_first_with_a_word(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, **options)
        with pytest.warns(SegueWarning, match=rf"{re.escape(name)} has 3 frames; the first one is used") as caught:
            assert (array(load(tmp_path / name)) == [255, 0, 0]).all()
        assert len(caught) == 1
    with Image.open(tmp_path / "a.gif") as chosen:
        chosen.seek(2)
        assert (array(load(chosen)) == [0, 0, 255]).all()


# What is refused: one line that names the file.


def refusal_of(source: Source) -> str:
    with pytest.raises(SegueError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_picture(tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    assert refusal_of(gone) == f"{gone}: no such file"
    assert refusal_of(tmp_path / "a" / "gone.png") == f"{tmp_path}/a/gone.png: no such file"
    assert refusal_of(tmp_path) == f"{tmp_path} is a folder, not a picture"
    text = tmp_path / "text.png"
    text.write_text("I am no picture.\n" * 100)
    assert refusal_of(text).startswith(f"{text} is not a picture that can be read")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert refusal_of(empty) == f"{empty} is empty"
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert refusal_of(pipe) == f"{pipe} is not a regular file"
    inside = text / "a.png"
    assert refusal_of(inside) == f"{inside} cannot be read: Not a directory"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_a_truncated_picture_is_not_filled_up(tmp_path: Path, name: str, share: float) -> None:
    whole = BytesIO()
    Image.fromarray(noise(64, 64)).save(whole, format=Image.registered_extensions()[f".{name[2:]}"])
    path = tmp_path / name
    path.write_bytes(whole.getvalue()[: max(12, int(share * len(whole.getvalue())))])
    message = refusal_of(path)
    assert message.startswith(f"{path} is ")
    assert "damaged" in message or "no picture" in message


def test_damage_in_the_middle_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert refusal_of(path).startswith(f"{path} is damaged")


def test_too_small(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(path)
    assert refusal_of(path) == f"{path} is too small: 1 x 1 pixels, the minimum is 8 x 8"
    assert refusal_of(Image.new("RGB", (100, 7))) == "the image is too small: 100 x 7 pixels, the minimum is 8 x 8"
    assert load(Image.new("RGB", (8, 8))).size == (8, 8)


def bomb(width: int, height: int) -> bytes:
    """The beginning of a PNG that says it is large."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize("side", [16_001, 60_000])
def test_a_decompression_bomb(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    assert refusal_of(path) == f"{path} is too large: {side} x {side} pixels; the limit is 256 megapixels"


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    path.chmod(0)
    if os.geteuid() == 0:  # nothing is forbidden to root

        def refuse(*_args: Any, **_options: Any) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Image, "open", refuse)
    assert refusal_of(path) == f"{path} cannot be read: Permission denied"
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_no_array_of_a_picture() -> None:
    assert "has the shape (8,)" in refusal_of(np.zeros(8, np.uint8))
    assert "has the shape (8, 8, 2)" in refusal_of(np.zeros((8, 8, 2), np.uint8))
    assert "has the shape (0, 8, 3)" in refusal_of(np.zeros((0, 8, 3), np.uint8))
    assert "is of int64" in refusal_of(np.zeros((8, 8, 3), np.int64))
    for bad in (1.5, -0.5, np.nan):
        assert "values outside 0 to 1" in refusal_of(np.full((8, 8, 3), bad))
    assert "not Tensor" in refusal_of(torch.zeros(3, 8, 8))  # type: ignore[arg-type]


# Sizes.


@pytest.mark.parametrize("how", ["cover", "contain", "stretch"])
def test_the_right_size_is_kept_to_the_byte(how: Fit) -> None:
    image = Image.fromarray(noise(24, 40))
    fitted = fit(image, (40, 24), how)
    assert (array(fitted) == array(image)).all()
    assert fitted is not image


def test_a_crop_is_exact() -> None:
    pixels = noise(33, 75)
    fitted = fit(Image.fromarray(pixels), (64, 33))
    assert (array(fitted) == pixels[:, 5:69]).all()  # of the 11 columns too many, 5 and 6
    assert placement((75, 33), (64, 33)).offset == (-5, 0)


def test_contained_on_the_background() -> None:
    fitted = array(fit(Image.new("RGB", (40, 10), "blue"), (20, 20), "contain", "#010203"))
    assert (fitted[7:12] == [0, 0, 255]).all()
    assert (fitted[:7] == [1, 2, 3]).all()
    assert (fitted[12:] == [1, 2, 3]).all()


def test_halving_is_lanczos() -> None:
    """One dimension against the formula: a kernel of 3 lobes, stretched by the factor of the reduction."""
    row = noise(8, 64, 1)[0].astype(np.float64)
    image = Image.fromarray(np.repeat(row.astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2))
    fitted = array(fit(image, (32, 32)))[16, :, 0]
    for x in range(8, 24):
        distance = (np.arange(64) + 0.5) / 2 - (x + 0.5)
        weights = np.where(abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
        assert abs(fitted[x] - np.clip((weights * row).sum() / weights.sum(), 0, 255)) <= 1


@settings(deadline=None, derandomize=True, database=None)
@given(
    source=st.tuples(st.integers(8, 400), st.integers(8, 400)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda s: (8 * s[0], 8 * s[1])),
)
def test_placement(source: tuple[int, int], size: tuple[int, int]) -> None:
    stretched = placement(source, size, "stretch")
    assert stretched(0, 0) == (0, 0)
    assert stretched(*source) == pytest.approx(size)
    cover = placement(source, size, "cover")
    left, top = cover(0, 0)
    right, bottom = cover(*source)
    assert cover.scale[0] == cover.scale[1]
    assert max(left, top) <= 1e-9
    assert min(right - size[0], bottom - size[1]) >= -1e-9
    assert abs(left + right - size[0]) <= 1 + 1e-9  # in the middle
    assert abs(top + bottom - size[1]) <= 1 + 1e-9
    assert min(right - left - size[0], bottom - top - size[1]) == pytest.approx(0)
    contain = placement(source, size, "contain")
    left, top = contain(0, 0)
    right, bottom = contain(*source)
    assert min(left, top) >= 0
    assert max(right - size[0], bottom - size[1]) <= 1e-9
    assert abs(left - (size[0] - right)) <= 1 + 1e-9
    assert max(right - left - size[0], bottom - top - size[1]) == pytest.approx(0)


@pytest.mark.parametrize("how", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("source", [(200, 90), (90, 200), (33, 64), (301, 300)])
def test_a_picture_is_where_its_placement_says(source: tuple[int, int], how: Fit) -> None:
    """A soft spot's centre of mass moves as the placement of its point."""
    x0, y0 = 0.45 * source[0], 0.55 * source[1]
    radius = min(source) / 16
    y, x = np.mgrid[: source[1], : source[0]] + 0.5
    spot = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * radius**2))
    image = Image.fromarray((np.rint(spot * 255)[..., None]).astype(np.uint8).repeat(3, 2))
    size = (128, 96)
    fitted = array(fit(image, size, how, "black"))[..., 0]
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    centre = (fitted * x).sum() / fitted.sum(), (fitted * y).sum() / fitted.sum()
    assert centre == pytest.approx(placement(source, size, how)(x0, y0), abs=0.05)


def image(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height))


def test_sizes_at_which_a_model_cannot_work() -> None:
    check_network_size((128, 512), 64)
    with pytest.raises(SegueError, match=r"width 500 is not a multiple of 64 .*; use 448 or 512"):
        check_network_size((500, 64), 64)
    with pytest.raises(SegueError, match=r"height 20 is not a multiple of 64 .*; use 64$"):
        check_network_size((64, 20), 64)
    with pytest.raises(SegueError, match=r"width 20480 .*; use 16384$"):
        check_network_size((20480, 64), 64)
    with pytest.raises(SegueError, match="frames of 16384 x 16384 pixels are too large"):
        check_network_size((16384, 16384), 64)


def test_a_model_works_at_about_its_own_area_in_the_shape_of_the_film() -> None:
    assert network_size((3024, 4032), 128, 32) == (96, 128)
    assert network_size((4032, 3024), 128, 32) == (128, 96)
    for side in (8, 128, 500, 4000):
        assert network_size((side, side), 128, 32) == (128, 128)
        assert network_size((side, side), 512, 64) == (512, 512)
    assert network_size((1000, 1000), 100, 64) == (128, 128)  # the nearest where the native one is not a multiple
    width, height = network_size((1920, 1080), 512, 64)
    assert 2 / 3 <= width * height / 512**2 <= 4 / 3
    assert width / height == pytest.approx(16 / 9, rel=0.08)


@pytest.mark.parametrize(("native", "multiple"), [(128, 32), (512, 64), (768, 64), (64, 16)])
@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (3, 2), (16, 9), (2, 1), (3, 1), (1, 1.9), (8, 1), (40, 1)])
def test_no_size_has_a_better_shape(native: int, multiple: int, shape: tuple[float, float]) -> None:
    """Of all sizes between two thirds and four thirds of the area, or of a panorama one row of what there must be."""
    size = (round(600 * shape[0]), round(600 * shape[1]))
    found = network_size(size, native, multiple)
    assert not any(side % multiple for side in found)
    assert min(found) >= multiple
    sides = range(multiple, 16 * native, multiple)
    area = [(w, h) for w in sides for h in sides if 0.75 <= w * h / native**2 <= 4 / 3]
    off = {s: abs(np.log(s[0] / s[1] * size[1] / size[0])) for s in [*area, found]}
    assert off[found] <= min(off[s] for s in area) + 1e-6
    assert found[0] * found[1] <= 2 * native**2
    assert network_size(size[::-1], native, multiple) == found[::-1]


def test_the_film_has_the_shape_of_the_first_and_the_size_of_the_largest_keyframe() -> None:
    square = (128, 128)
    assert film_size([image(300, 300)], square) == (300, 300)
    assert film_size([image(301, 200), image(10, 10)], (160, 96)) == (300, 200)
    assert film_size([image(200, 100), image(500, 700)], square) == (700, 350)
    assert film_size([image(4032, 3024)], (128, 96)) == (1024, 768)
    assert film_size([image(30, 20)], square) == square  # not smaller than what the model makes
    assert film_size([image(100, 128)], square) == square
    assert film_size([image(5000, 20)], (512, 32)) == (1024, 8)
    assert film_size([image(4000, 4000)], (1024, 1024)) == (1024, 1024)
    assert film_size([image(4000, 2000)], (1152, 576)) == (1152, 576)  # a model that makes more than 1024


def test_a_size_that_is_asked_for_is_that_of_the_film() -> None:
    assert film_size([image(300, 300)], (128, 128), (640, 360)) == (640, 360)
    assert film_size([image(300, 300)], (128, 128), (2048, 8)) == (2048, 8)
    for size in ((641, 360), (640, 361), (6, 360), (640, 16386)):
        with pytest.raises(SegueError, match=f"size {size[0]}x{size[1]}: both sides are even numbers of pixels from 8"):
            film_size([image(300, 300)], (128, 128), size)


# Tensors.


def test_all_values_come_back() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([values, values[::-1], values.T], axis=-1)
    images = [Image.fromarray(pixels), Image.fromarray(pixels[:, ::-1].copy())]
    tensor = to_tensor(images)
    assert tensor.shape == (2, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (tensor.min().item(), tensor.max().item()) == (-1, 1)
    exact = pixels.transpose(2, 0, 1).astype(np.float64) / 255 * 2 - 1
    assert abs(tensor[0].numpy() - exact).max() < 1e-6
    for before, after in zip(images, to_images(tensor), strict=True):
        assert (array(before) == array(after)).all()
        assert after.size == before.size


def test_tensors_are_rounded_and_clipped() -> None:
    tensor = torch.tensor([-3.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 7.0]).reshape(1, 1, 1, 4).expand(1, 3, 8, 4)
    (picture,) = to_images(tensor.to(torch.float64).requires_grad_())
    assert array(picture)[0, :, 0].tolist() == [0, 0, 1, 255]
    with pytest.raises(SegueError, match="NaN"):
        to_images(torch.full((1, 3, 8, 8), float("nan")))

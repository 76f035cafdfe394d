"""Geometry that moves over a film: where points come from, and films of pictures that correspond."""

import json
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from shapes import QUICK, contents, tiny_interpolator
from shapes import picture as gradient
from torch import Tensor

from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.film.morph import Morph
from segue.method.align import Correspondence, grid, sample_picture
from segue.method.bend import Bends, BentPictures
from segue.method.camera import view_parents, warp
from segue.method.motion import Motion
from segue.method.tree import FrameKey
from segue.models.stable_diffusion import StableDiffusion
from segue.run.folder import RunFolder
from segue.run.journal import Edit
from segue.settings.kinds import SCHEMES

EXAMPLES = Path(__file__).parents[1] / "examples"
ALIGNED: dict[str, Any] = {
    "network_size": "32x32",
    "num_frames": 5,
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "noise": (0.3, 0.5),
    "prompt": ("a cat", "a dog"),
    "pose": "off",
    "batch_size": 3,
    "align": True,
}


def blob(number: float = 0, size: int = 32) -> Image.Image:
    """A body of two colours on a grey ground, elsewhere for each number."""
    image = Image.new("RGB", (size, size), (200, 200, 205))
    draw, x = ImageDraw.Draw(image), (0.2 + 0.12 * number) * size
    draw.ellipse((x, 0.3 * size, x + 0.35 * size, 0.7 * size), fill=(40, int(60 + 50 * number), 160))
    draw.ellipse((x + 0.2 * size, 0.2 * size, x + 0.4 * size, 0.45 * size), fill=(220, 60, 40))
    return image


def constant(x: float, y: float, shape: tuple[int, int] = (32, 32)) -> Tensor:
    """A field that moves all points alike, (2, h, w)."""
    return torch.tensor([x, y], dtype=torch.float32)[:, None, None].expand(2, *shape).clone()


def key(place: str) -> FrameKey:
    return FrameKey.at(Fraction(place))


def scene(height: int = 48, width: int = 64) -> Tensor:
    """A picture (3, h, w) without a plain background."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]


# Where points come from.


def test_fields_of_nothing_leave_every_point_where_it_is() -> None:
    still = Correspondence(constant(0, 0), constant(0, 0))
    bends = Bends({0: still, 1: still})
    for frame, parent in (("1/4", "0"), ("1/4", "1"), ("1/4", "1/2"), ("7/4", "3/2"), ("7/4", "2")):
        assert torch.allclose(bends.origin(key(frame), key(parent), (24, 32)), grid((24, 32)), atol=1e-6)


@pytest.mark.parametrize("parent", ["0", "1/2", "1"])
def test_without_a_field_a_point_comes_from_where_the_camera_showed_it(parent: str) -> None:
    """The same as the camera that does not bend; in the second gap too, where the camera has moved already."""
    motion = Motion(zoom=(1.4, 1.1), pan=((0.1, -0.05),), rotate=(25.0, -10.0))
    still, picture = Correspondence(constant(0, 0, (28, 36)), constant(0, 0, (28, 36))), scene(56, 72)
    bends = Bends({0: still, 1: still}, motion, 72 / 56)
    for gap in (0, 1):
        frame, other = FrameKey.at(gap + Fraction(1, 4)), FrameKey.at(gap + Fraction(parent))
        carried = sample_picture(picture, bends.origin(frame, other, (56, 72)))
        matrix = motion.between(frame.place, other.place, 72 / 56)
        x, y = grid((56, 72)).flatten(1).double().numpy()
        expected = (matrix @ np.stack([x, y, np.ones_like(x)]))[:2].reshape(2, 56, 72)
        assert bends.origin(frame, other, (56, 72)).numpy() == pytest.approx(expected, abs=1e-4)
        assert torch.allclose(carried, warp(picture, matrix)[0], atol=1e-3)


@pytest.mark.parametrize("place", ["1/1000000", "999999/1000000"])
def test_at_a_keyframe_its_points_are_where_they_are(place: str) -> None:
    waves = 0.1 * torch.sin(3 * grid((32, 32)))
    bends = Bends({0: Correspondence(waves, -waves)})
    parent = FrameKey(0) if place.startswith("1/") else FrameKey(1)
    assert torch.allclose(bends.origin(key(place), parent, (64, 64)), grid((64, 64)), atol=1e-5)


def test_a_share_of_the_way_is_gone_at_a_share_of_the_gap() -> None:
    bends = Bends({2: Correspondence(constant(0.4, -0.2), constant(-0.4, 0.2))})
    shift = torch.tensor([0.4, -0.2])[:, None, None]
    at = grid((16, 16))
    assert torch.allclose(bends.origin(key("9/4"), FrameKey(2), (16, 16)), at - shift / 4, atol=1e-4)
    assert torch.allclose(bends.origin(key("9/4"), FrameKey(3), (16, 16)), at + shift * 3 / 4, atol=1e-3)
    assert torch.allclose(bends.origin(key("9/4"), key("11/4"), (16, 16)), at + shift / 2, atol=1e-3)
    assert torch.allclose(bends.origin(key("11/4"), key("9/4"), (16, 16)), at - shift / 2, atol=1e-3)


def test_where_two_fields_do_not_agree_the_nearer_keyframe_counts_more() -> None:
    """Only the left one's field moves: from 1/4 to 1/2 by a quarter of it, of which 3/4 count at 1/4."""
    bends = Bends({0: Correspondence(constant(0.4, 0.0), constant(0.0, 0.0))})
    shift = bends.origin(key("1/4"), key("1/2"), (16, 16)) - grid((16, 16))
    assert torch.allclose(shift[0], torch.full((16, 16), 0.75 * 0.1), atol=1e-4)
    assert torch.allclose(shift[1], torch.zeros(16, 16), atol=1e-6)


@pytest.mark.parametrize("motion", [Motion(), Motion(zoom=(1.25,), rotate=(15.0,))])
def test_a_way_by_a_made_frame_is_the_direct_way(motion: Motion) -> None:
    """Where both keyframes' fields agree, points carried from a keyframe to a made frame and on are carried at once."""
    matrix = motion.between(Fraction(1), Fraction(0), 1.0)
    back = np.linalg.solve(matrix[:2, :2], [0.2, 0.1])  # the way (0.2, 0.1), as the right keyframe's camera shows it
    bends = Bends({0: Correspondence(constant(0.2, 0.1), constant(*(-back)))}, motion)
    last, between = key("3/4"), key("1/4")
    first = bends.origin(last, between, (40, 40))  # where the last shows points, in the picture between
    inside = (first.abs() < 0.9).all(0)
    there = bends.origin(between, FrameKey(0), (400, 400))
    index = ((first + 1) * 200 - 0.5).round().long().clamp(0, 399)
    chained = there[:, index[1], index[0]]
    direct = bends.origin(last, FrameKey(0), (40, 40))
    assert inside.float().mean() > 0.3
    assert (chained - direct).abs().amax(0)[inside].max() < 0.006  # half a cell of the 400 along the side


# Parents as a frame sees them.


def bent_pictures(encode: Callable[[Tensor], Tensor] = lambda x: x) -> BentPictures:
    """Parents of pictures twice as large as what the network works on, half a picture apart."""
    pictures = {FrameKey(0): scene(64, 64), FrameKey(1): scene(64, 64).flip(1)}
    finished = {key("1/2"): scene(64, 64).flip(0)}
    bends = Bends({0: Correspondence(constant(0.5, 0.0), constant(-0.5, 0.0))})
    return BentPictures(bends, pictures, finished.__getitem__, encode, (32, 32))


def halve(picture: Tensor) -> Tensor:
    """A picture of 64 x 64 on 32 x 32: Lanczos with a kernel of 3 lobes, which reaches over 12 pixels."""
    distance = (torch.arange(64) + 0.5)[None] / 2 - (torch.arange(32) + 0.5)[:, None]
    weights = torch.where(distance.abs() < 3, torch.sinc(distance) * torch.sinc(distance / 3), 0.0)
    weights /= weights.sum(1, keepdim=True)
    return weights @ picture @ weights.T


def test_keyframes_are_sampled_from_their_own_pixels() -> None:
    """At 1/4 the left one has moved by 0.125 of half a picture, which is 4 of 64 pixels; no latent is used."""
    wrong = torch.full((3, 32, 32), 9.0)
    bent = bent_pictures(lambda x: 2 * x)
    left, right, made = bent(key("1/4"), [(parent, wrong) for parent in (FrameKey(0), FrameKey(1), key("1/2"))])
    pictures = [bent.keyframes[FrameKey(0)], bent.keyframes[FrameKey(1)], bent.finished(key("1/2"))]
    for found, picture, shift in zip((left, right, made), pictures, (4, -12, -4), strict=True):
        expected = 2 * halve(torch.roll(picture, shift, 2)).clamp(-1, 1)
        assert torch.allclose(found[:, :, 6:-10], expected[:, :, 6:-10], atol=2e-3)


def test_what_a_zooming_camera_does_not_see_of_a_parent_is_the_others() -> None:
    """As without alignment (``camera.view_parents``): the right keyframe is the middle half of the left one's plane."""
    motion, key_quarter = Motion(zoom=(2.0,)), key("1/4")
    still = Correspondence(constant(0, 0), constant(0, 0))
    pictures = {FrameKey(0): scene(64, 64), FrameKey(1): scene(64, 64).flip(2)}
    bent = BentPictures(Bends({0: still}, motion), pictures, lambda _key: scene(), lambda x: x, (64, 64))
    expected = view_parents(motion, key_quarter, list(pictures.items()))
    for found, picture in zip(bent(key_quarter, list(pictures.items())), expected, strict=True):
        assert torch.allclose(found, picture.clamp(-1, 1), atol=1e-3)


def test_a_frame_is_itself() -> None:
    latent = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    (found,) = bent_pictures()(key("1/4"), [(key("1/4"), latent)])
    assert found is latent


def test_a_noisy_latent_keeps_its_numbers() -> None:
    """From 1/2 to 1/4 all moves by 0.125, of 16 cells over 2 one; what comes from beyond is held."""
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))
    carried = bent_pictures().carry_noisy(key("1/4"), key("1/2"), noise)
    assert torch.equal(carried[:, :, :-1], noise[:, :, 1:])
    assert torch.equal(carried[:, :, -1], noise[:, :, -1])
    waves = Bends({0: Correspondence(0.1 * torch.sin(3 * grid((32, 32))), torch.zeros(2, 32, 32))})
    bent = BentPictures(waves, {}, lambda _key: noise, lambda x: x, (16, 16))
    assert torch.isin(bent.carry_noisy(key("1/4"), key("1/2"), noise), noise).all()


# Films.


def film(path: Path | None = None, numbers: tuple[int, ...] = (0, 2), **settings: Any) -> Morph:
    if settings.get("scheme") == "diffmorpher":
        settings["fit_model"] = 2
    return tiny_interpolator()(*[blob(n) for n in numbers], output=path, **{**ALIGNED, **settings})


def far(morph: Morph, picture: Image.Image) -> int:
    """The largest difference of a film's frames from a picture, of 255."""
    given = np.asarray(picture, int)
    return max(int(abs(np.asarray(frame, int) - given).max()) for frame in morph.frames)


@pytest.mark.parametrize("scheme", ["branching", "interpolate", "interpolate-denoise"])
def test_a_film_from_a_picture_to_itself_stands_still(scheme: str) -> None:
    settings: dict[str, Any] = {"candidates": 2} if scheme == "branching" else {}
    morph = film(None, (1, 1), scheme=scheme, prompt="a cat", num_frames=9, **settings)
    assert far(morph, blob(1)) <= 2


@cache
def pocket(dtype: str) -> Interpolator:
    return Interpolator.from_pretrained(dtype=dtype, device="cpu")


@pytest.mark.parametrize(
    ("name", "size", "dtype"),
    [("disc", 128, "float32"), ("bear", 400, "float32"), ("fox", 512, "bfloat16")],
)
def test_a_film_of_pocket_from_a_picture_to_itself_stands_still(name: str, size: int, dtype: str) -> None:
    if name != "disc":
        picture = Image.open(EXAMPLES / f"{name}.png").convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    else:
        picture = Image.new("RGB", (size, size), (128, 128, 128))
        ImageDraw.Draw(picture).ellipse((0.3 * size, 0.3 * size, 0.7 * size, 0.7 * size), fill="black")
    morph = pocket(dtype)(
        picture, picture, num_frames=3, num_inference_steps=4, prompt="a bear", pose="off", align=True
    )
    assert morph.frames[1].size == (size, size)
    assert far(morph, picture) <= 2


class StopError(Exception):
    """What kills a run."""


def stop_at(after: int) -> Callable[[Progress], None]:
    """A callback that raises at its call of that number."""
    calls: list[Progress] = []

    def callback(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) == after:
            raise StopError

    return callback


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_resumes_to_the_byte(scheme: str, tmp_path: Path) -> None:
    calls: list[Progress] = []
    whole = film(tmp_path / "whole", scheme=scheme, callback=calls.append)
    assert len(whole.frames) == 5
    assert np.array_equal(np.asarray(whole.frames[0]), np.asarray(blob(0)))
    assert np.array_equal(np.asarray(whole.frames[4]), np.asarray(blob(2)))
    kept = contents(tmp_path / "whole", "frames/", "latents/", "state.json", "run.json")
    for after in (len(calls) // 2, len(calls)) if scheme == "branching" else (len(calls) // 2,):
        path = tmp_path / str(after)
        with pytest.raises(StopError):
            film(path, scheme=scheme, callback=stop_at(after))
        assert not (path / "state.json").exists()
        film(path, scheme=scheme)
        assert contents(path, "frames/", "latents/", "state.json", "run.json") == kept


def test_shapes_move() -> None:
    """The frame in the middle looks like a body midway, not like the two bodies half seen."""
    midway = np.asarray(blob(1.5), float)
    off = {}
    for align in (False, True):
        frame = film(None, (0, 3), num_frames=3, align=align, scheme="interpolate").frames[1]
        off[align] = abs(np.asarray(frame, float) - midway).mean()
    assert off[True] < 0.6 * off[False]


def test_a_loop_of_three_keyframes(tmp_path: Path) -> None:
    morph = film(tmp_path / "run", (0, 1, 3), loop=True, prompt="a cat")
    assert len(morph.frames) == 12
    for i, number in enumerate((0, 1, 3)):
        assert np.array_equal(np.asarray(morph.frames[4 * i]), np.asarray(blob(number)))
    with RunFolder(tmp_path / "run") as run:
        fields = [run.latent(f"bend-{FrameKey(i).name}") for i in range(4)]
    assert [field is not None for field in fields] == [True, True, True, False]


def test_perceptual_spacing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"spacing": "perceptual:pixels", "num_frames": 6}
    morph = film(tmp_path / "run", **settings)
    kept = contents(tmp_path / "run", "frames/", "state.json")
    assert len(morph.frames) == 6
    with pytest.raises(StopError):
        film(tmp_path / "other", callback=stop_at(8), **settings)
    film(tmp_path / "other", **settings)
    assert contents(tmp_path / "other", "frames/", "state.json") == kept


def test_a_film_that_grows_keeps_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    film(run)
    before = contents(run, "frames/")

    def forbidden(*_arguments: Any) -> None:
        raise AssertionError("the correspondence is found once")

    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, "features", forbidden)
        film(run, num_frames=9)
    after = contents(run, "frames/")
    assert len(after) == 9
    assert before.items() <= after.items()


def frames(path: Path) -> dict[str, str]:
    """A digest of each frame by its place."""
    shown = json.loads((path / "state.json").read_text())["frames"]
    return dict(zip([frame["place"] for frame in shown], contents(path, "frames/").values(), strict=True))


def parents(path: Path) -> dict[str, list[str]]:
    """What each made frame was made from, by their places."""
    shown = json.loads((path / "state.json").read_text())["frames"]
    return {frame["place"]: frame["parents"] for frame in shown if not frame["keyframe"]}


@pytest.mark.parametrize(
    ("remade", "made_from_it"),
    [
        ("1/2", {"1/8": ["0", "1/2"], "1/4": ["0", "1/2"], "3/8": ["0", "1/2"], "5/8": ["1/2", "1"]}),
        ("1/4", {"1/8": ["0", "1/4"], "3/8": ["1/4", "1/2"]}),
        ("7/8", {}),
    ],
)
def test_what_is_made_again_leads_its_descendants(
    remade: str, made_from_it: dict[str, list[str]], tmp_path: Path
) -> None:
    run, interpolator = tmp_path / "run", tiny_interpolator()
    film(run, num_frames=9)
    straight = {f"{Fraction(i, 8)}": ["0", "1"] for i in range(1, 8)}
    assert parents(run) == straight
    before, kept = frames(run), contents(run, "frames/", "state.json")
    interpolator.remake(run, key(remade))
    after = frames(run)
    if remade == "1/2":
        made_from_it = {**made_from_it, "3/4": ["1/2", "1"], "7/8": ["1/2", "1"]}
    assert parents(run) == {**straight, **made_from_it}
    assert {place for place in before if before[place] != after[place]} == {remade, *made_from_it}
    # Continued, it stays.
    film(run, num_frames=9)
    assert frames(run) == after
    interpolator.undo(run)
    assert contents(run, "frames/", "state.json") == kept
    interpolator.redo(run)
    assert frames(run) == after


def test_a_frame_with_a_seed_of_its_own_gets_the_residuals_of_that_seed(tmp_path: Path) -> None:
    run, interpolator = tmp_path / "run", tiny_interpolator()
    interpolator(gradient(0), gradient(0), output=run, **{**QUICK, "num_frames": 3, "prompt": "a cat"})
    morph = interpolator.remake(run, key("1/2"), Edit(seed=5))
    assert far(morph, gradient(0)) <= 2

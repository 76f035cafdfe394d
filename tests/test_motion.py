import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from notices import SegueWarning
from PIL import Image
from tiny import tiny_pipe

from segue import Interpolator
from segue.engine.keyframes import PixelSpace, view
from segue.method.camera import view_parents, warp
from segue.method.motion import Motion, is_beyond
from segue.method.tree import FrameKey
from segue.pictures.tensors import to_images, to_tensor
from segue.pose.keypoints import Person, Pose, view_pose


def picture(width: int = 64, height: int = 64) -> Image.Image:
    """A smooth picture in which every place looks different."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 11), 255 * x / width]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def test_a_zoom_by_two_shows_the_middle_quarter() -> None:
    zoomed = view(Motion(zoom=(2.0,)), Fraction(1), picture())
    middle = picture().crop((16, 16, 48, 48)).resize((64, 64), Image.Resampling.BICUBIC)
    apart = np.abs(np.asarray(zoomed, dtype=float) - np.asarray(middle, dtype=float))[3:-3, 3:-3]
    assert apart.mean() < 1
    assert apart.max() < 8


def test_people_are_where_the_moved_picture_shows_them() -> None:
    motion = Motion(zoom=(1.5,), pan=((0.1, -0.05),), rotate=(20.0,))
    spots = [(40, 30), (60, 55), (75, 40)]
    image = Image.new("RGB", (128, 96))
    for i, (x, y) in enumerate(spots):
        image.paste(tuple(255 if channel == i else 0 for channel in range(3)), (x - 2, y - 2, x + 3, y + 3))
    points = np.zeros((18, 3))
    points[:3] = [(x + 0.5, y + 0.5, 1) for x, y in spots]
    there = view_pose(motion, Fraction(1), Pose((Person(points),), 128, 96)).people[0]
    pixels = np.asarray(view(motion, Fraction(1), image), dtype=float)
    rows, columns = np.mgrid[0.5:96.5, 0.5:128.5]
    for i in range(3):
        weight = pixels[..., i] / pixels[..., i].sum()
        assert there.points[i, :2] == pytest.approx(((columns * weight).sum(), (rows * weight).sum()), abs=0.3)
    assert there.visible.sum() == 3
    same = Pose((Person(points),), 128, 96)
    assert view_pose(Motion(), Fraction(1), same) == same


def test_the_zoom_is_even_in_its_logarithm() -> None:
    camera = Motion(zoom=(4.0,)).camera(Fraction(1, 2), 1.0)
    assert camera[:2, :2] == pytest.approx(np.eye(2) / 2)


def test_a_pan_moves_by_pictures_and_a_turn_is_one_of_pixels() -> None:
    panned = view(Motion(pan=((0.25, 0.0),)), Fraction(1), picture())
    assert np.abs(np.asarray(panned, float)[:, :48] - np.asarray(picture(), float)[:, 16:]).max() <= 1
    wide = picture(96, 64)
    turned = view(Motion(rotate=(90.0,)), Fraction(1), wide)
    expected = wide.rotate(-90, Image.Resampling.BICUBIC)
    apart = np.abs(np.asarray(turned, float) - np.asarray(expected, float))[2:-2, 20:-20]
    assert np.median(apart) < 3


def test_gaps_add_up_and_the_last_value_holds() -> None:
    motion = Motion(zoom=(2.0, 0.5))
    assert motion.camera(Fraction(1), 1.0)[0, 0] == pytest.approx(0.5)
    assert motion.camera(Fraction(2), 1.0) == pytest.approx(np.eye(3))
    assert motion.camera(Fraction(3), 1.0)[0, 0] == pytest.approx(2)
    assert view(motion, Fraction(0), (given := picture())) is given


def test_between_undoes_the_camera_of_the_parent() -> None:
    motion = Motion(zoom=(2.0,), rotate=(30.0,), pan=((0.1, 0.2),))
    there, back = (motion.between(Fraction(a), Fraction(b), 1.5) for a, b in (("1/4", "3/4"), ("3/4", "1/4")))
    assert there @ back == pytest.approx(np.eye(3), abs=1e-12)


def test_what_a_parent_does_not_show_comes_from_the_other() -> None:
    left, right = torch.ones(1, 8, 8), torch.full((1, 8, 8), 2.0)
    keys = FrameKey(0), FrameKey(1)
    seen_left, seen_right = view_parents(
        Motion(zoom=(2.0,)), FrameKey(0, Fraction(1, 2)), list(zip(keys, (left, right), strict=True))
    )
    assert torch.allclose(seen_left, torch.ones(1, 8, 8), atol=1e-5)  # the left one is magnified: all of it is known
    inner = round(8 / math.sqrt(2) / 2) - 1
    assert torch.allclose(seen_right[:, 4 - inner : 4 + inner, 4 - inner : 4 + inner], torch.tensor(2.0), atol=1e-5)
    assert torch.allclose(seen_right[:, 0], torch.tensor(1.0), atol=1e-5)


def test_in_pixel_space_a_keyframe_is_moved_exactly_and_a_made_parent_keeps_what_the_autoencoder_loses() -> None:
    images = {FrameKey(i): torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in (0, 1)}
    made = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2)) - 0.5
    space = PixelSpace(Motion(zoom=(2.0,)), images, encode=coarse, decode=fine)
    half = FrameKey(0, Fraction(1, 2))
    at_keyframe, at_made = space(
        FrameKey(0, Fraction(1, 4)), [(FrameKey(0), coarse(images[FrameKey(0)][None])[0]), (half, made)]
    )
    camera = Motion(zoom=(2.0,)).camera(Fraction(1, 4), 1.0)
    assert torch.allclose(at_keyframe, coarse(warp(images[FrameKey(0)], camera)[0].clamp(-1, 1)[None])[0], atol=1e-6)
    assert at_made.shape == (3, 8, 8)

    still = PixelSpace(Motion(), images, encode=coarse, decode=fine)
    assert not torch.allclose(coarse(fine(made[None]))[0], made, atol=1e-2)  # this autoencoder loses something
    for parent, seen_one in zip((made, made), still(half, [(half, made), (half, made)]), strict=True):
        assert torch.allclose(seen_one, parent, atol=1e-5)


def coarse(images: torch.Tensor) -> torch.Tensor:
    """An encoder that loses: means of 2 x 2 pixels, a bit less of each."""
    return 0.9 * torch.nn.functional.avg_pool2d(images, 2)


def fine(latents: torch.Tensor) -> torch.Tensor:
    """Its decoder: smooth between them."""
    return torch.nn.functional.interpolate(latents, scale_factor=2, mode="bilinear", align_corners=False)


@pytest.mark.filterwarnings("ignore:noise 0.001:notices.SegueWarning", "ignore:keyframes 0, 1:notices.SegueWarning")
def test_a_zoom_of_a_picture_into_itself_is_the_plain_zoom_within_the_autoencoders_error() -> None:
    interpolator = Interpolator.from_pretrained(dtype="float32", device="cpu")
    given = picture(128, 128)
    settings: dict[str, Any] = {
        "num_frames": 5,
        "prompt": "waves",
        "pose": "off",
        "noise": (0.001, 0.001),
        "zoom": (2.0,),
        "align": False,
        "detail": 0.0,
    }
    film = interpolator(given, given, **settings)
    plain = [view(Motion(zoom=(2.0,)), key.place, given) for key in film.keys]
    backbone = interpolator.backbone
    with backbone.evaluating():
        through = [to_images(backbone.decode(backbone.encode(to_tensor([one]))))[0] for one in plain[1:-1]]
    assert difference(list(film.frames)[1:-1], plain[1:-1]) < 1.25 * difference(through, plain[1:-1])


def difference(frames: list[Image.Image], wanted: list[Image.Image]) -> float:
    """Root mean square of the pixels' differences."""
    return float(
        np.sqrt(
            np.mean(
                [np.square(np.asarray(a, float) - np.asarray(b, float)) for a, b in zip(frames, wanted, strict=True)]
            )
        )
    )


def test_warp_by_nothing_changes_nothing() -> None:
    image = torch.rand(3, 5, 7)
    warped, inside = warp(image, np.eye(3))
    assert torch.allclose(warped, image, atol=1e-6)
    assert torch.all(inside == 1)


def test_a_camera_that_sees_beyond_a_keyframe_is_told() -> None:
    interpolator = Interpolator(tiny_pipe())
    for zoom, pan in ((0.5, (0.0, 0.0)), (1.0, (0.3, 0.0))):
        with pytest.warns(SegueWarning, match="beyond the edges of the keyframe at 1, where their picture is mirrored"):
            interpolator(
                picture(), picture(), num_frames=3, num_inference_steps=2, prompt="a", zoom=(zoom,), pan=(pan,)
            )
    assert not is_beyond(Motion(zoom=(2.0,), pan=((0.25, -0.25),)), Fraction(1), 1.5)
    assert is_beyond(Motion(rotate=(10.0,)), Fraction(1), 1.5)


def test_keyframes_of_a_moving_film_are_seen_through_the_camera() -> None:
    interpolator = Interpolator(tiny_pipe())
    morph = interpolator(picture(), picture(), num_frames=3, num_inference_steps=2, prompt="a", zoom=(2.0,))
    assert np.array_equal(np.asarray(morph.frames[0]), np.asarray(picture()))
    assert np.array_equal(np.asarray(morph.frames[2]), np.asarray(view(Motion(zoom=(2.0,)), Fraction(1), picture())))

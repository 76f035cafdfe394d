"""Two pictures in correspondence: known maps are found, transport is optimal, what is known holds."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage, optimize
from torch import Tensor

from segue.engine.interpolator import Interpolator
from segue.method import align as align_module
from segue.method.align import (
    Correspondence,
    Match,
    align,
    distance_moved,
    grid,
    is_plain,
    place_of,
    sample_picture,
    transport,
    unbend,
)
from segue.method.bend import Bends
from segue.method.motion import Motion
from segue.method.tree import FrameKey

Array = NDArray[np.float64]
Map = Callable[[Any, Any], tuple[Any, Any]]  # of places from -1 to 1

ALIGNED_FINELY = True
CELL = 2 / 32  # of the picture, in units of grid sampling

PARTS: Sequence[tuple[tuple[float, float, float, float], tuple[int, int, int]]] = (
    ((0.30, 0.42, 0.66, 0.68), (200, 90, 40)),  # body
    ((0.58, 0.28, 0.76, 0.48), (240, 180, 60)),  # head
    ((0.70, 0.36, 0.82, 0.46), (90, 40, 20)),  # snout
    ((0.60, 0.20, 0.66, 0.34), (180, 30, 60)),  # ear
    ((0.32, 0.60, 0.39, 0.80), (60, 120, 60)),  # legs
    ((0.57, 0.60, 0.64, 0.80), (40, 60, 140)),
    ((0.20, 0.36, 0.36, 0.46), (120, 40, 140)),  # tail
)


def creature(width: int = 128, height: int = 128) -> Array:
    """A drawn animal of seven colours on white, (H, W, 3); round where the picture is not square."""
    side = 4 * min(width, height)
    left, top = (4 * width - side) // 2, (4 * height - side) // 2
    image = Image.new("RGB", (4 * width, 4 * height), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    for (x0, y0, x1, y1), colour in PARTS:
        draw.ellipse((left + x0 * side, top + y0 * side, left + x1 * side, top + y1 * side), fill=colour)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)).astype(np.float64)


def texture(seed: int, size: int = 128) -> Array:
    """A scene without a plain background, (H, W, 3): blots of all colours."""
    noise = np.random.default_rng(seed).normal(size=(size, size, 3))
    soft = ndimage.gaussian_filter(noise, (5, 5, 0), mode="wrap")
    return np.asarray(np.clip(127.5 + 60 * soft / soft.std(), 0, 255), float)


def move(picture: Array, inverse: Map, mode: str = "nearest") -> Array:
    """The picture (H, W, 3) of which each place shows what the old one shows at its inverse."""
    h, w = picture.shape[:2]
    y, x = np.mgrid[:h, :w] + 0.5
    u, v = inverse(2 * x / w - 1, 2 * y / h - 1)
    where = [(v + 1) * h / 2 - 0.5, (u + 1) * w / 2 - 0.5]
    channels = [ndimage.map_coordinates(picture[..., i], where, order=3, mode=mode) for i in range(3)]
    return np.asarray(np.clip(np.stack(channels, -1), 0, 255), float)


def tensor(picture: Array) -> Tensor:
    return torch.from_numpy(picture / 127.5 - 1).permute(2, 0, 1).float()


def rotation(degrees: float) -> Map:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return lambda x, y: (cosine * x - sine * y, sine * x + cosine * y)


def bend(x: Any, y: Any) -> tuple[Any, Any]:
    return x + 0.12 * np.sin(2 * y + 0.5), y + 0.12 * np.cos(2 * x)


def bend_back(x: Any, y: Any) -> tuple[Any, Any]:
    """The inverse of ``bend``, whose derivative is at most 0.24."""
    u, v = x, y
    for _ in range(60):
        u, v = x - 0.12 * np.sin(2 * v + 0.5), y - 0.12 * np.cos(2 * u)
    return u, v


MAPS: dict[str, tuple[Map, Map]] = {
    "translation": (lambda x, y: (x + 0.2, y - 0.12), lambda x, y: (x - 0.2, y + 0.12)),
    "rotation": (rotation(15), rotation(-15)),
    "scaling": (lambda x, y: (1.25 * x, 1.25 * y), lambda x, y: (x / 1.25, y / 1.25)),
    "bend": (bend, bend_back),
}


@cache
def pocket() -> Any:
    return Interpolator.from_pretrained(dtype="float32", device="cpu").backbone


def features(left: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Both pictures' features as pocket sees them."""
    one, other = (pocket().features(picture[None]) for picture in (left, right))
    return [(h[0], k[0]) for h, k in zip(one, other, strict=True)]


def errors(field: Tensor, picture: Tensor, true: Map) -> Array:
    """How far the field is from a known map at the cells of the subject, in cells."""
    shape = (field.shape[1], field.shape[2])
    x, y = grid(shape).numpy()
    u, v = true(x, y)
    inside = torch.nn.functional.adaptive_avg_pool2d((picture - picture[:, :1, :1]).abs().amax(0)[None], shape)[0] > 0.3
    off = np.hypot(field[0].numpy() - (u - x), field[1].numpy() - (v - y))[inside.numpy()]
    assert len(off) > 100
    return np.asarray(off / CELL, float)


def at(field: Tensor, place: Sequence[float]) -> Array:
    """A field at a place given as fractions of the picture, (2,)."""
    where = torch.tensor(place, dtype=torch.float32)[:, None, None] * 2 - 1
    return np.asarray(place_of(field, where)[:, 0, 0].numpy(), float)


# Known maps are found.


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("name", MAPS)
def test_a_known_map_is_found_within_one_cell(name: str, network: bool) -> None:
    forth, back = MAPS[name]
    left, right = tensor(creature()), tensor(move(creature(), back))
    found = align(left, right, features(left, right) if network else ())
    assert found.confidence == 1
    off = [errors(found.left, left, forth), errors(found.right, right, back)]
    for each in off:
        assert each.mean() < 1
        assert np.percentile(each, 90) < 1


def test_pictures_that_are_not_square() -> None:
    left = creature(160, 96)
    right = move(left, lambda x, y: (x - 0.15, y + 0.2))
    found = align(tensor(left), tensor(right))
    h, w = found.left.shape[1:]
    assert (w / h) == pytest.approx(160 / 96, rel=0.05)
    assert h * w == pytest.approx(32 * 32, rel=0.05)
    off = errors(found.left, tensor(left), lambda x, y: (x + 0.15, y - 0.2))
    assert np.percentile(off, 90) < 0.5
    turned = align(tensor(left.transpose(1, 0, 2)), tensor(right.transpose(1, 0, 2)))
    assert torch.allclose(turned.left.flip(0).transpose(1, 2), found.left, atol=1e-3)


def test_colours_are_matched() -> None:
    """Of two discs that have changed places, each goes where its colour is."""
    pictures = []
    for colours in (((220, 40, 30), (30, 60, 220)), ((30, 60, 220), (220, 40, 30))):
        image = Image.new("RGB", (128, 128), "white")
        for x, colour in zip((20, 76), colours, strict=True):
            ImageDraw.Draw(image).ellipse((x, 48, x + 32, 80), fill=colour)
        pictures.append(tensor(np.asarray(image).astype(np.float64)))
    found = align(pictures[0], pictures[1])
    way = 2 * 56 / 128
    for field in (found.left, found.right):
        assert at(field, (36 / 128, 0.5)) == pytest.approx([way, 0], abs=CELL)
        assert at(field, (92 / 128, 0.5)) == pytest.approx([-way, 0], abs=CELL)


def test_a_picture_and_itself_stand_still() -> None:
    picture = tensor(creature())
    same = align(picture, picture.clone())
    assert same.left.shape == same.right.shape == (2, 32, 32)
    assert not same.left.any()
    assert not same.right.any()
    assert same.confidence == 1
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    nearly = align(picture, (picture + 0.01 * noise).clamp(-1, 1))
    assert 0 < nearly.left.norm(dim=0).max() < 0.5 * CELL
    assert nearly.right.norm(dim=0).max() < 0.5 * CELL


def test_both_ways_round() -> None:
    left, right = tensor(creature()), tensor(move(creature(), MAPS["bend"][1]))
    one, other = align(left, right), align(right, left)
    assert one.left.abs().max() > CELL
    for there, back in ((one.left, other.right), (one.right, other.left)):  # as far as Sinkhorn's steps go
        assert (there - back).abs().max() < 0.2 * CELL


# Scenes without a plain background.


def test_different_scenes_do_not_correspond() -> None:
    left, right = tensor(texture(0)), tensor(texture(1))
    generator = torch.Generator().manual_seed(0)
    hs = [torch.randn(16, 32, 32, generator=generator) for _ in range(4)]
    for given in ((), [(hs[0], hs[1]), (hs[2], hs[3])], features(left, right)):
        found = align(left, right, given)
        assert found.confidence == 0
        assert not found.left.any()
        assert not found.right.any()
    known: list[Match] = [((0.3, 0.4), (0.5, 0.4))]  # who names points is sure
    assert align(left, right, points=known).confidence == 1


def test_a_scene_corresponds_to_itself_moved() -> None:
    left = texture(0)
    right = move(left, lambda x, y: (x - 0.1, y), mode="grid-wrap")
    found = align(tensor(left), tensor(right), features(tensor(left), tensor(right)))
    assert found.confidence > 0


# Transport.


def problem(n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A cost (n, m) and two masses."""
    rng = np.random.default_rng(seed)
    places, others = rng.uniform(size=(n, 2)), rng.uniform(size=(m, 2))
    a, b = (rng.uniform(0.5, 1.5, size) for size in (n, m))
    cost = ((places[:, None] - others) ** 2).sum(-1)
    return torch.from_numpy(cost).float(), torch.from_numpy(a / a.sum()).float(), torch.from_numpy(b / b.sum()).float()


def test_transport_has_the_masses_as_its_marginals() -> None:
    cost, a, b = problem(60, 80)
    plan = transport(cost, a, b, 0.05, 200)
    assert (plan >= 0).all()
    assert torch.allclose(plan.sum(1), a, atol=1e-6)
    assert torch.allclose(plan.sum(0), b, atol=1e-6)


def test_transport_is_sinkhorns_in_logarithms() -> None:
    """The plain steps, as often as they need; costs are up to 20 epsilon, and to 200 epsilon."""
    for epsilon, steps in ((0.1, 200), (0.01, 4000)):
        cost, a, b = problem(40, 50)
        plan = transport(cost, a, b, epsilon, steps)
        scaled, log_a, log_b = -cost.double() / epsilon, a.double().log(), b.double().log()
        f, g = torch.zeros(40).double(), torch.zeros(50).double()
        for _ in range(2 * steps):
            f = log_a - torch.logsumexp(scaled + g, 1)
            g = log_b - torch.logsumexp(scaled + f[:, None], 0)
        assert torch.allclose(plan, (scaled + f[:, None] + g).exp().float(), atol=2e-6)


def test_transport_becomes_the_optimal_one() -> None:
    """The linear programme: least <C, pi> over pi >= 0 with the masses as its marginals."""
    cost, a, b = problem(8, 10)
    rows, columns = np.kron(np.eye(8), np.ones(10)), np.kron(np.ones(8), np.eye(10))
    masses = np.concatenate(
        [a.double().numpy() / a.double().sum().item(), b.double().numpy() / b.double().sum().item()]
    )
    least = optimize.linprog(cost.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=masses)
    assert least.success
    excess = [float((transport(cost, a, b, e, 4000) * cost).sum()) - least.fun for e in (0.1, 0.02, 0.002)]
    assert excess[0] > excess[1] > excess[2] > -1e-5
    assert excess[2] < 0.01 * least.fun


def test_transport_of_two_subjects_has_the_masses_as_its_marginals() -> None:
    left, right = tensor(creature()), tensor(creature()[::-1].copy())
    a, b = align_module._cells(left, []), align_module._cells(right, [])
    plan = transport(align_module._cost(a, b, []), a.mass, b.mass)
    assert abs(plan.sum(1) - a.mass).sum() / 2 < 0.015
    assert abs(plan.sum(0) - b.mass).sum() / 2 < 0.015


# What is known.


POINTS: list[Match] = [((0.4, 0.5), (0.55, 0.45)), ((0.7, 0.35), (0.6, 0.5)), ((0.35, 0.75), (0.35, 0.85))]


@pytest.mark.parametrize("same", [True, False])
def test_points_hold_exactly(same: bool) -> None:
    left = tensor(creature())
    right = left if same else tensor(move(creature(), MAPS["bend"][1]))
    found = align(left, right, points=POINTS)
    for one, other in POINTS:
        way = 2 * (np.array(other) - one)
        assert at(found.left, one) == pytest.approx(way, abs=0.05 * CELL)
        assert at(found.right, other) == pytest.approx(-way, abs=0.05 * CELL)


def test_points_hold_beside_a_moving_camera() -> None:
    """Seen from the place of the right keyframe, a known place shows what the left one has at its match."""
    motion = Motion(zoom=(1.3,), pan=((0.05, -0.1),), rotate=(20.0,))
    left, right = tensor(creature()), tensor(move(creature(), MAPS["bend"][1]))
    matrix = motion.between(Fraction(1), Fraction(0), 1.0)
    found = align(left, right, points=POINTS, camera=torch.from_numpy(matrix).float())
    for one, other in POINTS:
        p, q = 2 * np.array(one) - 1, 2 * np.array(other) - 1
        there = (matrix @ [*q, 1])[:2]
        assert at(found.left, one) == pytest.approx(there - p, abs=0.05 * CELL)
        back = (np.linalg.inv(matrix) @ [*p, 1])[:2]
        assert at(found.right, other) == pytest.approx(back - q, abs=0.05 * CELL)


def test_a_camera_and_a_field_compose_to_what_is_known() -> None:
    """What is seen at the right keyframe's place where it has a known place, the left one has at its match."""
    motion = Motion(zoom=(1.3,), pan=((0.05, -0.1),), rotate=(20.0,))
    matrix = motion.between(Fraction(1), Fraction(0), 1.0)
    where = np.array([-0.1, 0.15])
    q = np.linalg.solve(matrix, [where[0] + 0.1, where[1] - 0.05, 1])[:2]
    known: Match = ((float(where[0] + 1) / 2, float(where[1] + 1) / 2), (float(q[0] + 1) / 2, float(q[1] + 1) / 2))
    right = move(
        creature(), lambda x, y: tuple(np.tensordot(matrix[:2, :2], np.stack([x, y]), 1) + matrix[:2, 2:, None])
    )
    found = align(tensor(creature()), tensor(right), points=[known], camera=torch.from_numpy(matrix).float())
    bends = Bends({0: found}, motion)
    origin = bends.origin(FrameKey(0, Fraction(9999, 10000)), FrameKey(0), (256, 256))
    assert at(origin, known[1]) == pytest.approx(where, abs=0.1 * CELL)
    origin = bends.origin(FrameKey(0, Fraction(1, 10000)), FrameKey(1), (256, 256))
    assert at(origin, known[0]) == pytest.approx(q, abs=0.1 * CELL)


def test_what_a_camera_does_is_left_to_it() -> None:
    """The right picture is the left one as a camera shows it: its fields are 0."""
    motion = Motion(zoom=(1.2,), rotate=(10.0,))
    matrix = motion.between(Fraction(1), Fraction(0), 1.0)
    right = move(creature(), lambda x, y: (matrix[0, 0] * x + matrix[0, 1] * y, matrix[1, 0] * x + matrix[1, 1] * y))
    found = align(tensor(creature()), tensor(right), camera=torch.from_numpy(matrix).float())
    assert errors(found.left, tensor(creature()), lambda x, y: (x, y)).mean() < 1
    assert errors(found.right, tensor(right), lambda x, y: (x, y)).mean() < 1


def test_keypoints_pull() -> None:
    disc = np.full((128, 128, 3), 250.0)
    y, x = np.mgrid[:128, :128] / 128
    disc[(x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1] = 60
    other = disc.copy()
    other[0, 0] = 249  # so that it is not the same picture
    free = align(tensor(disc), tensor(other))
    pulled = align(tensor(disc), tensor(other), keypoints=[((0.4, 0.5), (0.6, 0.5))])
    assert abs(at(free.left, (0.4, 0.5))).max() < 0.5 * CELL
    assert at(pulled.left, (0.4, 0.5))[0] > CELL
    assert at(pulled.right, (0.6, 0.5))[0] < -CELL
    assert pulled.confidence == 1


# Fields and pictures.


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_unbend_finds_where_what_is_seen_came_from(share: float) -> None:
    """x = p + share d(p), with d in closed form."""
    p = grid((32, 32))
    field = torch.stack([0.2 * torch.sin(2 * p[1] + 0.5), 0.15 * torch.cos(1.5 * p[0])])
    back = unbend(field, share)
    x = grid(back.shape[1:])
    q = x - back
    came = q + share * torch.stack([0.2 * torch.sin(2 * q[1] + 0.5), 0.15 * torch.cos(1.5 * q[0])])
    inside = (q.abs() < 0.95).all(0)  # a field is held beyond the borders
    assert inside.float().mean() > 0.5
    assert (came - x).abs().amax(0)[inside].max() < 0.05 * CELL


def test_a_subject_at_the_border_is_not_drawn_out() -> None:
    picture = np.full((64, 64, 3), 250.0)
    picture[20:44, 30:] = [200, 60, 30]  # it touches the right border
    image = tensor(picture)
    assert is_plain(image)
    shown = sample_picture(
        image, grid((64, 64)) + torch.tensor([1.0, 0.0])[:, None, None]
    )  # half a picture to the right
    assert torch.allclose(shown[:, :, 34:], image[:, :1, :1], atol=1e-5)
    assert torch.allclose(shown[:, 24:40, 2:28], image[:, 24:40, 34:60], atol=1e-5)
    assert torch.allclose(sample_picture(image, grid((64, 64))), image, atol=1e-5)


def test_a_scene_is_mirrored_at_its_border() -> None:
    image = tensor(texture(2, 64))
    assert not is_plain(image)
    shown = sample_picture(image, grid((64, 64)) + torch.tensor([1.0, 0.0])[:, None, None])
    assert torch.allclose(shown[:, :, 34:62], image.flip(2)[:, :, 2:30], atol=1e-4)


def test_a_correspondence_that_is_known_brings_one_picture_onto_the_other() -> None:
    """The bend that was found, undone: the left picture moved all of the way is the right one."""
    left, right = tensor(creature()), tensor(move(creature(), MAPS["bend"][1]))
    bends = Bends({0: align(left, right)})
    carried = sample_picture(left, bends.origin(FrameKey(0, Fraction(9999, 10000)), FrameKey(0), (128, 128)))
    before, after = (float((picture - right).abs().mean()) for picture in (left, carried))
    assert after < 0.35 * before


def test_a_field_of_nothing() -> None:
    still = Correspondence(torch.zeros(2, 32, 32), torch.zeros(2, 32, 32))
    assert still.confidence == 1
    assert not unbend(still.left, 0.5).any()


def test_distances_are_in_widths_and_of_subjects_alone() -> None:
    """A square moves by 0.3 widths and 0.8 heights, which are 0.4 widths; the other picture's does not move."""
    picture = torch.ones(3, 64, 128)
    picture[:, 20:40, 30:50] = -1
    shape = align(picture, picture).left.shape
    moved = torch.tensor([0.6, 1.6])[:, None, None].expand(shape).clone()
    moved[:, :, shape[2] // 2 :] = 9  # of the background
    assert distance_moved(Correspondence(moved, moved * 0), picture, picture) == pytest.approx(0.25)

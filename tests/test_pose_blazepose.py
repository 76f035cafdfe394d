from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segue.pose import blazepose
from segue.pose.blazepose import crop, find, find_squares, merge, refine
from segue.pose.blazepose.networks import BOX_SIZE, LANDMARK_SIZE, load_detector, load_landmarks
from segue.pose.keypoints import KEYPOINTS, Pose
from training.blazepose import PHOTOGRAPH, pictures

RECORDED = np.load(Path(__file__).parent / "data" / "pose" / "blazepose.npz")

Places = Mapping[str, tuple[float, float]]

# Where keypoints of the astronaut are in the picture of 256 pixels, read off by eye.
SEEN = {
    "nose": (111, 65),
    "neck": (99, 124),
    "right shoulder": (48, 121),
    "left shoulder": (150, 127),
    "right eye": (102, 51),
    "left eye": (123, 57),
    "right ear": (92, 54),
    "left ear": (131, 62),
}

# Shoulders are vague where a border is drawn around a picture that ends at the chest.
FACE = {name: place for name, place in SEEN.items() if name.endswith(("nose", "eye", "ear"))}


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    with Image.open(PHOTOGRAPH) as image:
        return image.convert("RGB")


def batch(size: int) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures(size))).permute(0, 3, 1, 2)


def test_the_detector_answers_as_the_one_it_was_read_from() -> None:
    with torch.inference_mode():
        scores, boxes = load_detector()(batch(BOX_SIZE) * 2 - 1)
    assert boxes.shape == (5, 2254, 12)
    assert abs(RECORDED["boxes"]).max() > 50  # pixels
    assert boxes[:, ::16].numpy() == pytest.approx(RECORDED["boxes"], abs=1e-3)
    assert scores[:, ::16].numpy() == pytest.approx(RECORDED["scores"], abs=1e-3)


def test_the_landmarks_are_those_of_the_network_they_were_read_from() -> None:
    with torch.inference_mode():
        landmarks, present, heat_maps = load_landmarks()(batch(LANDMARK_SIZE))
    assert landmarks.shape == (5, 39, 5)
    in_picture = [0, 1, 3, 4]  # pixels and logits
    assert landmarks[..., in_picture].numpy() == pytest.approx(RECORDED["landmarks"][..., in_picture], abs=1e-3)
    assert landmarks[..., 2].numpy() == pytest.approx(RECORDED["landmarks"][..., 2], abs=3e-3)  # depths, of up to 500
    assert present.numpy() == pytest.approx(RECORDED["present"], abs=1e-3)
    assert heat_maps[:, ::8, ::8, ::8].numpy() == pytest.approx(RECORDED["heat_maps"], abs=1e-3)


def person(pose: Pose, index: int = 0) -> Places:
    points = pose.people[index].points
    return {KEYPOINTS[i]: (points[i, 0], points[i, 1]) for i in np.flatnonzero(pose.people[index].visible)}


def near(found: Places, expected: Places, within: float) -> bool:
    return all(name in found and np.hypot(*np.subtract(found[name], expected[name])) < within for name in expected)


def test_the_astronaut_is_found(astronaut: Image.Image) -> None:
    pose = find(astronaut)
    assert pose.size == (256, 256)
    assert len(pose.people) == 1
    assert near(person(pose), SEEN, 10)
    assert "right ankle" not in person(pose)


def test_right_and_left_are_the_person_s_own(astronaut: Image.Image) -> None:
    pose = find(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    swap = {"right": "left", "left": "right"}
    expected = {}
    for name, (x, y) in SEEN.items():
        side, _, part = name.partition(" ")
        expected[f"{swap[side]} {part}" if side in swap else name] = (256 - x, y)
    assert near(person(pose), expected, 10)


@pytest.mark.parametrize(
    ("size", "at", "scale"), [((600, 256), (300, 0), 1), ((256, 300), (0, 44), 1), ((999, 800), (30, 9), 3)]
)
def test_keypoints_are_in_the_picture_s_pixels(
    astronaut: Image.Image, size: tuple[int, int], at: tuple[int, int], scale: int
) -> None:
    larger = Image.new("RGB", size, "gray")
    larger.paste(astronaut.resize((256 * scale, 256 * scale)), at)
    pose = find(larger)
    assert pose.size == size
    expected = {name: (at[0] + scale * x, at[1] + scale * y) for name, (x, y) in FACE.items()}
    assert near(person(pose), expected, 7 * scale)


def test_a_person_who_leans_is_found(astronaut: Image.Image) -> None:
    leaning = astronaut.rotate(25, Image.Resampling.BICUBIC, expand=True, fillcolor="gray")
    middle = np.array(leaning.size) / 2
    turn = np.radians(25)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    expected = {name: (*(middle + matrix @ (np.array(place) - 128)),) for name, place in FACE.items()}
    assert near(person(find(leaning)), expected, 7)


def test_two_people_are_two(astronaut: Image.Image) -> None:
    both = Image.new("RGB", (512, 256))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (256, 0))
    pose = find(both)
    assert len(pose.people) == 2
    noses = sorted(person(pose, i)["nose"][0] for i in range(2))
    assert noses == pytest.approx([111, 512 - 111], abs=8)


def test_nobody_is_in_grey_or_noise() -> None:
    assert find(Image.new("L", (300, 200), 128)) == Pose((), 300, 200)
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert find(Image.fromarray(noise)) == Pose((), 300, 200)
    assert find(Image.new("RGB", (9, 400))).people == ()


def test_a_square_is_upright_around_the_person(astronaut: Image.Image) -> None:
    ((middle, up),) = find_squares(astronaut)
    assert up[1] < -100
    assert abs(up[0]) < 0.3 * abs(up[1])
    assert middle[1] > SEEN["neck"][1]


def test_overlapping_candidates_become_their_weighted_mean() -> None:
    def candidate(x: float) -> list[list[float]]:
        return [[x, 50], [20, 20], [x, 90], [x, 10], [0, 0], [0, 0]]

    numbers = np.array([candidate(100), candidate(50), candidate(52), candidate(59)])
    found = merge(numbers, np.array([0.6, 0.5, 0.9, 0.7]))
    # 52 is the best; 50 and 59 overlap with it by more than 0.3 of the union; 100 stays by itself.
    assert found[:, 0, 0] == pytest.approx([(50 * 0.5 + 52 * 0.9 + 59 * 0.7) / 2.1, 100])
    assert found[:, 2] == pytest.approx(np.array([[found[0, 0, 0], 90], [100, 90]]))
    assert merge(np.zeros((0, 6, 2)), np.zeros(0)).shape == (0, 6, 2)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_crop_shows_the_turned_square(turn: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (LANDMARK_SIZE, LANDMARK_SIZE, 3), dtype=np.uint8)
    picture = Image.new("RGB", (400, 500))
    picture.paste(Image.fromarray(np.rot90(pixels, -turn).copy()), (70, 90))  # turned clockwise
    half = LANDMARK_SIZE / 2
    up = half * np.array([(0, -1), (1, 0), (0, 1), (-1, 0)][turn])
    shown = crop(picture, np.array([(70 + half, 90 + half), up]))
    assert shown.permute(1, 2, 0).numpy() == pytest.approx(pixels / 255, abs=1e-3)


def test_outside_the_picture_its_edge_goes_on() -> None:
    picture = Image.new("RGB", (40, 40), "red")
    shown = crop(picture, np.array([(20.0, 20.0), (0.0, -100.0)]))
    assert shown[0].min() == 1
    assert shown[1:].max() == 0


def test_heat_maps_move_landmarks_only_nearby() -> None:
    maps = torch.full((1, 39, 64, 64), -30.0).double()
    maps[0, 0, 12, 22] = maps[0, 0, 12, 23] = 5.0  # two cells from the first landmark
    maps[0, 1, 40, 40] = 5.0  # far from the second
    maps[0, 2, 10, 20] = -1.0  # below one half
    places = torch.full((1, 39, 2), 0.5).double()
    places[0, :3] = torch.tensor([20.5 / 64, 10.5 / 64])
    moved = refine(places, maps)
    assert moved[0, 0].tolist() == pytest.approx([22.5 / 64, 12 / 64])
    assert torch.equal(moved[0, 1:], places[0, 1:])


def test_one_person_in_two_squares_is_one(astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    squares = find_squares(astronaut)
    monkeypatch.setattr(blazepose, "find_squares", lambda _image: np.concatenate([squares, squares + 3]))
    assert len(find(astronaut).people) == 1


def test_after_the_surest_person_the_picture_is_looked_at_again(
    astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Image.Image] = []

    def squares_of(image: Image.Image) -> np.ndarray:
        looks.append(image.copy())
        return find_squares(image)[:1]  # of several people, only the surest is seen at a time

    both = Image.new("RGB", (512, 256))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (256, 0))
    monkeypatch.setattr(blazepose, "find_squares", squares_of)
    noses = sorted(person(find(both), i)["nose"][0] for i in range(2))
    assert noses == pytest.approx([111, 512 - 111], abs=8)
    assert len(looks) == 3 * 2
    assert looks[0] == both
    covered = np.asarray(looks[2])
    assert covered[65, 111].tolist() == covered[65, 512 - 111].tolist() == [128, 128, 128]

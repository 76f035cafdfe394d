"""The detector `blazepose`: people in photographs, found in two steps by two small networks.

The first network (see ``networks``) looks at the whole picture, made small, and says for each of 2254 places how likely
a face is there, where the middle of its person's hips is, and how far from there, and in which direction, a circle
around the whole person reaches. The second looks at the square around that circle, turned so that the person stands
upright, and gives 33 landmarks, of which 17 are among OpenPose's 18 keypoints; the neck is the shoulders' middle.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from segue.pictures.images import placement
from segue.pose.blazepose.networks import BOX_SIZE, LANDMARK_SIZE, load_detector, load_landmarks
from segue.pose.found import keep_sure
from segue.pose.keypoints import NECK, Person, Pose

__all__ = ["crop", "find", "find_squares", "merge", "refine"]

MOST_PEOPLE = 16
_SURE = 0.5  # least score of a place, and least probability that its square shows a person
_THRESHOLD, _LEAST_KEYPOINTS = 0.3, 6
_OVERLAP = 0.3  # of two faces' boxes, from which on they are one
_MARGIN = 1.25  # of the square around a person
_NEAR = 0.15  # of a person's longer side: people whose keypoints lie nearer to each other on average are one
_LOOKS, _COVER = 8, 0.12  # most looks at a picture; margin of what is covered for the next, of a person's longer side

# BlazePose's landmark for each of the 18 keypoints; the neck is the mean of the shoulders, 11 and 12.
_LANDMARKS = (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
_SHOULDERS = [11, 12]


def find(image: Image.Image) -> Pose:
    """Find the people in a picture.

    The first network was made for one person and misses most others beside a sure one. So those who are found are
    covered with grey and it looks again, until nobody more is found.
    """
    image = image.convert("RGB")
    uncovered, pose = image.copy(), Pose((), *image.size)
    for _ in range(_LOOKS):
        more = [person for person in _people(image, find_squares(uncovered)) if not _is_among(person, pose)]
        if not more:
            break
        pose = Pose((*pose.people, *more), *image.size)
        for person in more:
            left, top, right, bottom = person.box
            margin = _COVER * max(right - left, bottom - top)
            box = (left - margin, top - 2 * margin, right + margin, bottom + margin)  # a head ends above its keypoints
            ImageDraw.Draw(uncovered).rectangle(box, fill="gray")
    return pose


def _people(image: Image.Image, squares: NDArray[np.float64]) -> tuple[Person, ...]:
    """The people in some squares of a picture."""
    if not len(squares):
        return ()
    crops = torch.stack([crop(image, square) for square in squares])
    with torch.inference_mode():
        landmarks, present, heat_maps = _networks()[1](crops)
    places = refine(landmarks[..., :2].double() / LANDMARK_SIZE, heat_maps.double()).numpy()
    scores = landmarks[..., 3:].double().sigmoid().prod(dim=2).numpy()
    shown = present.numpy() >= _SURE
    pose = Pose((), *image.size)
    for square, inside, score in zip(squares[shown], places[shown], scores[shown], strict=True):
        points, confidences = _keypoints(_map_to_picture(inside, square), score)
        found = keep_sure(points[None], confidences[None], image.size, _THRESHOLD, _LEAST_KEYPOINTS).people
        pose = Pose((*pose.people, *(person for person in found if not _is_among(person, pose))), *image.size)
    return pose.people


def _is_among(person: Person, pose: Pose) -> bool:
    """Whether somebody in a pose has nearly the same keypoints."""
    for other in pose.people:
        shared = person.visible & other.visible
        left, top, right, bottom = other.box
        apart = np.hypot(*(person.points[shared, :2] - other.points[shared, :2]).T)
        if shared.any() and apart.mean() <= _NEAR * max(right - left, bottom - top):
            return True
    return False


def find_squares(image: Image.Image) -> NDArray[np.float64]:
    """The squares around the people in a picture, the surest first.

    Returns:
        (N, 2, 2): x and y of a square's middle, and the way from there to the middle of its upper side, in pixels.
    """
    place = placement(image.size, (BOX_SIZE, BOX_SIZE), "contain")
    small = Image.new("RGB", (BOX_SIZE, BOX_SIZE))
    width, height = (max(1, round(scale * side)) for scale, side in zip(place.scale, image.size, strict=True))
    resized = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    small.paste(resized, (int(place.offset[0]), int(place.offset[1])))
    with torch.inference_mode():
        logits, boxes = _networks()[0](_as_tensor(small)[None] * 2 - 1)
    scores = logits[0].double().sigmoid().numpy()
    found = scores >= _SURE
    numbers = boxes[0].double().numpy()[found].reshape(-1, 6, 2)
    numbers[:, [0, 2, 3, 4, 5]] += _cells()[found][:, None]
    points = (merge(numbers, scores[found])[:MOST_PEOPLE, 2:4] - place.offset) / place.scale
    return np.stack([points[:, 0], _MARGIN * (points[:, 1] - points[:, 0])], axis=1)


def merge(numbers: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """One mean, weighted by the scores, of all candidates whose faces overlap with that of a better one.

    Args:
        numbers: (N, 6, 2), a box's middle, its size, and four points.
        scores: (N,).

    Returns:
        (M, 6, 2), the best first.
    """
    order = np.argsort(-scores, kind="stable")
    numbers, scores = numbers[order], scores[order]
    kept = []
    while len(numbers):
        low, high = numbers[:, 0] - numbers[:, 1] / 2, numbers[:, 0] + numbers[:, 1] / 2
        common = (np.minimum(high, high[0]) - np.maximum(low, low[0])).clip(min=0).prod(axis=1)
        areas = (high - low).clip(min=0).prod(axis=1)
        same = common > _OVERLAP * (areas + areas[0] - common)
        same[0] = True
        kept.append(np.average(numbers[same], axis=0, weights=scores[same]))
        numbers, scores = numbers[~same], scores[~same]
    return np.array(kept).reshape(-1, 6, 2)


def crop(image: Image.Image, square: NDArray[np.float64]) -> Tensor:
    """What a turned square shows, upright, (3, 256, 256) in [0, 1]; outside the picture its edge goes on."""
    size = 2 * float(np.hypot(*square[1]))
    smaller = max(1, int(size / LANDMARK_SIZE))
    picture = _as_tensor(image.reduce(smaller) if smaller > 1 else image)
    centres = (torch.arange(LANDMARK_SIZE, dtype=torch.float64) + 0.5) / LANDMARK_SIZE
    inside = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).numpy()
    places = torch.from_numpy(_map_to_picture(inside, square) / image.size * 2 - 1).float()
    return F.grid_sample(picture[None], places[None], padding_mode="border", align_corners=False)[0]


def refine(places: Tensor, heat_maps: Tensor) -> Tensor:
    """Landmarks, each moved to the middle of what its heat map shows within 3 cells of it.

    Args:
        places: (B, 39, 2), x and y from 0 to 1.
        heat_maps: (B, 39, H, W), logits; one that is nowhere near above 1/2 moves nothing.
    """
    height, width = heat_maps.shape[2:]
    cells = (places * torch.tensor([width, height])).floor()
    columns, rows = (torch.arange(side, dtype=places.dtype) for side in (width, height))
    near = ((columns - cells[..., :1]).abs() <= 3)[..., None, :] & ((rows - cells[..., 1:]).abs() <= 3)[..., None]
    weights = heat_maps.sigmoid() * near
    total = weights.sum(dim=(2, 3)).clamp(min=1e-9)
    x, y = (weights.sum(dim=2) * columns).sum(dim=2) / width, (weights.sum(dim=3) * rows).sum(dim=2) / height
    fine = torch.stack([x, y], dim=2) / total[..., None]
    return torch.where((weights.amax(dim=(2, 3)) >= 0.5)[..., None], fine, places)


def _map_to_picture(inside: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places in a square, (..., 2) from 0 to 1, as pixels of the picture."""
    middle, up = square[0], square[1]
    right = np.array([-up[1], up[0]])
    return np.asarray(middle + (2 * inside[..., :1] - 1) * right - (2 * inside[..., 1:] - 1) * up)


def _keypoints(
    places: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 18 keypoints, (18, 2), and their confidences; the neck has the lower one of the shoulders."""
    points, confidences = places[list(_LANDMARKS)], scores[list(_LANDMARKS)]
    points[NECK], confidences[NECK] = places[_SHOULDERS].mean(axis=0), scores[_SHOULDERS].min()
    return points, confidences


@cache
def _cells() -> NDArray[np.float64]:
    """The middles of the candidates' cells, (2254, 2), in pixels of the small picture."""
    grids = []
    for cell, candidates in ((8, 2), (16, 2), (32, 6)):
        middles = np.arange(cell / 2, BOX_SIZE, cell)
        grid = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
        grids.append(np.repeat(grid, candidates, axis=0))
    return np.concatenate(grids)


@cache
def _networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    return load_detector(), load_landmarks()


def _as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)

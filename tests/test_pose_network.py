import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from segue.errors import SegueError
from segue.pose.detect import network_detector
from segue.pose.drawing import draw
from segue.pose.keypoints import Person, Pose
from segue.pose.network import KeypointNetwork, heat_maps, load, peaks, save

# A person in a 128 x 128 picture; the left ear is not there.
PLACES = np.array(
    [
        (64, 20), (64, 36), (50, 36), (44, 54), (40, 70), (78, 36), (84, 54), (88, 70), (56, 72),
        (54, 94), (53, 116), (72, 72), (74, 94), (75, 116), (61, 17), (67, 17), (57, 18), (0, 0),
    ],
    dtype=float,
)  # fmt: skip
PERSON = Person(np.column_stack([PLACES, [*([1.0] * 17), 0.0]]))


def small_network() -> KeypointNetwork:
    torch.manual_seed(0)
    return KeypointNetwork(widths=(16, 8, 8))


class Certain(KeypointNetwork):
    """A network that sees the same keypoints in every picture: its logits are those of their heat maps."""

    def __init__(self, points: Tensor, **settings: float) -> None:
        super().__init__(widths=(16, 8, 8), **settings)  # type: ignore[arg-type]
        self.points = points

    def forward(self, pictures: Tensor) -> Tensor:
        return logits_of(self.points)[None].expand(len(pictures), -1, -1, -1)


def logits_of(points: Tensor) -> Tensor:
    return torch.logit(heat_maps(points[None])[0].clamp(1e-7, 1 - 1e-7))


def test_the_default_network_has_a_million_parameters() -> None:
    count = sum(parameter.numel() for parameter in KeypointNetwork().parameters())
    assert 1_000_000 < count < 1_500_000


def test_maps_are_gaussians_around_the_keypoints() -> None:
    points = torch.zeros(2, 18, 3)
    points[1, 4] = torch.tensor([42.0, 22.0, 0.3])  # the middle of cell (row 5, column 10)
    maps = heat_maps(points, spread=2.0)
    assert maps.shape == (2, 18, 32, 32)
    assert maps[0].abs().max() == 0
    assert maps[1, 4, 5, 10] == 1
    assert maps[1, 4, 5, 12] == pytest.approx(np.exp(-0.5))
    assert maps[1, 4, 8, 14] == pytest.approx(np.exp(-25 / 8))
    assert maps[1].sum() == maps[1, 4].sum()


def test_peaks_find_what_maps_were_made_of_to_a_thousandth_of_a_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 4 + 120 * torch.rand(3, 18, 3, generator=generator)
    found = peaks(torch.logit(heat_maps(points).clamp(1e-7, 1 - 1e-7)))
    assert (found[..., :2] - points[..., :2]).abs().max() < 1e-3
    assert ((found[..., 2] > 0.85) & (found[..., 2] <= 1)).all()


def test_peaks_in_corners_and_on_plateaus_are_cells() -> None:
    logits = torch.full((1, 18, 32, 32), -5.0)
    logits[0, 0, 31, 0] = 2.0
    logits[0, 1, 0, 31] = 3.0
    found = peaks(logits)
    assert found[0, 0].tolist() == pytest.approx([2, 126, torch.sigmoid(torch.tensor(2.0)).item()])
    assert found[0, 1, :2].tolist() == [126, 2]
    assert torch.isfinite(found).all()
    assert found[0, 2, 2] < 0.01


def test_the_network_s_output_does_not_depend_on_the_batch() -> None:
    network = small_network()
    pictures = torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together = network(pictures)
        alone = torch.cat([network(picture[None]) for picture in pictures])
    assert together.shape == (3, 18, 32, 32)
    assert together.std() > 0.01
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_trained_network_finds_the_figure_wherever_it_is(tmp_path: Path) -> None:
    network = small_network()
    shifts = [(-24, -6), (-8, 4), (8, -4), (24, 6)]
    points = np.stack([PERSON.points + (np.array([*shift, 0]) * PERSON.visible[:, None]) for shift in shifts])
    drawn = [np.asarray(draw(Pose((Person(one),), 128, 128))) for one in points]
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1
    targets = heat_maps(torch.from_numpy(points).float())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(70):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(pictures), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    save(network, tmp_path / "pose")
    pose = network_detector(load(tmp_path / "pose"))(Image.fromarray(drawn[1]))
    assert len(pose.people) == 1
    there = pose.people[0].visible
    assert there.sum() >= 14
    assert not there[17]
    assert np.abs(pose.people[0].points[there, :2] - points[1][there, :2]).max() < 4


@pytest.mark.parametrize("size", [(128, 128), (400, 200), (33, 96)])
def test_keypoints_come_back_in_the_picture_s_pixels(size: tuple[int, int]) -> None:
    pose = network_detector(Certain(torch.tensor(PERSON.points).float()))(Image.new("RGB", size))
    scale = max(size) / 128  # the picture lies in the middle of the network's square
    expected = (PLACES - 64) * scale + np.array(size) / 2
    inside = PERSON.visible & ((expected >= 0) & (expected <= size)).all(axis=1)
    assert pose.size == size
    assert (pose.people[0].visible == inside).all()
    assert np.abs(pose.people[0].points[inside, :2] - expected[inside]).max() < 0.01 * scale
    assert inside.sum() < 17 or size == (128, 128)


def test_a_picture_is_not_stretched() -> None:
    seen = []

    class Watching(Certain):
        def forward(self, pictures: Tensor) -> Tensor:
            seen.append(pictures)
            return super().forward(pictures)

    picture = Image.new("L", (64, 32), 0)
    picture.paste(255, (0, 0, 64, 16))
    network_detector(Watching(torch.zeros(18, 3)))(picture)
    (square,) = seen
    assert square.shape == (1, 3, 128, 128)
    assert square[0, :, 40, 64].tolist() == [1, 1, 1]
    assert square[0, :, 88, 64].tolist() == [-1, -1, -1]
    assert square[0, 0, 5, 64] == 1  # the edge goes on
    assert square[0, 0, 120, 64] == -1


def test_too_few_keypoints_are_nobody() -> None:
    points = torch.tensor(PERSON.points).float()
    points[6:] = 0
    assert len(network_detector(Certain(points))(Image.new("RGB", (128, 128))).people) == 1
    assert network_detector(Certain(points, least_keypoints=7))(Image.new("RGB", (128, 128))).people == ()
    assert network_detector(Certain(points, threshold=0.9999))(Image.new("RGB", (128, 128))).people == ()
    assert network_detector(Certain(torch.zeros(18, 3)))(Image.new("RGB", (128, 128))).people == ()


def test_a_saved_network_is_the_same_network(tmp_path: Path) -> None:
    network = KeypointNetwork(widths=(16, 8, 8), threshold=0.4, least_keypoints=5)
    save(network, tmp_path / "a" / "pose")
    again = load(tmp_path / "a" / "pose")
    pictures = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(pictures), network(pictures))
    assert (again.threshold, again.least_keypoints, again.training) == (0.4, 5, False)
    assert sorted(path.name for path in (tmp_path / "a" / "pose").iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_weights_are_loaded_in_single(tmp_path: Path) -> None:
    save(small_network().half(), tmp_path)
    assert load_file(tmp_path / "model.safetensors")["stem.0.weight"].dtype == torch.float16
    assert next(load(tmp_path).parameters()).dtype == torch.float32


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="has no keypoint network"):
        load(tmp_path)
    save(small_network(), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"widths": [8, 8, 8]}))
    with pytest.raises(SegueError, match="does not hold a keypoint network") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({"depth": 3}))
    with pytest.raises(SegueError, match="does not hold a keypoint network"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(SegueError, match="does not hold a keypoint network"):
        load(tmp_path)
    save(small_network(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(SegueError, match="does not hold a keypoint network"):
        load(tmp_path)
    save_file({"stem.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(SegueError, match="does not hold a keypoint network"):
        load(tmp_path)

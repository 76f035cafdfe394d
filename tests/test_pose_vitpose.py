import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError
from segue.pose.detect import detector_of
from segue.pose.keypoints import KEYPOINTS
from segue.pose.vitpose import from_coco, load, with_networks

COCO = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip


def box_parts(person_logit: float) -> tuple[Any, Any]:
    """A random RT-DETR of 50 thousand parameters with five boxes, each a person and a cat with a bias."""
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[8, 8, 8],
        decoder_in_channels=[16, 16, 16],
        encoder_hidden_dim=16,
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_queries=5,
        num_denoising=0,
        id2label={0: "cat", 1: "person"},
        label2id={"cat": 0, "person": 1},
    )
    network = transformers.RTDetrForObjectDetection(config).eval()
    with torch.no_grad():
        head = network.model.decoder.class_embed[0]
        head.weight.zero_()
        head.bias.copy_(torch.tensor([-person_logit, person_logit]))
    return transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64}), network


def pose_parts(height: float = 0.8) -> tuple[Any, Any]:
    """A random ViTPose whose heat maps lie around a height."""
    torch.manual_seed(1)
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[32, 24],
        patch_size=[8, 8],
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=1,
        out_indices=[1],
    )
    network = transformers.VitPoseForPoseEstimation(
        transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    ).eval()
    with torch.no_grad():
        network.head.conv.bias.fill_(height)
    return transformers.VitPoseImageProcessorPil(size={"height": 32, "width": 24}), network


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def test_joints_become_keypoints_by_their_names() -> None:
    rng = np.random.default_rng(0)
    joints, scores = rng.uniform(size=(2, 17, 2)), rng.uniform(size=(2, 17))
    points, confidences = from_coco(joints, scores)
    assert points.shape == (2, 18, 2)
    for i, name in enumerate(KEYPOINTS):
        if name != "neck":
            assert (points[:, i] == joints[:, COCO.index(name)]).all()
            assert (confidences[:, i] == scores[:, COCO.index(name)]).all()
    left, right = COCO.index("left shoulder"), COCO.index("right shoulder")
    assert points[:, 1] == pytest.approx((joints[:, left] + joints[:, right]) / 2)
    assert (confidences[:, 1] == np.minimum(scores[:, left], scores[:, right])).all()


def expected(parts: tuple[Any, Any, Any, Any], image: Image.Image) -> list[NDArray[np.float64]]:
    """The (17, 3) joints of every box, by transformers' own two steps."""
    box_processor, box_network, processor, network = parts
    with torch.no_grad():
        outputs = box_network(**box_processor(images=[image], return_tensors="pt"))
        found = box_processor.post_process_object_detection(outputs, 0.5, [(image.height, image.width)])[0]
        people = [box.tolist() for box, label in zip(found["boxes"], found["labels"], strict=True) if label == 1]
        boxes = [[left, top, right - left, bottom - top] for left, top, right, bottom in people]
        inputs = processor([image], boxes=[boxes], return_tensors="pt")
        results = processor.post_process_pose_estimation(network(**inputs), boxes=[boxes])[0]
    return [torch.cat([r["keypoints"], r["scores"][:, None]], dim=1).double().numpy() for r in results]


def test_real_networks_find_people_in_their_boxes() -> None:
    parts = (*box_parts(person_logit=3.0), *pose_parts())
    pose = with_networks(*parts)(picture())
    joints = expected(parts, picture())
    assert pose.size == (90, 60)
    assert len(pose.people) == len(joints) == 5
    compared = 0
    for person, one in zip(pose.people, joints, strict=True):
        for name, (x, y, score) in zip(COCO, one, strict=True):
            got = person.points[KEYPOINTS.index(name)]
            if 0 <= x <= 90 and 0 <= y <= 60:
                assert got == pytest.approx([x, y, min(score, 1)], abs=1e-3)
                compared += 1
            else:
                assert got.tolist() == [0, 0, 0]
    assert compared > 40


def test_cats_are_nobody() -> None:
    pose = with_networks(*box_parts(person_logit=-3.0), *pose_parts())(picture())
    assert pose.people == ()
    assert pose.size == (90, 60)


def test_unsure_keypoints_are_nobody() -> None:
    assert with_networks(*box_parts(person_logit=3.0), *pose_parts(height=-1.0))(picture()).people == ()


def test_a_picture_of_any_mode_is_read() -> None:
    detect = with_networks(*box_parts(person_logit=3.0), *pose_parts())
    assert detect(picture().convert("L")) == detect(picture().convert("L").convert("RGB"))


def test_checkpoints_are_read_from_folders(tmp_path: Path) -> None:
    parts = (*box_parts(person_logit=3.0), *pose_parts())
    for part, folder in zip(parts, ("boxes", "boxes", "pose", "pose"), strict=True):
        part.save_pretrained(tmp_path / folder)
    detect = load(download=False, boxes=str(tmp_path / "boxes"), keypoints=str(tmp_path / "pose"))
    assert detect(picture()) == with_networks(*parts)(picture())
    (tmp_path / "pose" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(SegueError, match="segue pose PICTURE --detector vitpose --download"):
        load(download=False, boxes=str(tmp_path / "boxes"), keypoints=str(tmp_path / "pose"))


def test_missing_weights_name_the_command() -> None:
    with pytest.raises(SegueError, match="segue pose PICTURE --detector vitpose --download") as caught:
        load(download=False, boxes="nobody/no-boxes", keypoints="nobody/no-pose")
    assert "\n" not in str(caught.value)


def test_a_failed_download_is_one_line() -> None:
    with pytest.raises(SegueError, match="could not be fetched: ") as caught:
        load(download=True, boxes="nobody/no-boxes", keypoints="nobody/no-pose")
    assert "\n" not in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(SegueError, match=r"pip install 'segue\[pose\]'"):
        detector_of("vitpose")

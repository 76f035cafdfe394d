"""The networks against independent computations, and weights out of .pth files without running code."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import save_tiny_clip

from segue.errors import SegueError
from segue.models.clip import Clip
from segue.models.features import inception, lpips
from segue.models.features.distances import path_of_features
from segue.models.features.networks import convert, load_network

DATA = Path(__file__).parent / "data"


def pictures(count: int, size: int = 40, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


# Inception.


def inception_weights() -> dict[str, torch.Tensor]:
    """Random weights in the network's real shapes, the same on every machine."""
    rng, found = np.random.default_rng(0), {}
    shapes = json.loads((DATA / "inception-convolutions.json").read_text())
    for name in sorted(shapes):
        shape = shapes[name]
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        found[f"{name}.conv.weight"] = rng.standard_normal(shape, dtype=np.float32) * scale
        for part in ("running_mean", "bias"):
            found[f"{name}.bn.{part}"] = rng.standard_normal(shape[0], dtype=np.float32) * np.float32(0.1)
        for part in ("running_var", "weight"):
            found[f"{name}.bn.{part}"] = rng.random(shape[0], dtype=np.float32) + np.float32(0.5)
    return {name: torch.from_numpy(value) for name, value in found.items()}


def test_inception_is_torch_fidelitys() -> None:
    """The numbers are those of torch-fidelity 0.4.0's network with these weights, on this picture of 299 x 299."""
    weights = inception_weights()
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 3, 299, 299), dtype=np.uint8)).float()
    with torch.no_grad():
        features = inception.features(weights, (image - 128) / 256 + 0.5)[0]
    first = [1.6211137771606445, 3.7244699001312256, 20.478857040405273, 0.0, 0.3576173782348633, 0.24439644813537598]
    last = [0.16075387597084045, 0.14926350116729736, 7.833276748657227]
    assert features.shape == (2048,)
    assert features[:6].tolist() == pytest.approx(first, rel=1e-3)
    assert features[-3:].tolist() == pytest.approx(last, rel=1e-3)
    assert features.mean().item() == pytest.approx(4.71628999710083, rel=1e-4)
    assert features.norm().item() == pytest.approx(372.105712890625, rel=1e-4)


def test_inception_file_of_something_else(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(SegueError, match="does not hold Inception-v3"):
        load_network(f"inception:{tmp_path / 'x.safetensors'}")
    with pytest.raises(SegueError, match=r"inception:FILE.safetensors"):
        load_network("inception")
    with pytest.raises(SegueError, match="--convert"):
        load_network(f"inception:{tmp_path / 'x.pth'}")


# LPIPS.


def lpips_weights(alex: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if alex:
        layers = {0: (4, 3, 11), 3: (6, 4, 5), 6: (6, 6, 3), 8: (5, 6, 3), 10: (5, 5, 3)}
        outputs = (4, 6, 6, 5, 5)
    else:
        widths = {0: 4, 2: 4, 5: 5, 7: 5, 10: 6, 12: 6, 14: 6, 17: 7, 19: 7, 21: 7, 24: 7, 26: 7, 28: 7}
        layers = {n: (w, i, 3) for (n, w), i in zip(widths.items(), [3, *widths.values()], strict=False)}
        outputs = (4, 5, 6, 7, 7)
    found = {}
    for number, (wide, deep, side) in layers.items():
        found[f"features.{number}.weight"] = torch.randn(wide, deep, side, side, generator=generator) / side
        found[f"features.{number}.bias"] = torch.randn(wide, generator=generator) * 0.1
    for i, wide in enumerate(outputs):
        found[f"lin{i}.model.1.weight"] = torch.rand(1, wide, 1, 1, generator=generator)
    return found


def lpips_by_modules(weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    """LPIPS with torch.nn's layers in torchvision's numbering, and the distance in plain numpy."""
    alex = weights["features.0.weight"].shape[-1] == 11
    if alex:
        strides, pads, pools, reads = {0: 4}, {0: 2, 3: 2}, {2, 5}, (1, 4, 7, 9, 11)
        layers = 12
    else:
        strides, pads, pools, reads = {}, {}, {4, 9, 16, 23}, (3, 8, 15, 22, 29)
        layers = 30
    modules: list[torch.nn.Module] = []
    for n in range(layers):
        if f"features.{n}.weight" in weights:
            kernel = weights[f"features.{n}.weight"]
            layer = torch.nn.Conv2d(
                kernel.shape[1], kernel.shape[0], kernel.shape[2], strides.get(n, 1), pads.get(n, 1)
            )
            layer.load_state_dict({"weight": kernel, "bias": weights[f"features.{n}.bias"]})
            modules.append(layer)
        elif n in pools:
            modules.append(torch.nn.MaxPool2d(3 if alex else 2, 2))
        else:
            modules.append(torch.nn.ReLU())
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    read: list[list[Any]] = []
    for image in (x, y):
        z = torch.from_numpy((image.numpy() * 2 - 1 - shift[:, None, None]) / scale[:, None, None]).float()[None]
        outs = []
        for n, module in enumerate(modules):
            z = module(z)
            if n in reads:
                outs.append(z[0].detach().numpy().astype(np.float64))
        read.append(outs)
    total = 0.0
    for i, (u, v) in enumerate(zip(*read, strict=True)):
        unit = [a / (np.sqrt((a * a).sum(0)) + 1e-10) for a in (u, v)]
        weight = weights[f"lin{i}.model.1.weight"].numpy().reshape(-1, 1, 1)
        total += float((weight * (unit[0] - unit[1]) ** 2).sum(0).mean())
    return total


@pytest.mark.parametrize("alex", [True, False])
def test_lpips_by_modules(tmp_path: Path, alex: bool) -> None:
    weights = lpips_weights(alex)
    save_file(weights, tmp_path / "w.safetensors")
    frames = pictures(4, size=64)
    path = load_network(f"lpips:{tmp_path / 'w.safetensors'}").path(frames)
    tensors = [torch.from_numpy(np.asarray(f, dtype=np.float32) / 255).permute(2, 0, 1) for f in frames]

    def d(i: int, j: int) -> float:
        return lpips_by_modules(weights, tensors[i], tensors[j])

    assert path.steps.tolist() == pytest.approx([d(0, 1), d(1, 2), d(2, 3)], rel=1e-4)
    assert path.to_first.tolist() == pytest.approx([0, d(0, 1), d(0, 2), d(0, 3)], rel=1e-4, abs=1e-7)
    assert path.to_last.tolist() == pytest.approx([d(0, 3), d(1, 3), d(2, 3), 0], rel=1e-4, abs=1e-7)


def test_lpips_file_of_something_else(tmp_path: Path) -> None:
    weights = lpips_weights(alex=True)
    del weights["lin4.model.1.weight"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(SegueError, match="does not hold LPIPS"):
        load_network(f"lpips:{tmp_path / 'w.safetensors'}")
    save_file(lpips_weights(alex=True), tmp_path / "w.safetensors")
    with pytest.raises(SegueError, match="31 pixels or more, not 16 x 16"):
        load_network(f"lpips:{tmp_path / 'w.safetensors'}").path(pictures(3, size=16))
    assert lpips.activations(lpips_weights(alex=True), torch.zeros(1, 3, 31, 31))[-1].shape[-1] == 1


# CLIP, DINOv2, pixels.


def test_clip(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    network = load_network(f"clip:{folder}")
    frames = pictures(3)
    assert network.features is not None
    assert network.texts is not None
    features, texts = network.features(frames), network.texts(["a cat", ""])
    unit = Clip.load(str(folder)).images(frames).numpy()
    assert features == pytest.approx(unit * 4, rel=1e-5)  # 16 dimensions: length 4
    assert (features**2).mean(1) == pytest.approx([1, 1, 1], rel=1e-5)
    assert texts.shape == (2, 16)
    assert network.path(frames).steps == pytest.approx(path_of_features(features).steps)


def test_nothing_depends_on_what_else_is_measured(tmp_path: Path) -> None:
    frames = pictures(5)
    for network in (load_network("pixels"), load_network(f"clip:{save_tiny_clip(tmp_path / 'clip')}")):
        assert network.features is not None
        together = network.features(frames)
        alone = np.concatenate([network.features([frame]) for frame in frames])
        assert np.array_equal(together, alone)


def save_tiny_dinov2(folder: Path) -> Path:
    """Save a DINOv2 with 24 dimensions that sees 28 x 28 pixels; returns the folder."""
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Dinov2Model(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    transformers.BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)
    return folder


def test_dinov2(tmp_path: Path) -> None:
    model = transformers.Dinov2Model.from_pretrained(save_tiny_dinov2(tmp_path)).eval()
    processor = transformers.BitImageProcessorPil.from_pretrained(tmp_path)
    network = load_network(f"dinov2:{tmp_path}")
    frames = pictures(2)
    pixels = processor(images=frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0].numpy()
    assert network.features is not None
    assert network.features(frames) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert network.texts is None


def test_pixels() -> None:
    network = load_network("pixels")
    assert network.features is not None
    white, black = (network.features([Image.new("RGB", (64, 48), c)])[0] for c in ("white", "black"))
    assert white.shape == (768,)
    assert np.linalg.norm(white - black) == pytest.approx(np.sqrt(768))


def test_fingerprints_follow_the_weights(tmp_path: Path) -> None:
    first, again, other = (
        load_network(f"clip:{save_tiny_clip(tmp_path / n, s)}") for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_unknown_networks() -> None:
    for name in ("vgg", "clip:", "pixels:3"):
        with pytest.raises(SegueError, match="unknown feature network"):
            load_network(name)


# Weights out of .pth files.

STATE = {
    "features.0.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 2),
    "half": torch.tensor([1.5, -2], dtype=torch.float16),
    "brain": torch.tensor([[3.0]], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "classifier.1.weight": torch.ones(2),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_convert(tmp_path: Path, zipped: bool, wrap: Callable[[Any], Any]) -> None:
    whole = torch.arange(10.0)
    state = {**STATE, "whole": whole, "part": whole[4:7], "own": torch.nn.Parameter(torch.ones(2), False)}
    torch.save(wrap({n: t for n, t in state.items() if n != "half"}), tmp_path / "a.pth")
    torch.save({"half": STATE["half"]}, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
    output = tmp_path / "w.safetensors"
    assert convert([tmp_path / "a.pth", tmp_path / "b.pth"], output) == 8  # without the classifier
    found = load_file(output)
    assert found.keys() == state.keys() - {"classifier.1.weight"}
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in found)
    with pytest.raises(SegueError, match="another of the files holds too"):
        convert([tmp_path / "b.pth", tmp_path / "b.pth"], output)
    with pytest.raises(SegueError, match=r".safetensors file"):
        convert([tmp_path / "b.pth"], tmp_path / "w.pth")


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    torch.save({"x": torch.zeros(2), "y": Attack(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SegueError, match=r"w\.pth is not a .*; nothing was run$"):
        convert([path], tmp_path / "w.safetensors")
    assert not marker.exists()


def test_damaged_pth_files(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"x": torch.zeros(50)}, path)
    cut = path.read_bytes()[:-400]
    torch.save([torch.zeros(2)], path)
    lists = path.read_bytes()
    for content in (b"", b"hello", pickle.dumps({"a": "b"}, protocol=0), cut, lists):
        path.write_bytes(content)
        with pytest.raises(SegueError, match=str(path)) as caught:
            convert([path], tmp_path / "w.safetensors")
        assert "\n" not in str(caught.value)
    with pytest.raises(SegueError, match="cannot be read"):
        convert([tmp_path / "none.pth"], tmp_path / "w.safetensors")


def test_lpips_by_way_of_pth_files(tmp_path: Path) -> None:
    weights = lpips_weights(alex=True)
    torch.save({n: t for n, t in weights.items() if n.startswith("features")}, tmp_path / "net.pth")
    torch.save({n: t for n, t in weights.items() if n.startswith("lin")}, tmp_path / "lin.pth")
    convert([tmp_path / "net.pth", tmp_path / "lin.pth"], tmp_path / "lpips.safetensors")
    save_file(weights, tmp_path / "same.safetensors")
    frames = pictures(3, size=48)
    paths = [load_network(f"lpips:{tmp_path / n}.safetensors").path(frames) for n in ("lpips", "same")]
    assert np.array_equal(paths[0].steps, paths[1].steps)

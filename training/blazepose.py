"""BlazePose's weights from mediapipe's wheel as `src/segue/pose/blazepose/*.safetensors`.

Needs `pip install ai-edge-litert` and a folder with `pose_detection.tflite` and `pose_landmark_full.tflite`, which
are in the wheel of mediapipe 0.10.21 below `mediapipe/modules` (`pip download mediapipe==0.10.21 --no-deps`).
With --record, also the answers of those networks that `tests/test_pose_blazepose.py` compares with.
Run: `python -m training.blazepose FOLDER [--record FILE.npz]`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from segue.pose.blazepose import networks
from segue.pose.blazepose.networks import BOX_SIZE, LANDMARK_SIZE, Detector, Landmarks

FILES = {"detector": "pose_detection.tflite", "landmarks": "pose_landmark_full.tflite"}
FOLDER = Path(networks.__file__).parent
PHOTOGRAPH, PHOTOGRAPH_SIZE = Path(__file__).parents[1] / "tests" / "data" / "pose" / "astronaut.png", 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    paths = {name: next(arguments.folder.rglob(file)) for name, file in FILES.items()}
    save_file(weights_of(paths["detector"], Detector(), BOX_SIZE), FOLDER / "detector.safetensors")
    save_file(weights_of(paths["landmarks"], Landmarks(), LANDMARK_SIZE), FOLDER / "landmarks.safetensors")
    if arguments.record:
        np.savez_compressed(arguments.record, allow_pickle=False, **answers(paths))


def weights_of(path: Path, network: nn.Module, size: int) -> dict[str, Tensor]:
    """The weights of a tflite network for a module of torch, in float16, as the file has them.

    A convolution of the module gets the weights of the file's next convolution of its shape, in the order in which
    both are computed. The file's layout is (out, height, width, in), of single channels (1, height, width, out).
    """
    interpreter = _interpreter(path)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros((1, size, size, 3), np.float32))
    interpreter.invoke()  # which unpacks the sparse weights
    waiting = []
    for operation in interpreter._get_ops_details():
        if operation["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight, bias = (torch.from_numpy(interpreter.get_tensor(index).copy()) for index in operation["inputs"][1:])
            single = operation["op_name"] == "DEPTHWISE_CONV_2D"
            waiting.append((weight.permute(3, 0, 1, 2) if single else weight.permute(0, 3, 1, 2), bias))
    weights: dict[str, Tensor] = {}

    def take(name: str, shape: torch.Size) -> None:
        chosen = next(i for i, (weight, _) in enumerate(waiting) if weight.shape == shape)
        for key, tensor in zip(("weight", "bias"), waiting.pop(chosen), strict=True):
            half = tensor.half().contiguous()
            assert torch.equal(half.float(), tensor), "the file holds more than float16"
            weights[f"{name}.{key}"] = half

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, *_, name=name: take(name, module.weight.shape))
    network(torch.zeros(1, 3, size, size))
    return weights


def answers(paths: dict[str, Path]) -> dict[str, NDArray[Any]]:
    """The networks' answers to five pictures, of the detector every 16th candidate, of the maps every 8th cell."""
    recorded: dict[str, NDArray[Any]] = {}
    for name, path in paths.items():
        interpreter = _interpreter(path)
        size = {"detector": BOX_SIZE, "landmarks": LANDMARK_SIZE}[name]
        outputs: list[list[NDArray[Any]]] = []
        for picture in pictures(size):
            pixels = picture * 2 - 1 if name == "detector" else picture
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
            interpreter.invoke()
            outputs.append([interpreter.get_tensor(d["index"])[0] for d in interpreter.get_output_details()])
        stacked = [np.stack(each) for each in zip(*outputs, strict=True)]
        if name == "detector":
            recorded["boxes"], recorded["scores"] = stacked[0][:, ::16], stacked[1][:, ::16, 0]
        else:
            recorded["landmarks"], recorded["present"] = stacked[0].reshape(-1, 39, 5), stacked[1][:, 0]
            recorded["heat_maps"] = stacked[3].transpose(0, 3, 1, 2)[:, ::8, ::8, ::8]
    return recorded


def pictures(size: int) -> list[NDArray[np.float32]]:
    """Five pictures (size, size, 3) in [0, 1]: a photograph, mirrored and dark, upside down, on its side, and noise."""
    edge = (PHOTOGRAPH_SIZE - size) // 2
    with Image.open(PHOTOGRAPH) as opened:
        whole = np.asarray(opened.convert("RGB"), np.float32) / np.float32(255)
    photograph = whole[edge : edge + size, edge : edge + size]
    noise = np.random.default_rng(0).random((size, size, 3), dtype=np.float32)
    changed = [
        photograph,
        photograph[:, ::-1] * np.float32(0.5),
        photograph[::-1],
        photograph.transpose(1, 0, 2),
        noise,
    ]
    return [np.ascontiguousarray(picture, np.float32) for picture in changed]


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # type: ignore[import-not-found]

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the others do not keep unpacked weights
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    return interpreter


if __name__ == "__main__":
    main()

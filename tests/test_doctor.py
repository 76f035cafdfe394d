"""What is wrong with a model is named in one line."""

import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from shapes import picture, tiny_interpolator
from tiny import tiny_pipe, tiny_xl_pipe
from tiny_flow import FAMILIES
from torch import Tensor

from segue.cli.app import run
from segue.engine import doctor
from segue.engine.doctor import (
    Finding,
    check_autoencoder,
    check_film,
    check_network,
    check_pipeline,
    check_weights,
    draw_pictures,
    examine,
    square_of,
)
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.models.families import backbone_of
from segue.models.stable_diffusion import StableDiffusion
from segue.pictures.tensors import to_tensor

PIPES: dict[str, Callable[[], Any]] = {
    "epsilon": tiny_pipe,
    "v": partial(tiny_pipe, "v_prediction"),
    "xl": tiny_xl_pipe,
    **{name: partial(FAMILIES[name].make, 0) for name in FAMILIES},
}


def ball() -> Tensor:
    """A picture that is wider than it is high, (1, 3, 64, 96)."""
    return to_tensor([draw_pictures(64)[0].resize((96, 64))])


def pocket() -> tuple[Any, Tensor]:
    backbone: Any = Interpolator.from_pretrained(dtype="float32", device="cpu").backbone
    return backbone, square_of(draw_pictures(128)[0], backbone)


def test_pocket_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert run(["doctor", "-o", str(sheet), "--dtype", "float32", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["model", "device", "weights", "autoencoder", "network", "pipeline", "film", "memory", "nothing"]
    assert [line.split()[0] for line in lines] == names
    assert lines[0] == "model        pocket: Stable Diffusion 1.x and 2.x"
    assert lines[1].endswith("float32")
    assert "PSNR of 36" in lines[3]
    assert float(re.findall(r"Pipeline (\S+) of 1", lines[5])[0]) < 1e-4
    assert re.search(r"5 frames in .* s a step.*sheet\.png", lines[6])
    with Image.open(sheet) as image:
        assert image.width > 256


@pytest.mark.parametrize("name", PIPES)
def test_a_leg_is_that_of_diffusers_pipeline(name: str) -> None:
    found = check_pipeline(backbone_of(PIPES[name]()), ball())
    assert not found.problem
    assert float(re.findall(r"Pipeline (\S+) of 1", found.text)[0]) < 1e-4


def test_a_scheduler_of_the_pipe_that_clips_does_not_count() -> None:
    pipe = tiny_pipe()
    pipe.scheduler.register_to_config(clip_sample=True, timestep_spacing="linspace")
    assert not check_pipeline(backbone_of(pipe), ball()).problem
    assert pipe.scheduler.config.clip_sample


def test_a_pipeline_that_fails_is_named_and_the_film_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: Any, **_named: Any) -> None:
        raise AttributeError("no attribute\n'text_model'")

    monkeypatch.setattr(StableDiffusionImg2ImgPipeline, "__call__", fail)
    found = {finding.check: finding for finding in examine(tiny_interpolator(), sheet=tmp_path / "sheet.png")}
    said = "StableDiffusionImg2ImgPipeline fails: AttributeError: no attribute 'text_model'"
    assert found["pipeline"] == Finding("pipeline", "not compared", f"diffusers' own {said}")
    assert not found["film"].problem


def test_another_leg_than_diffusers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = StableDiffusion.decode
    monkeypatch.setattr(StableDiffusion, "decode", lambda *given, **named: decode(*given, **named) + 0.1)
    found = check_pipeline(backbone_of(tiny_pipe()), ball())
    assert found.problem == "segue and diffusers denoise differently; please report this model"


def test_a_family_that_is_not_compared_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FLOW_LATENTS", {})
    found = check_pipeline(backbone_of(FAMILIES["sd3"].make(0)), ball())
    assert found == Finding("pipeline", "not compared: no comparison is known for Stable Diffusion 3")


def problems(found: Sequence[Finding]) -> list[str]:
    return [finding.problem for finding in found if finding.problem]


@pytest.mark.parametrize(("value", "dtype"), [("nan", torch.float32), ("inf", torch.float16)])
def test_a_weight_that_is_not_a_number_is_named_and_ends_the_checks(
    value: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    pipe = tiny_pipe().to(dtype)
    pipe.unet.get_parameter("conv_in.weight").data[3, 1, 0, 0] = float(value)
    found = list(examine(Interpolator(pipe), sheet=tmp_path / "sheet.png"))
    assert [finding.check for finding in found] == ["weights"]
    (problem,) = problems(found)
    assert problem.startswith("unet: conv_in.weight holds values that are not numbers")
    assert "\n" not in problem
    assert ("--dtype float32" in problem) == (dtype == torch.float16)


def test_a_vae_of_another_scaling_is_named() -> None:
    backbone, image = pocket()
    assert not check_network(backbone, image).problem
    backbone.pipe.vae.register_to_config(scaling_factor=5.4)
    problem = check_network(backbone, image).problem
    assert re.match(
        r"the VAE's scaling_factor 5\.4 gives latents with a spread of 7\.\d+ instead of about 1: ", problem
    )
    backbone.pipe.vae.register_to_config(scaling_factor=0.18)
    assert check_network(backbone, image).problem.startswith("the VAE's scaling_factor 0.18 gives")


def test_a_wrong_prediction_type_is_named() -> None:
    backbone, image = pocket()
    backbone.pipe.scheduler.register_to_config(prediction_type="epsilon")
    problem = check_network(backbone, image).problem
    assert problem.endswith("predicts v_prediction, not epsilon: load it with --prediction-type v_prediction")


def test_a_network_that_was_not_trained_is_named() -> None:
    pipe = tiny_pipe()
    pipe.vae.register_to_config(scaling_factor=4.0)
    assert check_network(backbone_of(pipe), ball()).problem.startswith("the network does not take noise off")


@pytest.mark.parametrize("name", ["epsilon", "sd3"])
def test_a_network_that_overflows_is_named(name: str) -> None:
    backbone = backbone_of(PIPES[name]())
    last = list(backbone.network.parameters())[-1]
    last.data.fill_(float("nan"))
    with pytest.raises(SegueError, match="the network overflows in float32; load the model with"):
        check_network(backbone, ball())
    with pytest.raises(SegueError, match="holds values that are not numbers"):
        check_weights(backbone)


def test_an_autoencoder_that_overflows_or_is_another_one_is_named() -> None:
    pipe = tiny_pipe()
    assert check_autoencoder(backbone_of(pipe), ball()).problem.startswith("the VAE does not give pictures back")
    pipe.vae.decoder.conv_out.bias.data.fill_(float("inf"))
    pipe.vae.decoder.conv_out.weight.data.fill_(float("-inf"))
    with pytest.raises(SegueError, match="frames are black: the VAE overflows in float32"):
        check_autoencoder(backbone_of(pipe), ball())


def test_black_frames_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpolator = tiny_interpolator()
    pictures = [picture(1, (64, 64)), picture(2, (64, 64))]
    assert not check_film(interpolator, pictures, tmp_path / "sheet.png").problem
    black = lambda _self, z, screened=True: torch.full((len(z), 3, 8 * z.shape[2], 8 * z.shape[3]), -1.0)  # noqa: E731
    monkeypatch.setattr(StableDiffusion, "decode", black)
    found = check_film(interpolator, pictures, tmp_path / "sheet.png")
    assert found.problem.startswith("frames show nothing")


def test_too_little_memory_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: Any, **_named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(StableDiffusion, "encode", fail)
    found = list(examine(Interpolator(tiny_pipe()), sheet=tmp_path / "sheet.png"))
    assert [finding.check for finding in found] == ["weights", "autoencoder"]
    assert "--low-memory" in found[-1].problem


def test_the_command_ends_with_1_and_a_line_for_each_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tiny_pipe()
    pipe.unet.get_parameter("conv_in.weight").data.fill_(float("nan"))
    pipe.save_pretrained(tmp_path / "broken")
    command = ["doctor", "-o", str(tmp_path / "sheet.png"), "--model", str(tmp_path / "broken"), "--dtype", "float32"]
    assert run([*command, "--quiet"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("weights      wrong: unet: conv_in.weight holds values that are not numbers (float32)")
    assert len(shown.out.splitlines()) == 1
    assert not (tmp_path / "sheet.png").exists()


def test_a_folder_that_lacks_a_part_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_xl_pipe().save_pretrained(tmp_path / "xl")
    shutil.rmtree(tmp_path / "xl" / "text_encoder_2")
    assert run(["doctor", "-o", str(tmp_path / "sheet.png"), "--model", str(tmp_path / "xl")]) == 2
    assert "text_encoder_2 is missing" in capsys.readouterr().err


def test_wrong_inputs_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pictures(64)[0].save(tmp_path / "a.png")
    a = str(tmp_path / "a.png")
    for words, said in (
        ([a], "doctor takes two pictures, or none, not 1"),
        ([a, str(tmp_path / "b.png")], "b.png: no such file"),
        ([a, a, "-o", a], "would replace"),
        (["-o", a], "a.png exists; doctor writes a new picture"),
        (["-o", "sheet.jpg"], "sheet.jpg: a contact sheet is a .png"),
        (["--model", "nonsense"], "unknown model 'nonsense'"),
        (["--preset", "fast"], "preset fast"),
    ):
        assert run(["doctor", *words]) == 2
        assert said in capsys.readouterr().err

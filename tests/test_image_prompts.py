"""Pictures as prompts: an IP-Adapter against diffusers' own pipelines, and films by it."""

import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from shapes import QUICK, picture
from test_models import hub, keep, saved
from tiny import batch_sizes, save_image_adapter, tiny_controlnet, tiny_pipe, tiny_xl_pipe
from torch import Tensor

from segue.cli.app import run as segue
from segue.engine.dialogue import Again, Candidates, Pick
from segue.engine.interpolator import Interpolator
from segue.engine.wording import words_of
from segue.errors import SegueError
from segue.method.blend import slerp
from segue.method.schemes import Sample
from segue.method.tree import FrameKey
from segue.models.backbone import Sampling
from segue.models.families import backbone_of
from segue.models.image_prompts import add_image_adapter
from segue.models.loading import load, quiet
from segue.run.folder import RunFolder
from segue.run.journal import Edit
from segue.settings.kinds import MorphSettings

__all__ = ["hub", "saved"]

STEPS = 8
Kind = Literal["plain", "plus", "full"]
PIPES = {"sd": tiny_pipe, "xl": tiny_xl_pipe}
FILM: Any = {**QUICK, "network_size": "64x64", "noise": (0.4, 0.5), "guidance_scale": 3.0, "seed": 2}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampling(guidance: float = 5.0, image_scale: float | None = None) -> Sampling:
    return Sampling(solver="ddim", num_inference_steps=STEPS, guidance_scale=guidance, image_scale=image_scale)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters plain and plus, as the published repository lays them out, and checkpoints that they fit."""
    folder = tmp_path_factory.mktemp("adapters")
    with quiet():
        for name, make in PIPES.items():
            pipe = make()
            pipe.save_pretrained(folder / f"{name}-checkpoint")
            for kind in ("plain", "plus"):
                save_image_adapter(folder / name, pipe, kind)
        save_image_adapter(folder / "sd-full", tiny_pipe(), "full").rename(folder / "sd" / "full.safetensors")
    return folder


def adapted(adapters: Path, name: str = "sd", kind: str = "plain") -> Any:
    pipe = PIPES[name]()
    add_image_adapter(pipe, adapters / name / f"{kind}.safetensors")
    return pipe


def trailing(pipe: Any) -> Any:
    """The pipe with its scheduler on the grid of a leg from the last timestep of training to clean."""
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    return pipe


def refusal_of(pipe: Any, source: Any) -> str:
    with pytest.raises(SegueError) as caught:
        add_image_adapter(pipe, source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The conditioning, and what the networks make of it.


@pytest.mark.parametrize(
    ("name", "kind", "scale"),
    [("sd", "plain", None), ("sd", "plus", 0.4), ("sd", "full", None), ("xl", "plain", 0.4), ("xl", "plus", None)],
)
def test_from_noise_to_an_image_equals_the_pipe(adapters: Path, name: str, kind: Kind, scale: float | None) -> None:
    pipe = trailing(adapted(adapters, name, kind))
    backbone: Any = backbone_of(pipe)
    eps, start = randn(1, 4, 8, 8), backbone.schedule.noise_point(999)
    z = backbone.denoise(
        eps, backbone.embed(["a cat"], ["grey"], [picture(1)]), start, sampling=sampling(image_scale=scale)
    )
    if scale is not None:
        pipe.set_ip_adapter_scale(scale)
    expected = pipe(
        "a cat",
        ip_adapter_image=picture(1),
        negative_prompt="grey",
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        latents=eps,
        output_type="pt",
    ).images
    assert torch.allclose(backbone.decode(z) / 2 + 0.5, expected, atol=1e-4)
    other = backbone.embed(["a cat"], ["grey"], [picture(2)])
    assert (backbone.denoise(eps, other, start, sampling=sampling(image_scale=scale)) - z).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_in_the_middle_of_a_gap_it_is_the_slerp_of_each_vector(adapters: Path, kind: Kind, tmp_path: Path) -> None:
    pipe = trailing(adapted(adapters, "sd", kind))
    backbone: Any = backbone_of(pipe)
    each = [backbone.embed([text], ["grey"], [picture(i)]) for i, text in ((1, "a cat"), (2, "a dog"))]
    settings = MorphSettings(**FILM, negative_prompt="grey", prompt_at={0.25: "a fox"})
    latents = {FrameKey(i): randn(4, 8, 8, seed=i) for i in range(2)}
    with RunFolder(tmp_path / "run") as run:
        words = words_of(
            backbone, run, settings, [picture(1), picture(2)], latents, model_name="tiny", report=lambda _: None
        )
        for i in range(2):
            assert words(Sample(FrameKey(i)), {}).is_close(each[i], 0)
        quarter, middle = (words(Sample(FrameKey(0, place)), {}) for place in (Fraction(1, 4), Fraction(1, 2)))
    a, b = (one.positive["image"].flatten(0, -2) for one in each)
    for place, found in ((0.25, quarter), (0.5, middle)):
        assert torch.equal(found.positive["image"].flatten(0, -2), slerp(a, b, place))
        assert torch.allclose(found.negative["image"], each[0].negative["image"], atol=1e-6)
    assert torch.equal(quarter.text, backbone.embed(["a fox"], [""]).text)
    assert not torch.allclose(middle.text, quarter.text, atol=1e-2)
    # The pipe, given these embeddings.
    expected = pipe(
        prompt_embeds=middle.text,
        negative_prompt_embeds=middle.negative_text,
        ip_adapter_image_embeds=[torch.cat([middle.negative["image"], middle.positive["image"]])],
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        latents=randn(1, 4, 8, 8),
        output_type="latent",
    ).images
    start = backbone.schedule.noise_point(999)
    assert torch.allclose(backbone.denoise(randn(1, 4, 8, 8), middle, start, sampling=sampling()), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("sd", "plus"), ("xl", "plain")])
def test_a_batch_equals_its_samples_and_guidance_is_one_call(adapters: Path, name: str, kind: Kind) -> None:
    backbone: Any = backbone_of(adapted(adapters, name, kind))
    words = backbone.embed(["a cat", "", ""], ["", "grey", ""], [picture(i) for i in range(3)])
    start, z = backbone.point(0.5), randn(3, 4, 8, 12)
    for guidance, calls in ((5.0, 6), (1.0, 3)):
        with batch_sizes(backbone.pipe.unet) as seen:
            together = backbone.denoise(z, words, start, sampling=sampling(guidance))
        assert set(seen) == {calls}
        for i in range(3):
            alone = backbone.denoise(z[i : i + 1], words.sample(i), start, sampling=sampling(guidance))
            assert torch.allclose(together[i : i + 1], alone, atol=1e-4)


def test_without_pictures_and_at_scale_0_nothing_is_seen(adapters: Path) -> None:
    plain: Any = backbone_of(tiny_pipe())
    backbone: Any = backbone_of(adapted(adapters, "sd", "plus"))
    without, seen = backbone.embed(["a cat"], [""]), backbone.embed(["a cat"], [""], [picture(1)])
    assert torch.equal(without.positive["image"], without.negative["image"])
    start, z = backbone.point(0.5), randn(1, 4, 8, 8)
    expected = plain.denoise(z, plain.embed(["a cat"], [""]), start, sampling=sampling())
    assert torch.equal(backbone.denoise(z, seen, start, sampling=sampling(image_scale=0.0)), expected)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert all(torch.equal(a, b) for a, b in zip(plain.features(images), backbone.features(images), strict=True))


def test_words_of_a_frame_leave_its_picture_and_the_other_way_round(adapters: Path) -> None:
    backbone: Any = backbone_of(adapted(adapters))
    one, other = (backbone.embed([text], [""], [picture(i)]) for i, text in ((1, "a cat"), (2, "a dog")))
    worded, pictured = one.with_prompt_of(other), one.with_image_of(other)
    assert torch.equal(worded.text, other.text)
    assert torch.equal(worded.positive["image"], one.positive["image"])
    assert torch.equal(pictured.text, one.text)
    assert torch.equal(pictured.positive["image"], other.positive["image"])
    assert torch.equal(pictured.negative["image"], one.negative["image"])


# Loading.


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize(("name", "kind"), [("sd", "plain"), ("xl", "plus")])
def test_a_file_is_loaded_with_its_image_encoder(adapters: Path, name: str, kind: Kind, low_memory: bool) -> None:
    source = adapters / name / f"{kind}.safetensors"
    options: Any = {"dtype": "float32", "device": "cpu", "low_memory": low_memory}
    found: Any = backbone_of(load(adapters / f"{name}-checkpoint", image_adapter=source, **options))
    expected: Any = backbone_of(adapted(adapters, name, kind))
    assert found.takes_images
    assert found.fingerprint() == expected.fingerprint()
    assert found.embed(["a cat"], [""], [picture(1)]).is_close(expected.embed(["a cat"], [""], [picture(1)]), 1e-5)


def test_all_of_it_has_the_precision_that_was_asked_for(adapters: Path) -> None:
    source = adapters / "sd" / "plain.safetensors"
    pipe = load(adapters / "sd-checkpoint", image_adapter=source, dtype="bfloat16", device="cpu")
    for network in (pipe.unet, pipe.image_encoder):
        assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    backbone: Any = backbone_of(pipe)
    z = backbone.denoise(
        randn(1, 4, 8, 8), backbone.embed([""], [""], [picture(1)]), backbone.point(0.5), sampling=sampling()
    )
    assert torch.isfinite(z).all()


def test_beside_a_controlnet(adapters: Path, tmp_path: Path) -> None:
    tiny_controlnet(tiny_pipe()).save_pretrained(tmp_path / "control")
    source, options = adapters / "sd" / "plain.safetensors", {"dtype": "float32", "device": "cpu"}
    pipe = load(adapters / "sd-checkpoint", controlnet=tmp_path / "control", image_adapter=source, **options)  # type: ignore[arg-type]
    backbone: Any = backbone_of(pipe)
    assert backbone.takes_images
    assert len(backbone.controlnets) == 1


def test_the_image_encoder_that_fits_is_found(adapters: Path, tmp_path: Path) -> None:
    for folder in ("models", "sdxl_models"):
        (tmp_path / folder).mkdir()
    for file in ("plain.safetensors", "plus.safetensors"):
        shutil.copy(adapters / "sd" / file, tmp_path / "sdxl_models")
    source = tmp_path / "sdxl_models" / "plain.safetensors"
    assert refusal_of(tiny_pipe(), source) == (
        f"{source} has no image encoder: put its folder image_encoder (h94/IP-Adapter has it) beside the file"
    )
    other = shutil.copytree(adapters / "sd" / "image_encoder", tmp_path / "sdxl_models" / "image_encoder")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 48, "projection_dim": 48}))
    assert refusal_of(tiny_pipe(), source) == (
        f"{source} needs an image encoder with projection_dim 24; {other} has another"
    )
    plus = source.with_name("plus.safetensors")
    assert f"{plus} needs an image encoder with hidden_size 32" in refusal_of(tiny_pipe(), plus)
    shutil.copytree(adapters / "sd" / "image_encoder", tmp_path / "models" / "image_encoder")
    pipe = tiny_pipe()
    add_image_adapter(pipe, source)
    assert pipe.image_encoder.config.hidden_size == 32
    above = shutil.copytree(adapters / "sd", tmp_path / "above") / "models"
    above.mkdir()
    (above.parent / "full.safetensors").unlink()
    (above.parent / "plain.safetensors").rename(above / "plain.safetensors")
    add_image_adapter(tiny_pipe(), above)  # a folder with one file, the encoder in the folder above


def test_from_the_local_cache_of_the_hub(adapters: Path, hub: Path, tmp_path: Path) -> None:
    repository = tmp_path / "IP-Adapter"
    shutil.copytree(adapters / "sd", repository / "models")
    name = "someone/IP-Adapter/models/plain.safetensors"
    assert refusal_of(tiny_pipe(), name).startswith(f"{name} cannot be loaded: ")
    keep(hub, "someone/IP-Adapter", repository)
    pipe = tiny_pipe()
    add_image_adapter(pipe, name)
    assert backbone_of(pipe).fingerprint() == backbone_of(adapted(adapters)).fingerprint()


def test_what_is_not_an_adapter_or_not_for_the_model_is_refused(adapters: Path, tmp_path: Path) -> None:
    source = adapters / "sd" / "plain.safetensors"
    assert refusal_of(tiny_xl_pipe(), source) == (
        f"{source} is for another model: it has 4 layers for prompts 32 wide, the UNet has 5 layers for prompts 80 wide"
    )
    for file in ("ip.bin", "ip.pt"):
        (tmp_path / file).write_bytes(b"")
        text = f"{tmp_path / file} is a pickle, which can run code; take the adapter's .safetensors file"
        assert refusal_of(tiny_pipe(), tmp_path / file) == text
    assert "is a pickle" in refusal_of(tiny_pipe(), tmp_path)  # the folder
    assert refusal_of(tiny_pipe(), "nowhere.safetensors").startswith("unknown image adapter 'nowhere.safetensors': no")
    assert refusal_of(tiny_pipe(), adapters / "sd").startswith(f"{adapters / 'sd'} holds 3 .safetensors files; name")
    assert refusal_of(tiny_pipe(), adapters) == f"{adapters} holds no IP-Adapter: give its .safetensors file"

    def changed(name: str, tensors: dict[str, Tensor]) -> Path:
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "ip.safetensors")
        shutil.copytree(adapters / "sd" / "image_encoder", tmp_path / name / "image_encoder")
        return tmp_path / name / "ip.safetensors"

    tensors = load_file(source)
    layers = {key: tensor for key, tensor in tensors.items() if key.startswith("ip_adapter.")}
    assert "it has no ip_adapter.* tensors" in refusal_of(tiny_pipe(), changed("lora", {"x": torch.ones(1)}))
    assert "no image projection that is known" in refusal_of(tiny_pipe(), changed("layers", layers))
    faces = {**layers, "image_proj.norm.weight": torch.ones(2), "image_proj.proj.0.weight": torch.ones(2, 2)}
    assert "IP-Adapter of faces (FaceID)" in refusal_of(tiny_pipe(), changed("faces", faces))
    short = {key: tensor for key, tensor in tensors.items() if key != "image_proj.norm.bias"}
    assert "lacks weights" in refusal_of(tiny_pipe(), changed("short", short))
    (tmp_path / "short" / "ip.safetensors").write_bytes(source.read_bytes()[:200])
    assert "cannot be loaded" in refusal_of(tiny_pipe(), tmp_path / "short" / "ip.safetensors")
    (tmp_path / "layers" / "image_encoder" / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    save_file(tensors, tmp_path / "layers" / "ip.safetensors")
    assert "has no weights" in refusal_of(tiny_pipe(), tmp_path / "layers" / "ip.safetensors")


# A pipe that the user brings.


def test_a_pipe_that_has_an_adapter_works_and_is_left_as_it_was(adapters: Path, tmp_path: Path) -> None:
    pipe = adapted(adapters)
    pipe.set_ip_adapter_scale(0.7)
    processors, digest = dict(pipe.unet.attn_processors), backbone_of(pipe).fingerprint()
    film = Interpolator(pipe)(picture(1), picture(2), output=tmp_path / "run", **FILM, image_prompt=0.3)
    assert len(film) == 5
    assert dict(pipe.unet.attn_processors) == processors
    assert backbone_of(pipe).fingerprint() == digest
    backbone: Any = backbone_of(pipe)
    damaged, words = randn(1, 4, 8, 8) * torch.nan, backbone.embed([""], [""], [picture(1)])
    with pytest.raises(SegueError, match="overflows"):
        backbone.denoise(damaged, words, backbone.point(0.5), sampling=sampling(image_scale=0.1))
    assert backbone_of(pipe).fingerprint() == digest
    pipe.unload_ip_adapter()
    assert backbone_of(pipe).fingerprint() == backbone_of(tiny_pipe()).fingerprint()
    with pytest.raises(SegueError, match="image_prompt needs an IP-Adapter; name one with image_adapter"):
        Interpolator(pipe)(picture(1), picture(2), output=tmp_path / "none", **FILM, image_prompt=0.3)
    assert not (tmp_path / "none").exists()


def test_pipes_that_cannot_be_used_are_refused(adapters: Path) -> None:
    pipe = adapted(adapters)
    interpolator = Interpolator(pipe)
    encoder, pipe.image_encoder = pipe.image_encoder, None
    with pytest.raises(SegueError, match="has an IP-Adapter without its image encoder"):
        Interpolator(pipe)
    pipe.image_encoder = encoder
    tensors = load_file(adapters / "sd" / "plain.safetensors")
    state = {
        part: {key.removeprefix(f"{part}."): tensor for key, tensor in tensors.items() if key.startswith(part)}
        for part in ("image_proj", "ip_adapter")
    }
    pipe.load_ip_adapter([state, state], subfolder="", weight_name=["", ""])
    with pytest.raises(SegueError, match="has 2 IP-Adapters; segue uses one"):
        Interpolator(pipe)
    with pytest.raises(SegueError, match="has 2 IP-Adapters; segue uses one"):
        interpolator(picture(1), picture(2), **FILM)


def test_the_fingerprint_is_of_adapter_encoder_and_scale(adapters: Path, tmp_path: Path) -> None:
    pipe = adapted(adapters)

    def digest() -> str:
        return backbone_of(pipe).fingerprint()

    other = tiny_pipe()
    add_image_adapter(other, save_image_adapter(tmp_path, other, seed=1))
    found = [digest(), backbone_of(tiny_pipe()).fingerprint(), backbone_of(other).fingerprint()]
    pipe.set_ip_adapter_scale(0.5)
    found.append(digest())
    with torch.no_grad():
        next(iter(pipe.image_encoder.parameters())).add_(1)
    found.append(digest())
    with torch.no_grad():
        next(iter(pipe.unet.encoder_hid_proj.parameters())).add_(1)
    found.append(digest())
    with torch.no_grad():
        pipe.unet.attn_processors["up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor"].to_k_ip[
            0
        ].weight.add_(1)
    found.append(digest())
    assert len(set(found)) == len(found)


# Films.


@pytest.fixture(scope="module")
def interpolator(adapters: Path) -> Interpolator:
    return Interpolator(adapted(adapters, "sd", "plus"))


def frames(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((run / "frames").glob("*.png"))]


@pytest.mark.parametrize("scheme", ["branching", "denoise-interpolate-denoise"])
@pytest.mark.parametrize("name", ["sd", "xl"])
def test_films_resume_to_the_byte(adapters: Path, tmp_path: Path, name: str, scheme: Any) -> None:
    maker = Interpolator(adapted(adapters, name))

    def film(folder: str, stop_after: int | None = None, **options: Any) -> list[bytes]:
        def stop(progress: Any) -> None:
            nonlocal stop_after
            if stop_after is not None and getattr(progress, "frame", None) is not None:
                stop_after -= 1
                if stop_after < 0:
                    raise KeyboardInterrupt

        values = {**FILM, "scheme": scheme, "callback": stop, **options}
        maker(picture(1), picture(2), output=tmp_path / folder, **values)
        return frames(tmp_path / folder)

    whole = film("whole")
    assert len(whole) == 5
    with pytest.raises(KeyboardInterrupt):
        film("stopped", stop_after=1)
    assert film("stopped") == whole
    off = film("off", image_prompt=0)
    plain = Interpolator(PIPES[name]())(picture(1), picture(2), output=tmp_path / "plain", **FILM, scheme=scheme)
    assert off == frames(plain.path)
    half = film("half", image_prompt=0.5)
    assert all(len({a, b, c}) == 3 for a, b, c in list(zip(whole, half, off, strict=True))[1:-1])


def test_pictures_are_something_to_follow(interpolator: Interpolator, tmp_path: Path) -> None:
    def notices(**options: Any) -> str:
        told: list[str] = []
        values = {**FILM, "prompt": (), **options}
        interpolator(picture(1), picture(2), callback=lambda one: told.append(str(one)), **values)
        return " ".join(told)

    assert "has no prompt to follow" not in notices()
    assert "has no prompt to follow" in notices(image_prompt=0)


def test_inversion_is_under_the_films_own_strength(interpolator: Interpolator, tmp_path: Path) -> None:
    def losses(name: str, **options: Any) -> str:
        interpolator.invert(picture(1), picture(2), output=tmp_path / name, **FILM, inversion=2, **options)
        return (tmp_path / name / "loss.csv").read_text()

    assert losses("own") == losses("one", image_prompt=1.0) != losses("half", image_prompt=0.5)


def test_a_frame_may_have_a_picture_of_its_own(interpolator: Interpolator, tmp_path: Path) -> None:
    run, own = tmp_path / "run", tmp_path / "x.png"
    picture(4, (48, 40)).save(own)
    interpolator(picture(1), picture(2), output=run, **FILM)
    key = FrameKey(0, Fraction(1, 4))
    interpolator.remake(run, key, Edit(seed=0))
    before = frames(run)
    interpolator.remake(run, key, Edit(image=own, seed=0))
    own.unlink()
    with RunFolder(run) as folder:
        kept = str(folder.history.edit(key).image)
        assert folder.image(kept).tobytes() == picture(4, (48, 40)).tobytes()
    assert kept.startswith("words/edit-")
    after = frames(run)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True, True]
    again = interpolator.remake(run, key)  # other noise, the same picture
    with RunFolder(again.path) as folder:
        assert folder.history.edit(key) == Edit(image=kept)
    interpolator.undo(run)
    assert frames(run) == after
    interpolator.undo(run)
    assert frames(run) == before
    with pytest.raises(SegueError, match="no such file"):
        interpolator.remake(run, key, Edit(image=own))
    with pytest.raises(SegueError, match="a frame's image is the name of a file, not 3"):
        Edit(image=3)  # type: ignore[arg-type]


def test_while_picking_too(interpolator: Interpolator, tmp_path: Path) -> None:
    own = tmp_path / "x.png"
    picture(4).save(own)

    def answers() -> Iterator[Again | Pick]:
        yield Again(Edit(image=own))
        yield Pick(1)
        while True:
            yield Pick(0)

    said = answers()

    def choose(_candidates: Candidates) -> Again | Pick:
        return next(said)

    interpolator(picture(1), picture(2), output=tmp_path / "run", **FILM, choose=choose)
    assert len(list((tmp_path / "run" / "words").glob("edit-*.png"))) == 1


def test_a_picture_of_a_frame_that_changes_nothing_is_refused(interpolator: Interpolator, tmp_path: Path) -> None:
    own, key = tmp_path / "x.png", FrameKey(0, Fraction(1, 4))
    picture(4).save(own)
    plain = Interpolator(tiny_pipe())
    plain(picture(1), picture(2), output=tmp_path / "plain", **FILM)
    with pytest.raises(SegueError, match="image needs an IP-Adapter, and the film was made without one"):
        plain.remake(tmp_path / "plain", key, Edit(image=own))
    interpolator(picture(1), picture(2), output=tmp_path / "off", **FILM, image_prompt=0)
    with pytest.raises(SegueError, match="changes nothing in a film with image_prompt 0"):
        interpolator.remake(tmp_path / "off", key, Edit(image=own))


# The command line.


def test_the_command_line_keeps_the_adapter_for_a_remake(
    adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        picture(i).save(f"{i}.png")
    shutil.copytree(adapters / "sd", "adapters")
    words = ["morph", "0.png", "1.png", "-o", "film.gif", "--model", str(adapters / "sd-checkpoint"), "--pose", "off"]
    words += ["--set", "network_size=64x64", "--num-frames", "3", "--num-inference-steps", "4", "--dtype", "float32"]
    assert segue([*words, "--image-prompt", "0.5"]) == 2
    assert capsys.readouterr().err == "segue: --image-prompt needs an IP-Adapter; name one with --image-adapter\n"
    assert segue([*words, "--image-adapter", "ip.bin"]) == 2
    assert "ip.bin is a pickle" in capsys.readouterr().err
    assert segue([*words, "--image-adapter", str(adapters / "xl" / "plain.safetensors")]) == 2
    assert "is for another model" in capsys.readouterr().err
    assert not any(tmp_path.glob("film*"))
    assert segue([*words, "--image-adapter", "adapters/plain.safetensors", "--image-prompt", "0.5", "--quiet"]) == 0
    source = str(tmp_path / "adapters" / "plain.safetensors")
    assert json.loads((tmp_path / "film" / "run.json").read_text())["model"]["image_adapter"] == source
    assert "image_adapter" in (tmp_path / "film" / "settings.toml").read_text()
    monkeypatch.chdir(tmp_path / "adapters")
    assert segue(["remake", "../film.gif", "--frame", "1", "--image", "../none.png", "--quiet"]) == 2
    assert segue(["remake", "../film.gif", "--frame", "1", "--image", "../2.png", "--quiet"]) == 0
    assert segue(["remake", "../film.gif", "--frame", "1", "--prompt", "a fox"]) == 0
    assert "keeps its own image" in capsys.readouterr().err
    with RunFolder(tmp_path / "film") as run:
        edit = run.history.edit(FrameKey(0, Fraction(1, 2)))
        assert edit.prompt == "a fox"
        assert run.image(str(edit.image)).tobytes() == picture(2).tobytes()
    assert segue(["morph", "--config", "../film/settings.toml", "-o", "../again.gif", "--quiet"]) == 0

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_clip import save_tiny_clip

import segue.models.clip
from segue.errors import SegueError
from segue.models.clip import Clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return Clip.load(str(folder))


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def test_cosines_are_those_of_the_whole_model(clip: Clip, folder: Path) -> None:
    texts = ["a red cat", "dog", "the sun, and a very long sentence about it"]
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(folder)(images=pictures(), return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    assert torch.allclose(clip.images(pictures()) @ clip.texts(texts).T, logits, atol=1e-5)


def test_vectors_are_of_length_one_and_tell_apart(clip: Clip) -> None:
    for vectors in (clip.images(pictures()), clip.texts(["a", "b", "c"])):
        assert vectors.dtype == torch.float32
        assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
        assert (vectors @ vectors.T - torch.eye(3)).max() < 0.9999
        assert not vectors.requires_grad


def test_a_picture_does_not_depend_on_the_others(clip: Clip) -> None:
    alone = torch.cat([clip.images([picture]) for picture in pictures()])
    assert torch.equal(clip.images(pictures()), alone)


def test_any_mode_of_picture_is_seen_in_rgb(clip: Clip) -> None:
    grey = pictures()[0].convert("L")
    assert torch.equal(clip.images([grey]), clip.images([grey.convert("RGB")]))


def test_nothing_in_nothing_out(clip: Clip) -> None:
    assert clip.images([]).shape == (0, 16)
    assert clip.texts([]).shape == (0, 16)


def test_texts_are_cut_at_the_window_and_may_be_many(clip: Clip) -> None:
    long = "x" * 200
    assert torch.equal(clip.texts([long]), clip.texts([long + " and more"]))
    many = [f"text {i}" for i in range(70)]
    assert torch.allclose(clip.texts(many)[-1:], clip.texts(many[-1:]), atol=1e-6)


def test_loading_by_default_is_pockets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segue.models.clip, "POCKET_CLIP", folder)
    assert Clip.load().name == "pocket"
    assert torch.equal(Clip.load("pocket").texts(["cat"]), Clip.load(str(folder)).texts(["cat"]))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no .safetensors weights"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "is a pickle"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot be loaded as a CLIP"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded as a CLIP"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded as a CLIP"),
        (lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": "bert"})), "of type bert"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "cannot be loaded as a CLIP"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_what_is_no_clip_is_named_in_one_line(
    folder: Path, tmp_path: Path, break_it: Callable[[Path], object], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    break_it(copy)
    with pytest.raises(SegueError, match=message) as caught:
        Clip.load(str(copy))
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SegueError, match=r"lacks weights of a CLIP, such as text_projection\.weight"):
        Clip.load(str(copy))


def test_without_pockets_weights_the_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segue.models.clip, "POCKET_CLIP", tmp_path / "clip")
    with pytest.raises(SegueError, match="pocket's CLIP is not at"):
        Clip.load()

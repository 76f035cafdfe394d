import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import save_tiny_clip

import segue.words.captions
from segue.errors import SegueError
from segue.models.clip import Clip
from segue.words.captions import (
    SURE_ENOUGH,
    Caption,
    captions,
    describe_captions,
    nearest_captions,
    prompts_of,
    read_captions,
    subject_of,
    write_caption_features,
)

LINES = ["a cat", "two dogs", "the sun", "a house by the sea", "x", "y"]


@pytest.fixture
def pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder with a CLIP and captions, in pocket's place."""
    save_tiny_clip(tmp_path / "clip")
    (tmp_path / "captions.txt").write_text("\n".join(LINES) + "\n\n", encoding="utf-8")
    write_caption_features(tmp_path)
    monkeypatch.setattr(segue.words.captions, "POCKET_CLIP", tmp_path / "clip")
    return tmp_path


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP with random weights."""
    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[SEP]", "[CLS]", "[MASK]", *(f"word{i}" for i in range(35))]
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    marks = {"bos_token_id": 40, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 2}
    config = transformers.BlipConfig(
        text_config={**size, **marks, "vocab_size": 41, "encoder_hidden_size": 32},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.BlipForConditionalGeneration(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    transformers.BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return [*(Image.fromarray(pixels) for pixels in noise), Image.new("RGB", (32, 32), "red")]


def texts(found: list[Caption]) -> list[str]:
    return [caption.text for caption in found]


def test_the_nearest_caption_has_the_largest_cosine(pocket: Path) -> None:
    clip = Clip.load(str(pocket / "clip"))
    cosines = clip.images(pictures()) @ clip.texts(LINES).T
    assert texts(nearest_captions(pictures(), pocket)) == [LINES[i] for i in cosines.argmax(1)]
    assert captions(pictures(), "pocket") == nearest_captions(pictures(), pocket)


def test_each_caption_is_found_by_its_own_vector(pocket: Path) -> None:
    """Vectors are turned round so that each picture is nearest to a caption that is known."""
    clip = Clip.load(str(pocket / "clip"))
    vectors = clip.images(pictures())
    (pocket / "captions.txt").write_text("\n".join(str(i) for i in range(len(vectors))))
    save_file({"captions": vectors.half()}, pocket / "captions.safetensors")
    assert texts(nearest_captions(pictures()[::-1], pocket)) == ["4", "3", "2", "1", "0"]


def test_the_certainty_is_a_share_of_subjects_and_of_none_of_these(
    pocket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a picture's own vector e and e turned by arc cosines of 0.97, 0.96 and 0.9."""
    vector = Clip.load(str(pocket / "clip")).images(pictures()[:1])
    across = torch.nn.functional.normalize(torch.roll(vector, 1) - (torch.roll(vector, 1) @ vector.T) * vector)
    cosines = torch.tensor([[0.96], [0.97], [0.95], [0.9]])
    save_file({"captions": cosines * vector + (1 - cosines**2).sqrt() * across}, pocket / "captions.safetensors")
    monkeypatch.setattr(segue.words.captions, "SHARPNESS", 50.0)
    monkeypatch.setattr(segue.words.captions, "NONE_OF_THESE", 0.93)

    def certainty(*lines: str) -> float:
        (pocket / "captions.txt").write_text("\n".join(lines))
        (found,) = nearest_captions(pictures()[:1], pocket)
        assert found.text == lines[1]
        assert found.sure is not None
        return found.sure

    best, second, third, last, none = np.exp(50 * np.array([0.97, 0.96, 0.95, 0.9, 0.93]))
    four = certainty("a cat, noto", "a dog, noto", "an owl", "a bee, noto")
    assert four == pytest.approx(best / (best + second + third + last + none), abs=1e-4)
    # The same subject in other styles, or bare, is no rival.
    assert certainty("A-cat, noto", "a cat, ink", "an owl", "a bee") == pytest.approx(
        best / (best + third + last + none), abs=1e-4
    )
    assert certainty("a cat", "a cat, noto", "acat, twemoji", "a cat, ink") == pytest.approx(
        best / (best + none), abs=1e-4
    )


@pytest.mark.parametrize(
    ("caption", "subject"),
    [
        ("Cat face, noto", "catface"),
        ("catface, fxemoji", "catface"),
        ("cat-face", "catface"),
        ("fox in a red coat, waving, ink figure", "foxinaredcoatwaving"),
        ("keycap 10", "keycap10"),
    ],
)
def test_the_subject_of_a_caption_is_without_its_style(caption: str, subject: str) -> None:
    assert subject_of(caption) == subject


def test_what_is_not_sure_enough_is_no_prompt() -> None:
    assert Caption("a cat", SURE_ENOUGH).prompt == "a cat"
    assert Caption("a cat", SURE_ENOUGH - 1e-6).prompt == ""
    assert Caption("a cat").prompt == "a cat"  # of a captioner that does not say
    assert Caption("").prompt == ""


def test_captions_in_one_line() -> None:
    cat, tiger = Caption("cat face, noto", 0.921), Caption("tiger face, noto", 0.88)
    poo, thumb = Caption("poo", 0.308), Caption("reversethumbsup, fxemoji", 0.084)
    assert describe_captions([cat, tiger]) == 'captions: "cat face, noto" (92 %), "tiger face, noto" (88 %)'
    assert describe_captions([Caption("a cat sits"), Caption("a dog")]) == 'captions: "a cat sits", "a dog"'
    for found, texts in (
        ([poo, tiger], '"poo" (31 %), "tiger face, noto" (88 %)'),
        ([poo, thumb], '"poo" (31 %), "reversethumbsup, fxemoji" (8 %)'),
    ):
        assert prompts_of(found) == ["", ""]
        assert describe_captions(found) == (
            f"captions are not sure enough to steer the film: {texts}; prompts stay empty; give your own with --prompt"
        )
    assert prompts_of([cat, tiger]) == ["cat face, noto", "tiger face, noto"]
    assert describe_captions([Caption(""), Caption("")]) == describe_captions([]) == ""


def test_pocket_is_sure_of_what_it_knows_and_of_nothing_else() -> None:
    examples = Path(__file__).parents[1] / "examples"
    with Image.open(examples / "tiger.png") as tiger:
        (known,) = captions([tiger], "pocket")
    assert known.prompt == "tiger face, noto"
    unknown = [*pictures(), *(Image.open(examples / f"{name}.png") for name in ("turtle", "moon"))]
    assert all(caption.text and not caption.prompt for caption in captions(unknown, "pocket"))


def test_features_are_the_texts_vectors_in_half_precision(pocket: Path) -> None:
    features = load_file(pocket / "captions.safetensors")["captions"]
    assert features.dtype == torch.float16
    expected = Clip.load(str(pocket / "clip")).texts(LINES)
    assert torch.allclose(features.float(), expected, atol=1e-3)


def test_who_captions_by_default(pocket: Path) -> None:
    assert captions(pictures(), None, model_name="pocket") == nearest_captions(pictures(), pocket)
    assert captions(pictures(), None, model_name="a/large-model") == [Caption("")] * 5
    assert captions(pictures(), "none", model_name="pocket") == [Caption("")] * 5
    assert captions([], "pocket") == []


def test_a_written_caption_is_the_models(blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformers.BlipForConditionalGeneration.from_pretrained(blip).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(blip)
    processor = transformers.BlipImageProcessorPil.from_pretrained(blip)
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    expected = []
    for picture in pictures():
        pixels = (np.asarray(picture) / 255 - mean) / std
        tensor = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
        tokens = model.generate(pixel_values=tensor, max_new_tokens=40, do_sample=False)[0]
        expected.append(tokenizer.decode(tokens, skip_special_tokens=True))
    found = captions(pictures(), str(blip))
    assert found == [Caption(text) for text in expected]
    assert any("word" in text for text in expected)
    assert read_captions(pictures()[1:2], str(blip)) == expected[1:2]
    monkeypatch.setattr(segue.words.captions, "BLIP", str(blip))
    assert captions(pictures(), "blip", model_name="a/large-model") == found


def test_captioners_that_are_not_there(pocket: Path, tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="does not exist; give a captioning model by its folder or hub name"):
        captions(pictures(), str(tmp_path / "none-here"))
    with pytest.raises(SegueError, match="cannot be loaded as a captioning model"):
        captions(pictures(), str(pocket / "clip"))
    with pytest.raises(SegueError, match=r"nobody/has-this \(a captioning model\) is not on disk, and the hub"):
        captions(pictures(), "nobody/has-this")


def test_a_captioner_that_lacks_weights(blip: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(blip, tmp_path / "blip"))
    file = folder / "model.safetensors"
    save_file({name: w for name, w in load_file(file).items() if "vision_model" not in name}, file, {"format": "pt"})
    with pytest.raises(SegueError, match=r"lacks weights of a captioning model, such as .*vision_model"):
        captions(pictures(), str(folder))


def test_files_that_are_missing_or_do_not_fit(pocket: Path) -> None:
    (pocket / "captions.txt").write_text("one\ntwo\n")
    with pytest.raises(SegueError, match="holds 6 vectors for 2 captions"):
        captions(pictures(), "pocket")
    (pocket / "captions.safetensors").write_bytes(b"damaged")
    with pytest.raises(SegueError, match=r"captions\.safetensors has no caption vectors"):
        captions(pictures(), "pocket")
    (pocket / "captions.txt").write_text("\n")
    with pytest.raises(SegueError, match=r"captions\.txt has no captions"):
        captions(pictures(), "pocket")
    (pocket / "captions.txt").unlink()
    with pytest.raises(SegueError, match=r"captions\.txt cannot be read"):
        captions(pictures(), "pocket")

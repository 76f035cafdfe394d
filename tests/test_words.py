import json
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from notices import SegueWarning
from PIL import Image
from shapes import QUICK, picture
from tiny import text_conditioning, tiny_controlnet, tiny_pipe

import segue.engine.wording
from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import Notice, SegueError
from segue.method.conditioning import Conditioning, Control
from segue.models.backbone import Sampling
from segue.models.pipe import cut
from segue.models.stable_diffusion import StableDiffusion
from segue.settings.kinds import MorphSettings, parse_settings
from segue.words.captions import Caption
from segue.words.prompts import anchors, prompts


def refuse_to_ask() -> list[str]:
    raise AssertionError("captions are only looked for where no prompt is given")


def test_one_prompt_is_for_all_keyframes() -> None:
    assert prompts(MorphSettings(prompt=("a cat",)), 3, refuse_to_ask) == ["a cat"] * 3
    assert prompts(parse_settings(MorphSettings, {"prompt": "a cat"}), 2, refuse_to_ask) == ["a cat", "a cat"]


def test_one_prompt_for_each_keyframe() -> None:
    assert prompts(MorphSettings(prompt=("a", "b", "c")), 3, refuse_to_ask) == ["a", "b", "c"]


def test_without_a_prompt_captions_are_found() -> None:
    assert prompts(MorphSettings(), 2, lambda: ["one", ""]) == ["one", ""]
    with pytest.raises(ValueError, match="1 captions for 2 keyframes"):
        prompts(MorphSettings(), 2, lambda: ["one"])


@pytest.mark.parametrize(("given", "count"), [(("a", "b", "c"), 2), (("a", "b"), 3), (("a", "b"), 1)])
def test_another_number_of_prompts_is_named(given: tuple[str, ...], count: int) -> None:
    with pytest.raises(SegueError, match=f"prompt: {len(given)} prompts for {count} keyframes"):
        prompts(MorphSettings(prompt=given), count, refuse_to_ask)


def test_an_empty_prompt_is_named() -> None:
    with pytest.raises(SegueError, match="prompt: an empty text"):
        parse_settings(MorphSettings, {"prompt": ("a", " ")})
    settings = MorphSettings()
    object.__setattr__(settings, "prompt", ("a", ""))
    with pytest.raises(SegueError, match="prompt 2 is empty"):
        prompts(settings, 2, refuse_to_ask)


def places(settings: MorphSettings, count: int) -> list[tuple[object, object]]:
    return [(place, what) for place, what in anchors(settings, count)]


def test_anchors_are_the_keyframes() -> None:
    assert places(MorphSettings(), 3) == [(0, 0), (1, 1), (2, 2)]
    assert places(MorphSettings(loop=True), 3) == [(0, 0), (1, 1), (2, 2), (3, 0)]


def test_prompts_in_between_take_their_exact_places() -> None:
    settings = MorphSettings(prompt_at={1.25: "late", 0.1: "early", 0.5: "half"})
    assert places(settings, 3) == [
        (0, 0),
        (Fraction(1, 10), "early"),
        (Fraction(1, 2), "half"),
        (1, 1),
        (Fraction(5, 4), "late"),
        (2, 2),
    ]


def test_a_loop_has_places_behind_its_last_keyframe() -> None:
    settings = MorphSettings(prompt_at={1.5: "back"}, loop=True)
    assert places(settings, 2) == [(0, 0), (1, 1), (Fraction(3, 2), "back"), (2, 0)]
    with pytest.raises(SegueError, match=r"prompt_at 1\.5 lies outside the film, whose places go from 0 to 1"):
        anchors(MorphSettings(prompt_at={1.5: "back"}), 2)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0.0, "prompt_at 0 is a keyframe"),
        (1.0, "prompt_at 1 is a keyframe"),
        (1.5, r"prompt_at 1\.5 lies outside"),
        (-0.5, r"prompt_at -0\.5 lies outside"),
        (7.25, r"prompt_at 7\.25 lies outside"),
    ],
)
def test_places_outside_a_pair_are_named(place: float, message: str) -> None:
    with pytest.raises(SegueError, match=message):
        anchors(MorphSettings(prompt_at={place: "x"}), 2)


def test_a_place_on_a_keyframe_and_an_empty_text_are_named() -> None:
    with pytest.raises(SegueError, match="prompt_at 1 is a keyframe"):
        anchors(MorphSettings(prompt_at={1.0: "x"}), 3)
    with pytest.raises(SegueError, match=r"prompt_at 0\.5: an empty text"):
        anchors(MorphSettings(prompt_at={0.5: "  "}), 3)


def test_a_prompt_that_fits_is_left_alone() -> None:
    """The tiny tokenizer takes a token for each letter and two for the ends: 75 letters fill the window of 77."""
    tokenizer = tiny_pipe().tokenizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("", "a cat", "  two  spaces ", "x" * 75, "ab " * 37 + "c"):
            assert cut(tokenizer, text) == text


def test_a_long_prompt_is_cut_between_words_and_what_is_lost_is_shown() -> None:
    tokenizer = tiny_pipe().tokenizer
    text = "abcd  " * 18 + "xyz rest of it"
    with pytest.warns(SegueWarning, match="longer than the 77 tokens of the text encoder; cut off: rest of it$"):
        assert cut(tokenizer, text) == "abcd  " * 18 + "xyz"


def test_a_word_that_is_too_long_by_itself_is_cut_within() -> None:
    tokenizer = tiny_pipe().tokenizer
    with pytest.warns(SegueWarning, match="cut off: y{5} more$"):
        assert cut(tokenizer, "x" * 75 + "y" * 5 + " more") == "x" * 75


def test_what_is_kept_gives_the_encoders_own_tokens() -> None:
    """Truncation by the tokenizer sees the same beginning."""
    tokenizer = tiny_pipe().tokenizer
    text = " ".join(f"word{i}" for i in range(40))
    with pytest.warns(SegueWarning):
        kept = cut(tokenizer, text)
    whole = tokenizer(text, truncation=True, max_length=77).input_ids
    part = tokenizer(kept).input_ids
    assert len(part) <= 77
    assert part[:-1] == whole[: len(part) - 1]
    assert text.startswith(kept)
    assert len(tokenizer(f"{kept} {text[len(kept) :].split()[0]}").input_ids) > 77, "the next word did not fit"


# The words of a film


def caption_as(monkeypatch: pytest.MonkeyPatch, *found: Caption) -> list[int]:
    """Have these captions found; how many pictures were captioned each time."""
    calls: list[int] = []

    def captions(pictures: list[Image.Image], *_arguments: Any, **_options: Any) -> list[Caption]:
        calls.append(len(pictures))
        return list(found)

    monkeypatch.setattr(segue.engine.wording, "captions", captions)
    return calls


def film(path: Path, **settings: Any) -> tuple[list[Progress], list[str]]:
    """Make a film of two pictures without prompts: its progress, and what it warns of."""
    seen: list[Progress | Notice] = []
    values = {**QUICK, "num_frames": 3, "prompt": (), **settings}
    Interpolator(tiny_pipe())(picture(0), picture(1), output=path, callback=seen.append, **values)
    progress = [each for each in seen if isinstance(each, Progress)]
    return progress, [each.text for each in seen if isinstance(each, Notice)]


def test_captions_are_told_before_anything_is_computed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = caption_as(monkeypatch, Caption("a poo", 0.3), Caption("a tiger", 0.9))
    seen, noted = film(tmp_path / "run")
    assert (seen[0].stage, seen[0].step) == ("words", 0)
    assert seen[0].text.startswith('captions are not sure enough to steer the film: "a poo" (30 %), "a tiger" (90 %)')
    assert not any(progress.text for progress in seen[1:])
    assert not noted
    assert json.loads((tmp_path / "run" / "prompts.json").read_text()) == {"prompts": ["", ""]}
    again, _ = film(tmp_path / "run", batch_size=1)
    assert not any(progress.text for progress in again)
    assert calls == [2], "a film that goes on keeps its captions"


NO_PROMPT = "guidance_scale 5 has no prompt to follow: give --prompt, or a captioner"


def test_guidance_without_a_prompt_is_told_once(tmp_path: Path) -> None:
    seen, noted = film(tmp_path / "run")
    assert noted == [NO_PROMPT]
    assert not any(progress.text for progress in seen)
    (tmp_path / "run" / "state.json").unlink()
    assert film(tmp_path / "run")[1] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": ("a cat",)},
        {"negative_prompt": "blurry"},
        {"prompt_at": {0.5: "a lynx"}},
        {"inversion": 1},
        {"guidance_scale": 1.0},
        {"guidance_start": 0.5, "guidance_end": 0.5},
        {"scheme": "interpolate"},
    ],
)
def test_guidance_that_has_words_or_is_off_is_not_told(settings: dict[str, Any], tmp_path: Path) -> None:
    assert film(tmp_path / "run", **settings)[1] == []


def test_captions_that_are_not_sure_enough_are_told_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caption_as(monkeypatch, Caption("a poo", 0.3), Caption("a thumb", 0.1))
    seen, noted = film(tmp_path / "run")
    assert seen[0].text.startswith("captions are not sure enough to steer the film: ")
    assert noted == []


# Guidance without words


def denoise(backbone: StableDiffusion, words: Conditioning, guidance: float) -> tuple[torch.Tensor, list[int]]:
    """Latents denoised in 4 steps, and the batch sizes of the network's calls."""
    sizes: list[int] = []
    z = torch.randn(len(words), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    handle = backbone.pipe.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        start, sampling = backbone.point(0.4), Sampling(num_inference_steps=10, guidance_scale=guidance)
        return backbone.denoise(z, words, start, sampling=sampling), sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("controlled", [False, True])
def test_equal_prompts_are_computed_once_and_guidance_changes_nothing(controlled: bool) -> None:
    pipe = tiny_pipe()
    backbone = StableDiffusion(pipe, tiny_controlnet(pipe) if controlled else None)
    words: Any = backbone.embed(["", "x"], ["", "x"])
    if controlled:
        image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        words = text_conditioning(words.text, words.negative_text, (Control(image, torch.tensor([1.0, 0.5])),))
    guided, sizes = denoise(backbone, words, 5.0)
    assert set(sizes) == {2}
    assert torch.equal(guided, denoise(backbone, words, 1.0)[0])
    # Both branches, in which one token differs by less than it can change: what was left out is nothing.
    moved = words.negative_text.clone()
    moved[0, -1, 0] += 1e-6
    both, sizes = denoise(backbone, text_conditioning(words.text, moved, words.controls), 5.0)
    assert set(sizes) == {4}
    assert torch.allclose(both, guided, atol=1e-4)


def test_a_batch_in_which_one_prompt_differs_has_both_branches() -> None:
    backbone = StableDiffusion(tiny_pipe())
    words: Any = backbone.embed(["", "a cat"], ["", ""])
    mixed, sizes = denoise(backbone, words, 5.0)
    assert set(sizes) == {4}
    alone, sizes = denoise(backbone, words.sample(0), 5.0)
    assert set(sizes) == {1}
    assert torch.allclose(mixed[:1], alone, atol=1e-5)


def test_a_loss_with_guidance_moves_equal_prompts_apart() -> None:
    """Where gradients are recorded both branches are computed: the negative embedding has a gradient of its own."""
    backbone = StableDiffusion(tiny_pipe())
    words: Any = backbone.embed([""], [""])
    prompt, negative = words.text.requires_grad_(), words.negative_text.requires_grad_()
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.enable_grad():
        eps = backbone.predict(z, backbone.point(0.4), text_conditioning(prompt, negative), guidance_scale=3.0)
        of_prompt, of_negative = torch.autograd.grad(eps.square().sum(), (prompt, negative))
    assert of_negative.abs().max() > 0
    assert torch.allclose(of_negative, of_prompt * (1 - 3.0) / 3.0, rtol=1e-3, atol=1e-5)

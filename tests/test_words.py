import warnings
from fractions import Fraction

import pytest
from tiny import tiny_pipe

from segue.errors import SegueError, SegueWarning
from segue.settings import MorphSettings, checked
from segue.words import anchors, cut, prompts


def unasked() -> list[str]:
    raise AssertionError("captions are only looked for where no prompt is given")


def test_one_prompt_is_for_all_keyframes() -> None:
    assert prompts(MorphSettings(prompt=("a cat",)), 3, unasked) == ["a cat"] * 3
    assert prompts(checked(MorphSettings, {"prompt": "a cat"}), 2, unasked) == ["a cat", "a cat"]


def test_one_prompt_for_each_keyframe() -> None:
    assert prompts(MorphSettings(prompt=("a", "b", "c")), 3, unasked) == ["a", "b", "c"]


def test_without_a_prompt_captions_are_found() -> None:
    assert prompts(MorphSettings(), 2, lambda: ["one", ""]) == ["one", ""]
    with pytest.raises(ValueError, match="1 captions for 2 keyframes"):
        prompts(MorphSettings(), 2, lambda: ["one"])


@pytest.mark.parametrize(("given", "count"), [(("a", "b", "c"), 2), (("a", "b"), 3), (("a", "b"), 1)])
def test_another_number_of_prompts_is_named(given: tuple[str, ...], count: int) -> None:
    with pytest.raises(SegueError, match=f"prompt: {len(given)} prompts for {count} keyframes"):
        prompts(MorphSettings(prompt=given), count, unasked)


def test_an_empty_prompt_is_named() -> None:
    with pytest.raises(SegueError, match="prompt: an empty text"):
        checked(MorphSettings, {"prompt": ("a", " ")})
    settings = MorphSettings()
    object.__setattr__(settings, "prompt", ("a", ""))
    with pytest.raises(SegueError, match="prompt 2 is empty"):
        prompts(settings, 2, unasked)


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
            assert cut(tokenizer, text) == (text, "")


def test_a_long_prompt_is_cut_between_words_and_what_is_lost_is_shown() -> None:
    tokenizer = tiny_pipe().tokenizer
    text = "abcd  " * 18 + "xyz rest of it"
    with pytest.warns(SegueWarning, match="longer than the 77 tokens of the text encoder; lost is: rest of it$"):
        kept, lost = cut(tokenizer, text)
    assert kept == "abcd  " * 18 + "xyz"
    assert lost == "rest of it"


def test_a_word_that_is_too_long_by_itself_is_cut_within() -> None:
    tokenizer = tiny_pipe().tokenizer
    with pytest.warns(SegueWarning, match="lost is: y{5} more$"):
        assert cut(tokenizer, "x" * 75 + "y" * 5 + " more") == ("x" * 75, "yyyyy more")


def test_what_is_kept_gives_the_encoders_own_tokens() -> None:
    """Truncation by the tokenizer sees the same beginning."""
    tokenizer = tiny_pipe().tokenizer
    text = " ".join(f"word{i}" for i in range(40))
    with pytest.warns(SegueWarning):
        kept, lost = cut(tokenizer, text)
    whole = tokenizer(text, truncation=True, max_length=77).input_ids
    part = tokenizer(kept).input_ids
    assert len(part) <= 77
    assert part[:-1] == whole[: len(part) - 1]
    assert f"{kept} {lost}" == text
    assert len(tokenizer(f"{kept} {lost.split()[0]}").input_ids) > 77, "the next word did not fit"

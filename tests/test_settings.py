"""Settings: bounds, one-line errors, JSON and back, presets."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from segue.errors import SegueError
from segue.settings.kinds import (
    SCHEMES,
    SOLVERS,
    ComputeSettings,
    FilmSettings,
    InversionSettings,
    MorphSettings,
    fields,
    parse_settings,
    update_settings,
)
from segue.settings.presets import PRESETS, list_ineffective, preset_settings, with_preset
from segue.settings.text import as_json, as_text, differences, from_text, option_name, read_config, write_config

KINDS = (InversionSettings, MorphSettings, ComputeSettings, FilmSettings)
EVERYTHING: dict[str, Any] = {
    "num_frames": 9,
    "loop": True,
    "noise": (0.6, 0.5, 0.4, 0.3),
    "seed": 2**62,
    "solver": "ddim",
    "eta": 0.3,
    "prompt": ("a cat", "ein Löwe, \U0001f981"),
    "prompt_at": {0.5: "a lynx", 0.1 + 0.2: "x"},
    "candidates": 4,
    "rank_for": ("sharp",),
    "network_size": "320x240",
    "background": "#102030",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_a_help_text_and_a_default(kind: type[Any]) -> None:
    for name, field in fields(kind).items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert not field.is_required(), name
    assert dict(kind()) == {name: f.default_factory() if f.default_factory else f.default  # type: ignore[call-arg]
                                          for name, f in fields(kind).items()}  # fmt: skip


def test_no_name_stands_for_two_settings() -> None:
    names = [name for kind in (MorphSettings, ComputeSettings, FilmSettings) for name in fields(kind)]
    assert len(names) == len(set(names))
    assert option_name("num_frames") == "--num-frames"


def test_the_defaults_are_the_designs() -> None:
    settings = MorphSettings()
    assert (settings.num_frames, settings.noise) == (17, (0.30, 0.55))
    assert (settings.scheme, settings.branching, settings.bias, settings.seed) == ("branching", 2, 0, 0)
    assert (settings.candidates, settings.control_scale, settings.eta) == (1, 1.5, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 2}, "num_frames: input should be greater than or equal to 3, not 2"),
        ({"num_frames": 1026}, "num_frames: input should be less than or equal to 1025, not 1026"),
        ({"num_frames": "many"}, "num_frames: input should be a valid integer.*not 'many'"),
        ({"noise": (0.0, 0.5)}, "noise: input should be greater than 0, not 0.0"),
        ({"noise": (0.3, 1.0)}, "noise: input should be less than 1, not 1.0"),
        ({"noise": (0.5, 0.3)}, "noise is a range from low to high, not from 0.5 to 0.3"),
        ({"noise": (0.3, float("nan"))}, "noise: .*finite"),
        ({"noise": ()}, "noise: "),
        (
            {"noise": (0.5, 0.4, 0.3), "scheme": "interpolate-denoise"},
            "noise: interpolate-denoise takes a range of two numbers, not 3 levels",
        ),
        ({"scheme": "morph"}, "scheme: input should be 'branching'.*not 'morph'"),
        ({"solver": "heun"}, "solver: .*not 'heun'"),
        ({"fram": 3}, "unknown setting 'fram'"),
        ({"inversion_iterations": 3}, "unknown setting 'inversion_iterations'; did you mean inversion?"),
        ({"spacing": "even"}, "spacing is uniform, perceptual or perceptual:NETWORK, not 'even'"),
        ({"spacing": "uniform:pixels"}, "spacing is uniform"),
        ({"spacing": "perceptual:foo"}, "unknown feature network 'foo'"),
        ({"size": "big"}, "size: "),
        ({"prompt": ("a", " ")}, "prompt: an empty text"),
        ({"rank_for": "a cat"}, "rank_for and rank_against need candidates"),
        ({"rank_against": "a cat"}, "rank_for and rank_against need candidates"),
        ({"control_start": 0.8, "control_end": 0.2}, r"control_start \(0.8\) lies behind control_end \(0.2\)"),
        ({"eta": 0.3}, "eta needs the solver ddim or tcd, not dpm"),
        ({"branching": 1}, "branching: .*not 1"),
        ({"bias": 1.0}, "bias: .*not 1.0"),
        ({"bias": 0.2, "scheme": "interpolate-denoise"}, "bias needs the scheme branching, not interpolate-denoise"),
        ({"attention": "outer", "scheme": "noise-diffusion"}, "attention: noise-diffusion has no parents"),
        ({"retroactive": True}, "retroactive needs the scheme denoise-interpolate-denoise, not branching"),
        ({"zoom": "wide"}, "zoom: .*not 'wide'"),
        ({"pan": 0.5}, "pan takes two numbers for a gap, as 0.5,0, not 0.5"),
        ({"seed": -1}, "seed: .*not -1"),
        ({"candidates": 2, "scheme": "interpolate"}, "candidates need the scheme branching, not interpolate"),
    ],
)
def test_a_wrong_value_gets_one_line_that_names_it(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SegueError) as error:
        parse_settings(MorphSettings, values)
    assert re.match(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [ComputeSettings, FilmSettings])
def test_other_kinds_are_checked_too(kind: type[Any]) -> None:
    with pytest.raises(SegueError, match="unknown setting 'num_frames'"):
        parse_settings(kind, {"num_frames": 9})


def test_film_settings_are_bounded() -> None:
    for values in ({"fps": 0}, {"fps": float("inf")}, {"seconds": 0}, {"hold": -1}, {"quality": 52}):
        with pytest.raises(SegueError, match=f"{next(iter(values))}: "):
            parse_settings(FilmSettings, values)


def test_one_prompt_is_a_list_of_one() -> None:
    assert parse_settings(MorphSettings, {"prompt": "a cat"}).prompt == ("a cat",)
    assert parse_settings(MorphSettings, {"prompt": ["a cat", "a dog"]}).prompt == ("a cat", "a dog")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FilmSettings(fps=0), "fps: input should be greater than or equal to 0.1, not 0"),
        (lambda: FilmSettings(easing="x"), "easing is one of linear, "),
        (lambda: MorphSettings(frames=1), "unknown setting 'frames'"),  # type: ignore[call-arg]
        (lambda: ComputeSettings(batch_size=-1), "batch_size: "),
    ],
)
def test_a_class_of_settings_gives_one_line_too(build: Any, message: str) -> None:
    with pytest.raises(SegueError) as error:
        build()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MorphSettings, {"inversion_batch": 8}, "inversion_batch changes nothing without --inversion"),
        (MorphSettings, {"pose": "off", "control_scale": 2}, "control_scale changes nothing with --pose off"),
        (
            MorphSettings,
            {"control_image": "a.png", "pose_hold": True},
            "pose_hold changes nothing beside --control-i",
        ),
        (MorphSettings, {"scheme": "interpolate", "noise": (0.2, 0.4)}, "noise changes nothing with --scheme inter"),
        (MorphSettings, {"ranker": "a/clip"}, "ranker changes nothing without --rank-for"),
    ],
)
def test_what_changes_nothing_is_told(kind: Any, values: dict[str, Any], message: str) -> None:
    (line,) = list_ineffective(parse_settings(kind, values), values)
    assert line.startswith(message)
    assert list_ineffective(parse_settings(kind, values), ()) == []


def test_every_setting_can_have_an_effect() -> None:
    settings = {
        "inversion": 3,
        "candidates": 2,
        "rank_for": "x",
        "zoom": 2.0,
        "pose": "auto",
        "align": False,
    }
    assert list_ineffective(parse_settings(MorphSettings, settings), fields(MorphSettings)) == []


def test_files_may_be_paths() -> None:
    paths = {"control_image": [Path("a.png"), "b.png"], "pose": "off"}
    assert parse_settings(MorphSettings, paths).control_image == ("a.png", "b.png")
    assert parse_settings(MorphSettings, {"control_image": Path("a.png")}).control_image == ("a.png",)
    assert parse_settings(MorphSettings, {"pose": Path("a.json")}).pose == "a.json"


def test_one_value_for_all_gaps_needs_no_list() -> None:
    one = parse_settings(MorphSettings, {"zoom": 1.5, "rotate": 90, "pan": (0.5, 0), "noise": 0.4})
    assert (one.zoom, one.rotate, one.pan, one.noise) == ((1.5,), (90.0,), ((0.5, 0.0),), (0.4, 0.4))
    assert (
        parse_settings(MorphSettings, {"pan": "0.5,0"}).pan
        == parse_settings(MorphSettings, {"pan": ["0.5,0"]}).pan
        == one.pan
    )
    assert parse_settings(MorphSettings, {"pan": [(0.5, 0), (1, 1)]}).pan == ((0.5, 0.0), (1.0, 1.0))


def test_settings_are_the_same_after_json() -> None:
    settings = parse_settings(MorphSettings, EVERYTHING)
    text = json.dumps(as_json(settings))
    assert parse_settings(MorphSettings, json.loads(text)) == settings
    assert parse_settings(MorphSettings, json.loads(json.dumps(as_json(MorphSettings())))) == MorphSettings()
    assert parse_settings(ComputeSettings, json.loads(json.dumps(as_json(ComputeSettings())))) == ComputeSettings()
    assert parse_settings(FilmSettings, json.loads(json.dumps(as_json(FilmSettings())))) == FilmSettings()


def test_differences_are_shown() -> None:
    before, after = (
        as_json(MorphSettings()),
        as_json(parse_settings(MorphSettings, {"num_frames": 33, "prompt": "a cat"})),
    )
    assert differences(before, before) == []
    assert differences(before, after) == ["num_frames: 17, now 33", "prompt: [], now ['a cat']"]
    assert differences({}, {"seed": 1}) == ["seed: None, now 1"]


def test_an_update_changes_some_and_checks_all() -> None:
    settings = parse_settings(MorphSettings, {"num_frames": 9, "candidates": 3})
    assert update_settings(settings, {"seed": 4}) == parse_settings(
        MorphSettings, {"num_frames": 9, "candidates": 3, "seed": 4}
    )
    with pytest.raises(SegueError, match="num_frames"):
        update_settings(settings, {"num_frames": 1})


def test_candidates_are_one_fewer_at_each_level_and_at_least_three() -> None:
    for candidates, expected in ((8, [8, 7, 6, 5, 4, 3, 3, 3]), (3, [3, 3, 3]), (2, [2, 2, 2]), (1, [1, 1, 1])):
        settings = parse_settings(MorphSettings, {"candidates": candidates})
        assert [settings.candidates_at(level) for level in range(len(expected))] == expected


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    assert parse_settings(MorphSettings, preset_settings(name, "sd-turbo" if name == "fast" else None))


def test_the_papers_preset() -> None:
    settings = parse_settings(MorphSettings, preset_settings("paper"))
    assert (settings.solver, settings.num_inference_steps, settings.guidance_scale) == ("ddim", 200, 7.5)
    assert (settings.inversion, settings.candidates, settings.noise) == (500, 8, (0.30, 0.55))
    assert (settings.eta, settings.num_frames, settings.align, settings.detail) == (0, 17, False, 0)
    assert (settings.inversion_learning_rate, settings.control_scale) == (1e-4, 1.5)
    assert all((settings.negative_prompt, settings.rank_for, settings.rank_against))
    with pytest.raises(SegueError, match="unknown preset 'best'; choose from paper, balanced, draft, fast"):
        preset_settings("best")


def test_the_papers_preset_ranks_where_there_are_candidates() -> None:
    assert with_preset("paper", {})["candidates"] == 8
    assert with_preset("paper", {"candidates": 3})["candidates"] == 3
    assert with_preset("paper", {"rank_for": "a cat"})["rank_for"] == "a cat"
    for alone in ({"candidates": 1}, {"scheme": "interpolate"}):
        assert not {"rank_for", "rank_against"} & with_preset("paper", alone).keys()
        parse_settings(MorphSettings, with_preset("paper", alone))


def test_pocket_has_its_own_defaults_under_those_of_a_preset() -> None:
    assert with_preset("balanced", {})["noise"] == (0.2, 0.2)
    assert with_preset("balanced", {}, "some/checkpoint") == {}
    assert with_preset("paper", {})["noise"] == (0.30, 0.55)
    assert with_preset("balanced", {"guidance_scale": 3.0}, "pocket")["guidance_scale"] == 3.0


def test_the_names_are_those_of_the_fields() -> None:
    for scheme in SCHEMES:
        assert parse_settings(MorphSettings, {"scheme": scheme}).scheme == scheme
    for solver in SOLVERS:
        assert parse_settings(MorphSettings, {"solver": solver}).solver == solver


@pytest.mark.parametrize(
    "values", [EVERYTHING, {}, {"pan": ((0.5, 0.0), (0.1, 0.2)), "zoom": (1.5, 2.0), "pose": "off"}]
)
def test_the_text_of_a_setting_is_read_as_it_was(values: dict[str, Any]) -> None:
    settings = parse_settings(MorphSettings, values)
    read = {name: from_text(name, text) for name, value in settings if (text := as_text(value))}
    assert parse_settings(MorphSettings, read) == settings


def test_lists_may_be_json_and_broken_ones_are_named() -> None:
    assert from_text("noise", "[0.2, 0.4]") == from_text("noise", [0.2, 0.4]) == [0.2, 0.4]
    assert from_text("prompt_at", '{"1/2": "a fox"}') == {0.5: "a fox"}
    with pytest.raises(SegueError, match="noise: broken JSON"):
        from_text("noise", "[0.2, ")


def test_a_settings_file_gives_back_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    values = {**EVERYTHING, "noise": [0.6, 0.5, 0.4, 0.3], "points": str(tmp_path / "points.json"), "images": ["a.png"]}
    odd = 'a "quoted" \\ text\twith \x7f and \n a line'
    write_config(
        tmp_path / "run/s.toml", {**as_json(MorphSettings(prompt=(odd,))), "images": ["a.png"]}, tmp_path / "run"
    )
    assert read_config(tmp_path / "run/s.toml")["prompt"] == [odd]
    write_config(
        tmp_path / "run/s.toml", {**as_json(parse_settings(MorphSettings, EVERYTHING)), **values}, tmp_path / "run"
    )
    assert 'points = "../points.json"' in (tmp_path / "run/s.toml").read_text()
    read = read_config(tmp_path / "run/s.toml")
    assert read.pop("images") == [str(Path("a.png").absolute())]
    assert read["points"] == str(tmp_path / "points.json")
    expected = {**EVERYTHING, "points": read["points"]}
    assert parse_settings(MorphSettings, read) == parse_settings(MorphSettings, expected)

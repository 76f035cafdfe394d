"""How progress is shown where no terminal is."""

import json
import sys
import time
from dataclasses import replace

import pytest

from segue.cli.display import Line, Mode, show_as_lines, show_progress
from segue.engine.dialogue import Progress, describe, duration
from segue.errors import Notice, hearing, warn

TOLD = Progress("words", text='captions: "cat face, noto" (92 %)')
STATES = [Line("a", 1, 9, part=1), Line("b", part=1), Line("c", part=2, news="the news"), Line("d", plain="D", part=2)]


def test_a_line_for_each_part_and_all_news(capsys: pytest.CaptureFixture[str]) -> None:
    with show_as_lines("plain", lambda line: line, unit="rows") as show:
        for state in STATES:
            show(state)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["a", "the news", "c"]
    assert not shown.out


def test_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 104.9, 105.0, 110.5])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with show_as_lines("live", Line, unit="rows") as show:  # no terminal here
        for text in "abcd":
            show(text)
    assert capsys.readouterr().err.splitlines() == ["a", "c", "d"]


def test_json_lines_and_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with show_as_lines("json", lambda n: Line(str(n)), record=lambda n: {"n": n}, unit="rows") as show:
        show(3)
    assert json.loads(capsys.readouterr().out) == {"n": 3}
    with show_as_lines("quiet", lambda n: Line(str(n)), unit="rows") as show:
        show(3)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_live_line_and_keeps_the_news(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with show_as_lines("live", lambda line: line, unit="rows") as show:
        for state in STATES:
            show(state)
    assert "the news\n" in capsys.readouterr().err


def test_silence_holds_for_notes_too() -> None:
    told: list[Notice] = []
    with hearing(told.append), show_as_lines("quiet", lambda line: line, unit="rows"):
        warn("a note")
    assert not told


@pytest.mark.parametrize("mode", ["live", "plain", "json"])
def test_a_notice_is_a_line_on_standard_error(mode: Mode, capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(mode) as show:
        show(Notice("a note"))
    assert capsys.readouterr() == ("", "segue: a note\n")


def test_the_bar_stays_full_while_the_film_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with show_progress("live") as show:
        show(Progress("frames", level=2, levels=2, frames=3, total=3, step=42, steps=42))
        show(Progress("film", total=5))
    last = capsys.readouterr().err.rpartition("writing the film")[2]
    assert "42/42" in last


@pytest.mark.parametrize("mode", ["live", "plain", "json"])
def test_captions_are_shown_at_once(
    mode: Mode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    with show_progress(mode) as show:
        show(TOLD)
        show(Progress("frames", levels=4, total=15, steps=90))
    shown = capsys.readouterr()
    if mode == "json":
        lines = [json.loads(line) for line in shown.out.splitlines()]
        assert [(line["stage"], line["text"]) for line in lines] == [("words", TOLD.text), ("frames", "")]
    elif mode == "plain":
        assert shown.err.splitlines() == [TOLD.text, "15 frames in 4 levels, 90 denoising steps"]
    else:
        assert f"{TOLD.text}\n" in shown.err
        assert shown.err.count(TOLD.text) == 1, "news stays above the bar, and is not beside it"


def test_progress_in_words() -> None:
    assert describe(TOLD) == TOLD.text
    assert describe(Progress("words", step=2, steps=9)) == "fitting the words, iteration 2 of 9"
    begun = Progress("frames", levels=4, total=15, steps=90)
    assert describe(begun) == "15 frames in 4 levels, 90 denoising steps"
    assert describe(replace(begun, level=2, frames=3, left=12.2)) == "level 2 of 4, frame 3 of 15, 12 s left"
    decided_on_the_way = replace(begun, levels=0)
    assert describe(decided_on_the_way) == "at most 15 frames, 90 denoising steps"
    assert describe(replace(decided_on_the_way, level=5, frames=3)) == "level 5, frame 3 of 15"


@pytest.mark.parametrize(("seconds", "text"), [(45.4, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

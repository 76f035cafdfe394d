"""Who hears of what a user should know."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from notices import SegueWarning
from shapes import QUICK, picture, tiny_interpolator

from segue.engine.dialogue import Progress
from segue.errors import Notice, SegueError, hearing, warn
from segue.pictures.files import quiet_pillow
from segue.pictures.images import load

SAID = {"noise": (0.1, 0.9), "zoom": 0.5, "align": False}


def test_a_callback_is_given_the_notices_of_its_film(tmp_path: Path) -> None:
    told: list[Progress | Notice] = []
    tiny_interpolator()(picture(0), picture(1), output=tmp_path / "run", callback=told.append, **{**QUICK, **SAID})
    assert len([each for each in told if isinstance(each, Notice)]) == 3


def test_without_a_callback_notices_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(SegueWarning, match="^a note$"):
        warn("a note")
    assert caplog.record_tuples == [("segue", logging.WARNING, "a note")]


def test_the_innermost_hears_every_notice_as_one_line() -> None:
    told: list[Notice] = []
    with hearing(told.append):
        warn("two\nlines")
        with hearing():
            warn("not now")
        warn("again")
        warn("again")
    assert told == [Notice("two lines"), Notice("again"), Notice("again")]


def test_threads_that_read_pictures_leave_the_filters_as_they_were(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(load, tmp_path / "a.png") for _ in range(200)]
        for _ in range(20):
            with quiet_pillow():
                pass
        for read in busy:
            read.result()
    assert warnings.filters == before
    with pytest.warns(SegueWarning, match="heard again"):
        warn("heard again")


def test_an_error_is_a_value_error() -> None:
    assert issubclass(SegueError, ValueError)

"""Who hears of what a user should know."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shapes import QUICK, interpolator, picture

from segue.errors import SegueError, SegueWarning, heard, unheard, warn
from segue.pictures.images import load


def test_a_warning_points_to_the_line_that_called_the_package(tmp_path: Path) -> None:
    with pytest.warns(SegueWarning) as found:
        interpolator()(
            picture(0),
            picture(1),
            output=tmp_path / "run",
            **{**QUICK, "noise": (0.1, 0.9), "zoom": 0.5, "align": False},
        )
    ours = [warning for warning in found if warning.category is SegueWarning]
    assert len(ours) == 3
    assert {warning.filename for warning in ours} == {__file__}


def test_lines_are_handed_over_and_other_warnings_are_not() -> None:
    lines: list[str] = []
    with heard(lines.append):
        warn("two\nlines")
        warnings.warn("of a library", stacklevel=1)
        with unheard():
            warn("not now")
        warn("again")
        warn("again")
    assert lines == ["two lines", "again", "again"]


def test_threads_that_read_pictures_leave_the_filters_as_they_were(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(load, tmp_path / "a.png") for _ in range(200)]
        for _ in range(20):
            with heard(print):
                pass
        for read in busy:
            read.result()
    assert warnings.filters == before
    with pytest.warns(SegueWarning, match="heard again"):
        warn("heard again")


def test_an_error_is_a_value_error() -> None:
    assert issubclass(SegueError, ValueError)

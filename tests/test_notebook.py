"""A film in a notebook: what it shows, its frames, its progress."""

import base64
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from shapes import QUICK, picture, tiny_interpolator

from segue.engine.bar import Bar, is_notebook
from segue.engine.dialogue import Progress
from segue.errors import SegueError
from segue.film import morph as morph_module
from segue.film.morph import Frames, Morph

A, B = picture(0), picture(1)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Morph:
    return tiny_interpolator()(A, B, output=tmp_path_factory.mktemp("film") / "run", **QUICK)


def test_images_come_one_by_one_or_in_a_list(film: Morph, tmp_path: Path) -> None:
    for number, images in enumerate(([A, B], (A, B))):
        other = tiny_interpolator()(images, output=tmp_path / str(number), **QUICK)
        assert [frame.tobytes() for frame in other] == [frame.tobytes() for frame in film]
    with pytest.raises(SegueError, match="a film needs at least two images, not 1"):
        tiny_interpolator()([A], output=tmp_path / "one", **QUICK)
    with pytest.raises(SegueError, match="a picture is a path, a PIL image or a numpy array, not list"):
        tiny_interpolator()([A, B], A, output=tmp_path / "mixed", **QUICK)


def test_a_film_is_a_sequence_of_frames(film: Morph) -> None:
    assert len(film) == len(film.frames) == len(list(film)) == QUICK["num_frames"]
    assert film[0].tobytes() == A.tobytes()
    assert film[-1].tobytes() == B.tobytes()
    assert film[1].tobytes() == film.frames[1].tobytes() != A.tobytes()
    part = film[1:-1]
    assert isinstance(part, Frames)
    assert len(part) == len(film) - 2
    with pytest.raises(IndexError):
        film[len(film)]


def test_it_says_what_it_is(film: Morph) -> None:
    size = f"{A.width} x {A.height}"
    assert repr(film) == f"<Morph of {len(film)} frames, 2 of them keyframes, {size}, in {film.path}>"


def test_a_notebook_shows_the_film(film: Morph) -> None:
    shown = film._repr_html_()
    found = re.fullmatch(
        r'<video src="data:video/mp4;base64,([^"]+)" title="&lt;Morph of [^"]*&gt;" .*></video>', shown
    )
    assert found is not None
    with av.open(io.BytesIO(base64.b64decode(found[1]))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert frames[0].shape[:2] == (A.height, A.width)
    assert np.abs(frames[0].astype(int) - np.asarray(A)).mean() < 12


def test_or_the_sheet_where_the_film_is_large(film: Morph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(morph_module, "MOST_SHOWN", 100)
    found = re.fullmatch(r'<img src="data:image/jpeg;base64,([^"]+)" alt="[^"]*">', film._repr_html_())
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as sheet:
        assert sheet.size == film.contact_sheet().size


def test_a_bar_follows_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_interpolator()(A, B, output=tmp_path / "run", callback=Bar(), **QUICK)
    said = capsys.readouterr().err
    last = said.rstrip().rpartition("\r")[2]
    assert re.search(r"frames: 100%.*(\d+)/\1 .*3 of 3 frames", last), last


def test_a_notebook_gets_a_bar_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    monkeypatch.setattr(Bar, "__call__", lambda _self, progress: seen.append(progress))
    tiny_interpolator()(A, B, output=tmp_path / "plain", **QUICK)
    assert not seen

    def shell(**config: Any) -> Any:
        return SimpleNamespace(get_ipython=lambda: SimpleNamespace(config=config))

    monkeypatch.setitem(sys.modules, "IPython", shell(TerminalIPythonApp={}))
    assert not is_notebook()
    monkeypatch.setitem(sys.modules, "IPython", shell(IPKernelApp={}))
    assert is_notebook()
    tiny_interpolator()(A, B, output=tmp_path / "shown", **QUICK)
    assert seen[-1].frames == seen[-1].total == QUICK["num_frames"] - 2

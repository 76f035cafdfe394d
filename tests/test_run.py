"""The run folder: locked, cleared, damaged."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from shapes import QUICK, contents, picture, tiny_interpolator

from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.run.folder import RunFolder
from segue.run.journal import Choice, Remake, Undo
from segue.run.schema import RUN_FILE, read_part

KEY = FrameKey(0, Fraction(1, 2))
RUN = '{"settings": {}, "size": [8, 8], "keyframes": [], "model": {"name": "a", "fingerprint": "b"}, "batch_size": 1}'


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run") as run:
        yield run


def test_what_is_saved_is_read_again(run: RunFolder) -> None:
    a, b = torch.randn(4, 2, 2), torch.randn(4, 2, 2)
    run.save_latents({"a": a, "b": b})
    run.save_picture("a", picture(0))
    run.save_keyframe(FrameKey(0), picture(1))
    run.settle(KEY, "a")
    run.record(Choice(KEY, 1, "context", "rank", {0: 0.5, 1: 0.75}))
    data = {
        "settings": {"prompt": "Löwe"},
        "size": [8, 8],
        "keyframes": [],
        "model": {"name": "a", "fingerprint": "b"},
        "batch_size": 1,
    }
    run.write(RUN_FILE, data)
    for _ in range(2):
        first, second = run.latent("a"), run.latent("b")
        assert first is not None
        assert second is not None
        assert torch.equal(first, a)
        assert torch.equal(second, b)
        assert run.latent("c") is None
        assert run.has_picture("a")
        assert not run.has_picture("b")
        assert run.picture("a").tobytes() == run.shown_image(KEY).tobytes() == picture(0).tobytes()
        assert run.shown_image(FrameKey(0)).tobytes() == picture(1).tobytes()
        assert run.is_showing(KEY, "a")
        assert run.read(RUN_FILE) == data
        assert run.read("state.json") is None
        assert run.history.events == [Choice(KEY, 1, "context", "rank", {0: 0.5, 1: 0.75})]
        run.reset()


def test_pictures_are_saved_side_by_side(run: RunFolder) -> None:
    run.save_pictures((str(i), picture(i)) for i in range(20))
    assert all(run.picture(str(i)).tobytes() == picture(i).tobytes() for i in range(20))
    assert len(list((run.path / "pictures").iterdir())) == 20


def test_of_many_pictures_the_one_that_cannot_be_saved_is_named(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, taken = run.save_picture, []

    def refuse(cache_key: str, image: Image.Image) -> None:
        if cache_key == "1":
            raise SegueError("1 cannot be written: No space left on device")
        save(cache_key, image)

    def make_pictures() -> Iterator[tuple[str, Image.Image]]:
        for i in range(50):
            taken.append(i)
            yield str(i), picture(i)

    monkeypatch.setattr(run, "save_picture", refuse)
    with pytest.raises(SegueError, match=r"^1 cannot be written: No space left on device$"):
        run.save_pictures(make_pictures())
    assert run.has_picture("0")
    assert len(taken) < 50  # and no more are made than were under way


def test_a_frame_stays_when_its_picture_is_dropped(run: RunFolder) -> None:
    run.save_picture("a", picture(0))
    run.settle(KEY, "a")
    run.drop(["a", "b"])
    assert not run.has_picture("a")
    assert run.shown_image(KEY).tobytes() == picture(0).tobytes()
    run.save_picture("c", picture(1))
    assert not run.is_showing(KEY, "c")
    run.settle(KEY, "c")
    assert run.is_showing(KEY, "c")
    run.forget_frames([FrameKey(0)])
    assert not run.frame(KEY).exists()


def test_a_file_system_without_links(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run.save_picture("a", picture(0))
    run.settle(KEY, "a")
    assert run.is_showing(KEY, "a")
    assert run.shown_image(KEY).tobytes() == picture(0).tobytes()
    assert not run.frame(KEY).samefile(run.path / "pictures" / "a.png")


def test_a_second_opening_is_refused_while_the_first_is_open(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder(path) as run:
        run.write(RUN_FILE, {})
        with pytest.raises(SegueError, match="run is in use by another process"):
            RunFolder(path)
        other = subprocess.run(
            [sys.executable, "-c", "import sys, filelock\nfilelock.FileLock(sys.argv[1]).acquire(blocking=False)",
             str(path / "lock")],
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        assert b"filelock._error.Timeout" in other.stderr
    RunFolder(path).close()


def test_a_lock_that_a_dead_process_left_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    code = "import fcntl, os, sys\nf = open(sys.argv[1], 'w')\nfcntl.flock(f, fcntl.LOCK_EX)\nos.kill(os.getpid(), 9)"
    dead = subprocess.run([sys.executable, "-c", code, str(path / "lock")], stdin=subprocess.DEVNULL, check=False)
    assert dead.returncode == -9
    assert (path / "lock").exists()
    with RunFolder(path) as run:
        run.write(RUN_FILE, {})


def test_a_damaged_journal_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder(path) as run:
        run.write(RUN_FILE, {})
        run.record(Undo())
    journal = path / "journal.jsonl"
    journal.write_text("rubbish\n" + journal.read_text())
    for _ in range(2):
        with pytest.raises(SegueError, match=r"journal\.jsonl, line 1: not an event of a run: rubbish"):
            RunFolder(path)
    with (path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder(path) as run:
        run.write(RUN_FILE, {})
        run.record(Remake(key=KEY, candidate=1))
    whole = (path / "journal.jsonl").read_text()
    (path / "journal.jsonl").write_text(whole + '{"event": "re')
    with RunFolder(path) as run:
        assert run.history.events == [Remake(key=KEY, candidate=1)]
        run.record(Undo())
    assert (path / "journal.jsonl").read_text() == whole + '{"event": "undo"}\n'
    (path / "journal.jsonl").write_text('{"event"')
    with RunFolder(path) as run:
        assert run.history.events == []


def test_damaged_latents_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    morph = tiny_interpolator()(picture(0), picture(1), output=path, **QUICK)
    before = contents(path)
    latents = sorted((path / "latents").iterdir())
    latents[0].write_bytes(latents[0].read_bytes()[:50])
    latents[-1].write_bytes(b"")
    (path / "pictures" / next((path / "pictures").iterdir()).name).unlink()
    tiny_interpolator()(picture(0), picture(1), output=path, **QUICK)
    assert contents(path) == before
    assert len(morph) == 5


def test_unfinished_files_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder(path) as run:
        run.write(RUN_FILE, {})
        run.save_picture("a", picture())
    left = [path / ".run.json.0123abcd.part", path / "pictures" / ".b.png.0123abcd.part"]
    for file in left:
        file.write_bytes(b"half")
    RunFolder(path).close()
    assert not any(file.exists() for file in left)
    assert (path / "pictures" / "a.png").exists()


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    for name in ("photo.png", "lock", "frames"):
        folder = tmp_path / f"with-{name}"
        folder.mkdir()
        (folder / name).write_text("mine")
        if name == "lock":
            (folder / "notes.txt").write_text("mine too")
        before = contents(folder)
        with pytest.raises(SegueError, match="holds other files but no run"):
            RunFolder(folder)
        assert contents(folder) == before
    with pytest.raises(SegueError, match="is a file; a run needs a folder"):
        RunFolder(tmp_path / "with-photo.png" / "photo.png")
    with pytest.raises(SegueError, match="cannot be written"):
        RunFolder(tmp_path / "with-photo.png" / "photo.png" / "deeper")


def test_clearing_removes_only_what_a_run_made(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        run.write(RUN_FILE, {})
        run.save_picture("a", picture())
        run.settle(KEY, "a")
        run.record(Undo())
        (run.path / "my-film.mp4").write_bytes(b"mine")
        run.save_image("control/000.0000000.png", picture())
        run.write("distances.json", {})
        run.clear()
        assert sorted(path.name for path in run.path.iterdir()) == ["lock", "my-film.mp4"]
        assert run.history.events == []


def test_a_run_that_was_never_begun_leaves_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new").close()
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    RunFolder(tmp_path / "there").close()
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"run\.json is damaged: Expecting property name"),
        ("[]", r"run\.json is damaged: it is not a JSON object"),
        ('{"settings": {}, "model": {}}', r"it lacks size, keyframes, model/name, model/fingerprint, batch_size$"),
        (RUN.replace('"settings": {}', '"settings": 3'), r"settings: input should be a valid dictionary, not 3$"),
        (RUN.replace("[8, 8]", '"x"'), r"size: input should be a valid list, not 'x'$"),
        (RUN.replace("[8, 8]", '[8, "8"]'), r"size/1: input should be a valid integer, not '8'$"),
        (RUN.replace("[8, 8]", "[8]"), r"size: list should have at least 2 items .*, not \[8\]$"),
        (RUN.replace('"batch_size": 1', '"batch_size": "x"'), r"batch_size: input should be a valid integer, not 'x'$"),
        (RUN.replace('"b"', "[]"), r"model/fingerprint: input should be a valid string, not \[\]$"),
    ],
)
def test_a_damaged_run_file_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / RUN_FILE).write_text(content)
    with RunFolder(tmp_path) as run, pytest.raises(SegueError, match=message):
        run.read(RUN_FILE)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"place": "1/2", "name": "a"}, "it lacks frames/0/level$"),
        ({"place": "x", "name": "a", "level": 0}, "frames/0/place: value error, invalid literal for fraction: 'x'"),
        ({"place": "1/2", "name": "a", "level": "0"}, "frames/0/level: input should be a valid integer, not '0'$"),
    ],
)
def test_a_damaged_state_is_an_error(tmp_path: Path, frame: dict[str, Any], message: str) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"frames": [frame]}))
    with pytest.raises(SegueError, match=message):
        read_part(tmp_path, "state.json")


def test_pictures_are_rgb_whatever_the_file_is(run: RunFolder) -> None:
    run.save_picture("a", Image.new("L", (8, 8), 100))
    assert run.picture("a").getpixel((0, 0)) == (100, 100, 100)

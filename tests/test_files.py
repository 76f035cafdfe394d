import json
import os
import re
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segue.errors import SegueError
from segue.files import (
    append_line,
    check_writable,
    sweep,
    write_bytes,
    write_json,
    write_text,
    writing,
    writing_folder,
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full after ``size`` bytes of a file: the same errors, also for root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with writing(path) as temporary:
        assert temporary.parent.samefile(tmp_path)
        assert not temporary.exists()
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["film.mp4"]


@pytest.mark.parametrize("fault", [RuntimeError("x"), KeyboardInterrupt(), SegueError("x")])
def test_a_fault_leaves_the_old_file_and_nothing_else(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise fault

    with pytest.raises(type(fault)), writing(path) as temporary:
        fail(temporary)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["film.mp4"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match=r"film\.mp4 cannot be written: No such file"), writing(tmp_path / "film.mp4"):
        pass
    assert names(tmp_path) == []


def test_a_link_to_the_same_file_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    with writing(tmp_path / "b") as temporary:
        os.link(tmp_path / "a", temporary)
    assert names(tmp_path) == ["a", "b"]


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(Path("disk") / "film")
    write_text(tmp_path / "link", "one")
    write_text(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "film").read_text() == "two"
    assert names(tmp_path / "disk") == ["film"]


def test_text_and_json(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ä\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa4\r\nb\n"
    content = {"z": [1, 0.1, None], "a": "Katze 🐈"}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.index("z") < text.index('"a"')
    assert "🐈" in text
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert names(tmp_path) == ["a.json", "a.txt"]


def test_new_files_have_the_usual_rights(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "a", b"")
        append_line(tmp_path / "b", "x")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o644}


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with largest_file(100), pytest.raises(SegueError) as caught:
        write_bytes(path, bytes(1000))
    assert str(caught.value) == f"{path} cannot be written: File too large"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["film.mp4"]


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    append_line(path, "one ä")
    append_line(path, "two")
    assert path.read_bytes() == "one ä\ntwo\n".encode()
    with pytest.raises(ValueError, match="line end"):
        append_line(path, "a\nb")
    with largest_file(path.stat().st_size + 3), pytest.raises(SegueError, match=r"journal\.jsonl cannot be written"):
        append_line(path, "a long line")
    assert path.read_bytes() == "one ä\ntwo\n".encode()
    append_line(path, "three")
    assert path.read_bytes() == "one ä\ntwo\nthree\n".encode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_refuses_lines() -> None:
    with pytest.raises(SegueError, match="/dev/full cannot be written: No space left on device"):
        append_line(Path("/dev/full"), "x")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(SegueError, match=re.escape(f"{folder / 'a'} cannot be written: there is no folder {folder}")):
        write_text(folder / "a", "")


def test_another_file_that_fails_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other" / "source.png"
    with pytest.raises(SegueError, match=re.escape(f"({other})")), writing(tmp_path / "a"):
        other.read_bytes()


def test_sweep_removes_only_what_was_left_behind(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom segue.files import writing\n"
        "with writing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "frame.png")], check=False)
    assert done.returncode == -9
    (left,) = names(tmp_path)
    assert left.startswith(".frame.png.")
    keep = ["frame.png", ".hidden", "notes.part", ".a.part", ".a.0123456g.part"]
    for name in keep:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".a.01234567.part" / "inside").mkdir(parents=True)
    (tmp_path / ".b.01234567.part").write_text("half")
    sweep(tmp_path, "b")
    assert names(tmp_path) == sorted([*keep, left, ".a.01234567.part"])
    sweep(tmp_path)
    assert names(tmp_path) == sorted(keep)
    sweep(tmp_path / "no-such-folder")


def test_check_writable_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "film.mp4")
    check_writable(tmp_path / "new" / "folders" / "film.mp4")
    (tmp_path / "old").write_text("old")
    check_writable(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "old"
    assert names(tmp_path) == ["old"]


def test_check_writable_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SegueError, match="is a folder"):
        check_writable(tmp_path)
    (tmp_path / "text").write_text("")
    with pytest.raises(SegueError, match=re.escape(f"{tmp_path / 'text'} is not a folder")):
        check_writable(tmp_path / "text" / "film.mp4")
    with pytest.raises(SegueError, match=r"/dev/null is not a regular file"):
        check_writable(Path("/dev/null"))
    with pytest.raises(SegueError, match="name too long"):
        check_writable(tmp_path / ("a" * 300))

    def refuse(self: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(SegueError) as caught:
        check_writable(tmp_path / "film.mp4")
    assert str(caught.value) == f"{tmp_path / 'film.mp4'} cannot be written: Permission denied"


def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".png")
    write_text(path, "x")
    assert names(tmp_path) == [path.name]


def test_a_folder_that_is_interrupted_between_old_and_new_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace, moves = tmp_path / "frames", Path.replace, 0
    path.mkdir()
    (path / "old").touch()

    def interrupt(source: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == 2:
            raise KeyboardInterrupt
        return replace(source, target)

    def write() -> None:
        with writing_folder(path) as temporary:
            (temporary / "new").touch()

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    for content in (["0000", "0001", "0002"], ["0000"]):
        with writing_folder(path) as temporary:
            for name in content:
                (temporary / name).write_text(name)
        assert names(path) == content
        assert names(tmp_path) == ["frames"]

    def fail(temporary: Path) -> None:
        (temporary / "0001").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writing_folder(path) as temporary:
        fail(temporary)
    assert names(path) == ["0000"]
    assert names(tmp_path) == ["frames"]


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "frames"
    path.mkdir()
    (path / "old").touch()
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise PermissionError(13, "Permission denied", str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SegueError, match="frames cannot be written: Permission denied"), writing_folder(path) as folder:
        (folder / "new").touch()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["frames"]

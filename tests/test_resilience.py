"""What memory, numbers and disks do to a run: one line that says it, nothing lost, and the same film in the end."""

import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_runs import FILMS, Trial
from notices import SegueWarning
from PIL import Image
from tiny import tiny_pipe

from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import Notice, SegueError
from segue.lock import InUseError
from segue.machine import is_out_of_memory
from segue.run.folder import RunFolder

SETTINGS: dict[str, Any] = {
    "num_frames": 5,
    "num_inference_steps": 2,
    "prompt": "cat",
    "batch_size": 4,
    "align": False,
}


@pytest.fixture(scope="module")
def interpolator() -> Interpolator:
    return Interpolator(tiny_pipe())


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in "ab"]


@pytest.fixture(scope="module")
def unbroken(interpolator: Interpolator, images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    interpolator(*images, output=run, **SETTINGS)
    return run


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run but its lock; unfinished files too, so that none may be left."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def frames(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "frames").glob("*.png"))}


# Memory and numbers.


class Wrapped:
    """A backbone of which one method is another one."""

    def __init__(self, backbone: Any, **methods: Callable[..., Any]) -> None:
        self.backbone = backbone
        self.__dict__ |= methods

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)


def out_of_memory(interpolator: Interpolator, most: int) -> tuple[Any, list[int]]:
    """A backbone whose memory holds so many samples, and the sizes of the batches that were denoised."""
    done: list[int] = []

    def denoise(z: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        if len(z) > most:
            keywords["progress"]()  # a step was done before the memory was used up
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        done.append(len(z))
        return interpolator.backbone.denoise(z, *arguments, **keywords)

    return Wrapped(interpolator.backbone, denoise=denoise), done


@pytest.mark.parametrize(("most", "sizes"), [(3, [1, 2, 2, 2, 2]), (1, [1] * 7 + [1, 1])])
def test_out_of_memory_halves_the_batch(
    interpolator: Interpolator, images: list[Image.Image], tmp_path: Path, most: int, sizes: list[int]
) -> None:
    settings = {**SETTINGS, "num_frames": 9, "batch_size": 0, "detail": 0.0}  # every sample a frame
    whole = interpolator(*images, output=tmp_path / "whole", **settings)
    other = Interpolator(tiny_pipe())
    other.backbone, done = out_of_memory(interpolator, most)
    said: list[Progress | Notice] = []
    morph = other(*images, output=tmp_path / "run", callback=said.append, **settings)
    steps = [each for each in said if isinstance(each, Progress)]
    notice = next(each.text for each in said if isinstance(each, Notice))
    assert re.match(r"^out of memory with \d frames in a batch; going on with \d frames?$", notice)
    assert sum(done) == 7
    assert max(done) <= most
    for frame, same in zip(morph.frames, whole.frames, strict=True):  # equal up to rounding: the batches differ
        assert np.abs(np.asarray(frame, dtype=int) - np.asarray(same, dtype=int)).max() <= 1
    assert steps[-1].step == steps[-1].steps  # what was done in vain does not count

    # A run that is continued keeps to the half.
    shutil.rmtree(tmp_path / "run" / "latents")
    done.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SegueWarning)
        other(*images, output=tmp_path / "run", **settings)
    assert sum(done) == 7


def test_out_of_memory_for_a_single_frame_is_one_line(
    interpolator: Interpolator, images: list[Image.Image], tmp_path: Path
) -> None:
    other = Interpolator(tiny_pipe())
    other.backbone, _ = out_of_memory(interpolator, 0)
    with pytest.raises(SegueError, match="out of memory, even for one frame") as caught:
        other(*images, output=tmp_path / "run", **{**SETTINGS, "batch_size": 1})
    assert "\n" not in str(caught.value)
    assert is_out_of_memory(caught.value)
    for error in (MemoryError(), RuntimeError("MPS backend out of memory (...)")):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_picture_or_keyframe_without_numbers_is_named(
    interpolator: Interpolator, images: list[Image.Image], tmp_path: Path
) -> None:
    other = Interpolator(tiny_pipe())
    nan = Wrapped(
        interpolator.backbone, decode=lambda z, **options: interpolator.backbone.decode(z, **options) * float("nan")
    )
    other.backbone = nan
    with pytest.raises(SegueError, match=r"frame 0.5: .*NaN.*dtype float32"):
        other(*images, output=tmp_path / "decode", detail=0, **SETTINGS)
    assert not frames(tmp_path / "decode")
    nan = Wrapped(interpolator.backbone, encode=lambda x: interpolator.backbone.encode(x) * float("inf"))
    other.backbone = nan
    with pytest.raises(SegueError, match=r"the keyframe at 0: .*NaN.*dtype float32"):
        other(*images, output=tmp_path / "encode", **SETTINGS)
    assert not list((tmp_path / "encode").glob("latents/*"))


def test_a_frame_that_is_blacked_out_stays_black_beside_its_keyframe(
    interpolator: Interpolator, images: list[Image.Image], tmp_path: Path
) -> None:
    """Nothing of the keyframe shows in it; and what the checker says of the keyframe's own way is not asked."""

    asked: list[bool] = []

    def screen(z: torch.Tensor, *, screened: bool = True) -> torch.Tensor:
        asked.append(screened)
        shown = interpolator.backbone.decode(z, screened=screened)
        return torch.full_like(shown, -1) if screened else shown

    other = Interpolator(tiny_pipe())
    other.backbone = Wrapped(interpolator.backbone, decode=screen)
    with pytest.warns(SegueWarning, match="is all black"):
        morph = other(*images, output=tmp_path / "run", **{**SETTINGS, "align": True})
    assert [frame.getbbox() is None for frame in morph.frames] == [False, True, True, True, False]
    assert (asked.count(True), asked.count(False)) == (3, 4)  # the frames; both keyframes alone at two noise levels


def test_a_black_frame_is_named_unless_its_parents_are_black(
    interpolator: Interpolator, images: list[Image.Image], tmp_path: Path
) -> None:
    other = Interpolator(tiny_pipe())
    black = Wrapped(
        interpolator.backbone,
        decode=lambda z, **options: torch.full_like(interpolator.backbone.decode(z, **options), -1),
    )
    other.backbone = black
    settings = {**SETTINGS, "num_frames": 3, "detail": 0}
    with pytest.warns(SegueWarning, match="^frame 0.5 is all black: .*dtype float32"):
        other(*images, output=tmp_path / "one", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SegueWarning)
        other(*[Image.new("RGB", (32, 32))] * 2, output=tmp_path / "two", **settings)


# Disks.


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of a size, where one may be mounted; it is gone at the end."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def one_line(error: BaseException, *texts: str) -> None:
    assert "\n" not in str(error)
    for text in texts:
        assert text in str(error)


@pytest.mark.parametrize("size", ["4k", "48k", "64k"])
def test_a_disk_that_fills_up(
    interpolator: Interpolator, images: list[Image.Image], unbroken: Path, tmp_path: Path, size: str
) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        run = disk / "run"
        with pytest.raises(SegueError) as caught:
            interpolator(*images, output=run, **SETTINGS)
        one_line(caught.value, str(disk), "No space left on device")
        assert not list(disk.rglob("*.part"))
        made = contents(run) if run.exists() else {}
        assert all(made[name] == data for name, data in contents(unbroken).items() if name in made)
        remount(disk, "size=8m")
        interpolator(*images, output=run, **SETTINGS)
        assert contents(run) == contents(unbroken)


@pytest.mark.parametrize("limit", [900, 2500])
def test_a_disk_that_takes_only_small_files(
    interpolator: Interpolator, images: list[Image.Image], unbroken: Path, tmp_path: Path, limit: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(SegueError) as caught:
            interpolator(*images, output=tmp_path / "run", **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(caught.value, str(tmp_path / "run"), "cannot be written")
    assert not list(tmp_path.rglob("*.part"))
    interpolator(*images, output=tmp_path / "run", **SETTINGS)
    assert contents(tmp_path / "run") == contents(unbroken)


def at_frame(number: int, act: Callable[[], None]) -> Callable[[Progress | Notice], None]:
    """A callback that acts once, when so many frames are there."""
    done = False

    def callback(progress: Progress | Notice) -> None:
        nonlocal done
        if isinstance(progress, Notice):
            return
        if progress.stage == "frames" and progress.frames == number and not done:
            done = True
            act()

    return callback


@pytest.mark.parametrize("part", ["latents", "pictures", "frames"])
def test_a_folder_that_becomes_read_only(
    interpolator: Interpolator, images: list[Image.Image], unbroken: Path, tmp_path: Path, part: str
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        run = disk / "run"

        def close() -> None:  # only a part: the disk itself is busy as long as the run's lock is open
            folder = run / part
            folder.mkdir(exist_ok=True)
            subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
            remount(folder, "bind,ro")

        with pytest.raises(SegueError) as caught:
            interpolator(*images, output=run, callback=at_frame(0, close), **SETTINGS)
        one_line(caught.value, str(run / part), "Read-only file system")
        subprocess.run(["umount", str(run / part)], check=True)
        remount(disk, "ro")
        with pytest.raises(SegueError) as caught:
            interpolator(*images, output=run, **SETTINGS)
        one_line(caught.value, str(run), "Read-only file system")
        remount(disk, "rw")
        interpolator(*images, output=run, **SETTINGS)
        assert contents(run) == contents(unbroken)


@pytest.mark.parametrize(
    ("part", "number"), [("", 0), ("", 1), ("pictures", 1), ("latents", 1), ("frames", 1), ("run.json", 0)]
)
def test_a_folder_that_is_removed(
    interpolator: Interpolator, images: list[Image.Image], unbroken: Path, tmp_path: Path, part: str, number: int
) -> None:
    run = tmp_path / "run"

    def remove() -> None:
        path = run / part
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)

    try:
        interpolator(*images, output=run, callback=at_frame(number, remove), **SETTINGS)
    except SegueError as error:
        one_line(error, str(run))
        assert part or not run.exists()
    else:
        assert part  # what was removed had been read already, or was made again
    assert not list(tmp_path.rglob("*.part"))
    interpolator(*images, output=run, **SETTINGS)
    assert contents(run) == contents(unbroken)


# Processes.

HOLDING = """
import sys, time
from pathlib import Path
from segue.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_and_a_stale_lock_is_not(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    command = [sys.executable, "-c", HOLDING, str(run)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with pytest.raises(InUseError, match=rf"^{re.escape(str(run))} is in use by another process$"):
                RunFolder(run)
        finally:
            process.send_signal(signal.SIGKILL)
    assert (run / "lock").exists()
    RunFolder(run).close()
    assert contents(run) == contents(unbroken)


@pytest.mark.parametrize(("film", "count"), [("candidates", 5), ("denoise-interpolate-denoise", 3), ("interpolate", 2)])
def test_a_run_that_is_broken_anywhere_is_continued_to_the_same_film(film: str, count: int, tmp_path: Path) -> None:
    trial = Trial(tmp_path, FILMS[film])
    trial.crashes(count)
    trial.kills(1, random.Random(0))
    assert trial.broken == count + 1
    assert trial.kept


def test_a_run_that_is_broken_while_it_replaces_another_is_one_of_them(tmp_path: Path) -> None:
    trial = Trial(tmp_path, FILMS["plain"])
    trial.replacements(10)
    assert trial.broken == 10

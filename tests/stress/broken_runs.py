"""Break a run at every write and rename, or kill it at random moments; continue it; compare with the unbroken one.

    PYTHONPATH=tests python tests/stress/broken_runs.py crashes [--count N] [--film NAME]
    PYTHONPATH=tests python tests/stress/broken_runs.py replacements [--count N] [--film NAME]
    PYTHONPATH=tests python tests/stress/broken_runs.py kills [--count N] [--seed N] [--film NAME]

The model is loaded once; each run is made in a fork child, which is broken, and continued in another. After each
break every file of the run must be readable; after each continuation the run must equal the unbroken one to the
byte, and no batch that was finished may have been made again. A replacement overwrites a finished run: after each
break the old run is there, whole, or the new one with a frame. Without --count all crashes and replacements are
tried, and 50 kills.
"""

import argparse
import faulthandler
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from tiny import tiny_pipe

from segue.engine.dialogue import Pick
from segue.engine.interpolator import Interpolator
from segue.film.morph import Morph
from segue.run.folder import RunFolder
from segue.run.journal import event_from_json

BASIC: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 2, "prompt": "cat", "batch_size": 2, "align": False}
FILMS: dict[str, dict[str, Any]] = {
    "plain": BASIC,
    "candidates": {**BASIC, "candidates": 2, "inversion": 2, "align": True},
    "denoise-interpolate-denoise": {**BASIC, "scheme": "denoise-interpolate-denoise"},
    "interpolate": {**BASIC, "scheme": "interpolate"},
}
BROKEN = 99  # the exit code of a child that broke itself
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def main() -> None:
    """Parse the command, run it, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=("crashes", "replacements", "kills"))
    parser.add_argument("--count", type=int, help="so many, spread over the run")
    parser.add_argument("--film", choices=FILMS, default="candidates")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    faulthandler.enable()
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)  # a fork child has no other threads
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), FILMS[options.film])
        for kind in options.kinds:
            begun, trial.broken, trial.kept = time.monotonic(), 0, 0
            if kind == "crashes":
                trial.crashes(options.count)
            elif kind == "replacements":
                trial.replacements(options.count)
            else:
                trial.kills(options.count or 50, random.Random(options.seed))
            print(f"{trial.broken} {kind}, {trial.kept} finished batches kept, in {time.monotonic() - begun:.0f} s")


class Trial:
    """A loaded model, the unbroken run, and the breaks so far."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.interpolator = Interpolator(tiny_pipe())
        rng = np.random.default_rng(0)
        self.images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in "ab"]
        self.broken = self.kept = 0
        self.unbroken = folder / "unbroken"
        begun = time.monotonic()
        assert fork(partial(self.make, self.unbroken)) == 0, "the unbroken run failed"
        self.seconds = time.monotonic() - begun
        self.expected = contents(self.unbroken)

    def film(self, run: Path, **own: Any) -> Morph:
        """Make, or continue, the film in a run folder; of candidates the last one is picked."""
        choose = (lambda shown: Pick(max(shown.pictures))) if "candidates" in self.settings else None
        return self.interpolator(*self.images, output=run, choose=choose, **{**self.settings, **own})

    def make(self, run: Path) -> None:
        """Make, or continue, the film in a run folder, and write it."""
        morph = self.film(run)
        morph.contact_sheet(run / "contact-sheet.png")
        morph.save(run / "film")  # a folder of frames

    def stops(self, work: Callable[[], object], count: int | None) -> Sequence[int]:
        """So many of a work's operations of the disk, from the first to the last, by their numbers; or all of them."""
        note = self.folder / "operations"
        assert fork(lambda: note.write_text(str(break_at(math.inf, work)))) == 0, "the unbroken work failed"
        last = int(note.read_text())
        return range(1, last + 1) if count is None else [1 + (last - 1) * i // (count - 1) for i in range(count)]

    def crashes(self, count: int | None = None) -> None:
        """A crash before each operation of the disk; at renames also one in the middle of the write before it."""
        for number in self.stops(partial(self.make, self.folder / "counted"), count):
            run, what = self.folder / f"crash-{number}", f"crash at operation {number}"
            code = fork(partial(break_at, number, partial(self.make, run)))
            assert code == BROKEN, f"{what}: exit code {code}"
            self.resume(run, code, what)

    def replacements(self, count: int | None = None) -> None:
        """A crash before each operation of the disk while a finished run is overwritten by another one."""
        old, new = self.folder / "old", self.folder / "new"
        assert fork(lambda: (self.film(old), self.film(new, seed=9))) == 0, "the unbroken runs failed"
        before, after, came_back = contents(old), contents(new), 0

        def overwriting(run: Path) -> Callable[[], object]:
            shutil.copytree(old, run)
            return partial(self.film, run, seed=9, overwrite=True)

        for number in self.stops(overwriting(self.folder / "replaced"), count):
            run, what = self.folder / f"replaced-{number}", f"replacement broken at operation {number}"
            overwrite = overwriting(run)
            code = fork(partial(break_at, number, overwrite))
            assert code == BROKEN, f"{what}: exit code {code}"
            self.broken += 1
            with RunFolder(run):  # opening it settles what was under way
                there = {name: data for name, data in contents(run).items() if not name.startswith(".new/")}
            came_back += there == before
            if there != before:
                assert there["run.json"] == after["run.json"], f"{what}: neither run is there"
                assert len([name for name in there if name.startswith("frames/")]) >= 3, f"{what}: no frame is there"
                # Candidates that are not chosen in the end may still be there, but nothing of the old run.
                mixed = [name for name, data in there.items() if data == before.get(name) != after.get(name)]
                assert not mixed, f"{what}: the runs are mixed: {mixed}"
            assert fork(overwrite) == 0, f"{what}: could not be repeated"
            assert contents(run) == after, f"{what}: differs from the unbroken run"
        assert 1 < came_back < self.broken - 1, f"{came_back} of {self.broken} runs came back"

    def kills(self, count: int, moments: random.Random) -> None:
        """Real SIGKILLs at random moments of a run; a run that was quicker than its kill does not count."""
        tries, last = 0, self.broken + count
        while self.broken < last:
            tries += 1
            assert tries <= 10 * count, "the runs are quicker than the kills"
            run = self.folder / f"kill-{tries}"
            code = fork(partial(self.make, run), kill_after=moments.uniform(0, self.seconds))
            self.resume(run, code, f"kill {tries}")

    def resume(self, run: Path, code: int, what: str) -> None:
        """Check a broken run, continue it, and compare it with the unbroken one."""
        assert code in (0, BROKEN, -signal.SIGKILL), f"{what}: exit code {code}"
        self.broken += code != 0
        check_readable(run, what)
        finished = {path: path.stat().st_ino for path in run.glob("latents/[!.]*")}
        assert fork(partial(self.make, run)) == 0, f"{what}: could not be continued"
        again = [path for path, inode in finished.items() if path.stat().st_ino != inode]
        assert not again, f"{what}: batches made again: {again}"
        self.kept += len(finished)
        found = contents(run)
        differing = sorted(name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name))
        assert not differing, f"{what}: differs from the unbroken run: {differing}"


def break_at(number: float, work: Callable[[], object]) -> int:
    """Do a work up to one of its operations of the disk, counted from 1, and break there; else how many there were."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & WRITING)
        if not (writes or event in CHANGES) or arguments[0] == os.devnull:
            return
        count += 2 if event == "os.rename" else 1
        if count >= number:
            if event == "os.rename" and count > number:
                tear(Path(os.fsdecode(arguments[0])))
            os._exit(BROKEN)

    write = os.write

    def torn(file: int, data: bytes) -> int:
        """The journal's own write: cut off in the middle."""
        nonlocal count
        count += 1
        if count >= number:
            write(file, data[: len(data) // 2])
            os._exit(BROKEN)
        return write(file, data)

    os.write = torn  # type: ignore[assignment]
    sys.addaudithook(watch)
    work()
    return count


def fork(work: Callable[[], object], kill_after: float | None = None) -> int:
    """Do the work in a fork child, kill it after some seconds if asked; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tear(path: Path) -> None:
    """Leave half of a file, unless it is a link to another one, which was whole before."""
    if path.is_file() and path.stat().st_nlink == 1:
        os.truncate(path, path.stat().st_size // 2)


def check_readable(run: Path, what: str) -> None:
    """Every file under its own name is whole; of the journal all lines but the last one."""
    for path in [*run.rglob("*")]:
        if not path.is_file() or path.name.endswith(".part") or ".part" in path.parent.name:
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".png":
                with Image.open(path) as image:
                    image.load()
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
            elif path.suffix == ".jsonl":
                for line in path.read_text().rpartition("\n")[0].splitlines():
                    event_from_json(json.loads(line))
        except Exception as error:
            raise AssertionError(f"{what}: {path} cannot be read: {error}") from error


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run by its path, but its lock; unfinished files too, so that none may be left."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


if __name__ == "__main__":
    main()

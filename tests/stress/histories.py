"""Make films, and remake, pick, undo, redo, grow and interrupt them at random; check what must hold after each step.

    PYTHONPATH=tests python tests/stress/histories.py [--count N] [--seed N]

Undo and redo bring the very frames back that were there before; a film that grows keeps those that it has; the
command that made a film makes nothing when it is given again; and a film whose frames, pictures and latents are
deleted is made again from its settings and journal, equal to the byte.
"""

import argparse
import logging
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from shapes import contents, picture
from test_control import standing
from tiny import tiny_controlnet, tiny_pipe

from segue import Edit, FrameKey, Interpolator, SegueError
from segue.engine.dialogue import AcceptRest, Again, Candidates, Pick
from segue.film.morph import Morph
from segue.settings.kinds import ComputeSettings

Frames = dict[str, Any]


def main() -> None:
    """Parse the command, try films, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("segue").setLevel(logging.ERROR)
    pipe = tiny_pipe()
    plain, guided = Interpolator(pipe), Interpolator(pipe, controlnet=tiny_controlnet(pipe))
    wrong = 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        chance = random.Random(seed)
        with tempfile.TemporaryDirectory() as folder:
            film = Film(guided if chance.random() < 0.4 else plain, Path(folder), chance)
            if fault := film.try_step():
                wrong += 1
                print(f"--seed {seed}: {fault}\n  {film.settings}\n  " + "\n  ".join(film.steps), flush=True)
    print(f"{arguments.count} films, {wrong} wrong")
    raise SystemExit(wrong > 0)


class Film:
    """One film, what was done to it, and what it showed after each remake that counts."""

    def __init__(self, interpolator: Interpolator, folder: Path, chance: random.Random) -> None:
        self.interpolator, self.folder, self.chance = interpolator, folder, chance
        self.run = folder / "run"
        self.images = [picture(i) for i in range(chance.choice([2, 3]))]
        self.poses = [str(folder / f"{i}.json") for i in range(5)]
        for i, path in enumerate(self.poses):
            standing(4 + 5 * i).save(path)
        has_poses = bool(interpolator.backbone.controlnets)
        self.settings: dict[str, Any] = {
            "num_inference_steps": 2,
            "num_frames": chance.choice([3, 5, 9]),
            "prompt": "a",
            "pose": ",".join(chance.choice(self.poses) for _ in self.images) if has_poses else "off",
            "candidates": chance.choice([1, 1, 3]),
            "detail": chance.choice([0.0, 1.0]),
            "align": chance.choice([False, True]),
            "loop": chance.random() < 0.2,
            "batch_size": chance.choice([1, 4, 16]),
            "keep_candidates": chance.random() < 0.3,
        }
        if chance.random() < 0.2:
            self.settings |= {"spacing": "perceptual:pixels"}
        self.steps: list[str] = []
        self.counted: list[Frames] = []
        self.undone: list[Frames] = []

    def try_step(self) -> str:
        """Make the film, and do some random things to it; what was wrong, in words."""
        self.make()
        self.counted = [self.read_frames()]
        for _ in range(self.chance.randint(2, 6)):
            step = self.chance.choice([self.remake, self.remake, self.show, self.undo, self.redo, self.grow, self.stop])
            if fault := step() or self.is_settled():
                return fault
        return self.is_made_from_its_journal() if self.settings["batch_size"] == 1 else ""

    def make(self, run: Path | None = None) -> None:
        self.interpolator(*self.images, output=run or self.run, **self.settings)

    def read_frames(self) -> Frames:
        return contents(self.run, "frames/")

    def remake(self) -> str:
        """Make a frame again, with answers to what is asked or without."""
        self._again(choose=self._answers() if self.chance.random() < 0.3 else None)
        return self._counts()

    def show(self) -> str:
        """Show another candidate of a frame, if there is one of that number."""
        key, number = self._key(), self.chance.randint(0, 3)
        self.steps.append(f"show {key}, candidate {number}")
        try:
            self.interpolator.remake(self.run, key, candidate=number, compute=self._compute)
        except SegueError as error:
            return "" if "has candidates 0 to" in str(error) or "has only candidate 0" in str(error) else str(error)
        return self._counts()

    def undo(self) -> str:
        return self._move("undo", self.counted, self.undone) if len(self.counted) > 1 else ""

    def redo(self) -> str:
        return self._move("redo", self.undone, self.counted) if self.undone else ""

    def grow(self) -> str:
        if "spacing" in self.settings or self.settings["num_frames"] == 9:
            return ""
        self.settings["num_frames"] = self.settings["num_frames"] * 2 - 1
        self.steps.append(f"grow to {self.settings['num_frames']}")
        before = self.read_frames()
        self.make()
        self.counted, self.undone = [self.read_frames()], []
        lost = [name for name in before if self.read_frames().get(name) != before[name]]
        return f"growing changed {lost}" if lost else ""

    def stop(self) -> str:
        """Interrupt a remake after some of its steps; the film's own command goes on with it."""
        left = self.chance.randint(0, 4)

        def interrupt(_progress: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            self._again(callback=interrupt)
        self.steps[-1] += ", interrupted"
        self.make()
        return self._counts()

    def is_settled(self) -> str:
        """Whether the film's own command has nothing to do."""
        self.make()
        return "" if self.read_frames() == self.counted[-1] else "the same command changes frames"

    def is_made_from_its_journal(self) -> str:
        """Whether settings and journal alone make the same film."""
        copy = self.folder / "copy"
        shutil.copytree(self.run, copy)
        for name in ("frames", "pictures", "latents"):
            shutil.rmtree(copy / name)
        (copy / "state.json").unlink()
        self.make(copy)
        return "" if contents(copy, "frames/") == self.read_frames() else "the journal makes other frames"

    @property
    def _compute(self) -> ComputeSettings:
        return ComputeSettings(keep_candidates=self.settings["keep_candidates"])

    def _key(self) -> FrameKey:
        return self.chance.choice([key for key in Morph(self.run).keys if not key.is_keyframe])

    def _again(self, **options: Any) -> None:
        edits: list[Edit | None] = [
            None,
            Edit(prompt="z"),
            Edit(negative_prompt="q"),
            Edit(seed=self.chance.randint(0, 5)),
            Edit(noise=self.chance.choice([0.3, 0.5, 0.6])),
        ]
        if self.settings["pose"] != "off":
            edits.append(Edit(pose=self.chance.choice(self.poses)))
        key, edit = self._key(), self.chance.choice(edits)
        self.steps.append(f"remake {key} with {edit}" + (", answering" if options.get("choose") else ""))
        self.interpolator.remake(self.run, key, edit, compute=self._compute, **options)

    def _answers(self) -> Callable[[Candidates], Pick | Again | AcceptRest]:
        asked = 0

        def answer(candidates: Candidates) -> Pick | Again | AcceptRest:
            nonlocal asked
            asked += 1
            answers: list[Pick | Again | AcceptRest] = [Pick(max(candidates.pictures)), AcceptRest()]
            if asked < 4:
                answers += [Again(), Again(Edit(prompt="y"))]
            return self.chance.choice(answers)

        return answer

    def _move(self, name: str, source: list[Frames], target: list[Frames]) -> str:
        """Undo or redo, and what the film must show then."""
        self.steps.append(name)
        getattr(self.interpolator, name)(self.run, compute=self._compute)
        target.append(source.pop())
        return "" if self.read_frames() == self.counted[-1] else f"{name} brings other frames back"

    def _counts(self) -> str:
        self.counted.append(self.read_frames())
        self.undone.clear()
        return ""


if __name__ == "__main__":
    main()

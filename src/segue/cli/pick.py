"""Picking candidates by hand in a terminal: a sheet on disk and, where the terminal can, in place."""

import base64
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from segue.engine.dialogue import AcceptRest, Again, Candidates, Chooser, Pick
from segue.files import writing
from segue.film.writers import sheet
from segue.run.journal import Edit

__all__ = ["Asked", "inline_image", "terminal_chooser"]

HELP = "a number picks, Enter takes the suggestion, a makes more, p TEXT makes more for a prompt, r accepts the rest"


class Asked:
    """A chooser that counts how often it is asked.

    Attributes:
        count: how often it was.
    """

    def __init__(self, choose: Chooser) -> None:
        self._choose, self.count = choose, 0

    def __call__(self, candidates: Candidates) -> Pick | Again | AcceptRest:
        """What the chooser answers."""
        self.count += 1
        return self._choose(candidates)


def terminal_chooser(
    folder: Path, ask: Callable[[str], str] | None = None
) -> Callable[[Candidates], Pick | Again | AcceptRest]:
    """A chooser that shows the candidates of each frame and reads an answer.

    The sheet is written to ``candidates.png`` in the folder. At the end of the input the rest is accepted as ranked.
    """

    def choose(candidates: Candidates) -> Pick | Again | AcceptRest:
        path = folder / "candidates.png"
        labels = [_label(number, candidates) for number in candidates.pictures]
        picture = sheet(list(candidates.pictures.values()), labels=labels)
        with writing(path) as temporary:
            picture.save(temporary, format="PNG")
        print(f"frame {candidates.key}, level {candidates.level + 1}: {', '.join(labels)}", file=sys.stderr)
        if escape := inline_image(picture, os.environ):
            print(escape, file=sys.stderr)
        else:
            print(f"the candidates are in {path}", file=sys.stderr)
        while True:
            try:
                answer = (ask or _ask)(f"candidate [{candidates.best}], or ? for help: ").strip()
            except EOFError:
                return AcceptRest()
            if (reply := parse(answer, candidates)) is not None:
                return reply
            print(HELP, file=sys.stderr)

    return choose


def _ask(question: str) -> str:
    """A line from the terminal; asked on standard error, for standard output may be read by a program."""
    print(question, end="", file=sys.stderr, flush=True)
    return input()


def parse(answer: str, candidates: Candidates) -> Pick | Again | AcceptRest | None:
    """What an answer means; None for one that means nothing."""
    word, _, rest = answer.partition(" ")
    if not answer:
        return Pick(candidates.best)
    if answer.isdecimal() and int(answer) in candidates.pictures:
        return Pick(int(answer))
    if word in ("a", "again") and not rest:
        return Again()
    if word in ("p", "prompt") and rest.strip():
        return Again(Edit(prompt=rest.strip()))
    if word in ("r", "rest") and not rest:
        return AcceptRest()
    return None


def inline_image(picture: Image.Image, environment: "os._Environ[str] | dict[str, str]") -> str:
    """The escape sequence that shows a picture in kitty's or iTerm2's terminal; nothing for others."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    data = base64.standard_b64encode(buffer.getvalue()).decode()
    if environment.get("KITTY_WINDOW_ID"):
        # kitty's graphics protocol: a PNG (f=100), shown as it comes (a=T), in chunks of at most 4096 characters.
        chunks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
        heads = [("f=100,a=T," if i == 0 else "") + f"m={int(i < len(chunks) - 1)}" for i in range(len(chunks))]
        return "".join(f"\x1b_G{head};{chunk}\x1b\\" for head, chunk in zip(heads, chunks, strict=True))
    if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        return f"\x1b]1337;File=inline=1;size={buffer.tell()}:{data}\x07"
    return ""


def _label(number: int, candidates: Candidates) -> str:
    """The candidate's number, and its score where it has one."""
    score = candidates.scores.get(number)
    return f"{number}" if score is None else f"{number} ({score:+.3f})"

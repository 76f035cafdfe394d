"""Where a film goes: its ending, its place, its run folder. Checked before anything that makes films is imported."""

from pathlib import Path

from segue.errors import SegueError
from segue.files import check_writable

__all__ = ["ENDINGS", "check_film", "ending_of", "run_folder"]

ENDINGS = (".mp4", ".mov", ".webm", ".gif", ".webp")


def run_folder(output: Path) -> Path:
    """The run folder of a film: morph/ beside morph.mp4; frames in a folder have theirs beside it, named .run."""
    if output.name in ("", ".."):  # a folder named by the way to it
        output = output.resolve()
    return output.with_suffix("") if output.suffix else output.with_name(f"{output.name}.run")


def check_film(path: Path) -> None:
    """Check, before any work starts, that a film can be written there; nothing is left behind.

    Raises:
        SegueError: an unknown ending, no right to write, or a folder that holds other things than frames.
    """
    if ending_of(path):
        check_writable(path)
    elif path.is_dir():
        names = sorted(p.name for p in path.iterdir())
        frames = {f"{number:04d}.png" for number in range(len(names))}  # as they are written, none left out
        if others := [name for name in names if name not in frames]:
            raise SegueError(f"{path} is a folder that holds other things than frames ({others[0]}); choose another")
        check_writable(path / "0000.png")
    else:
        if path.exists():
            raise SegueError(f"{path} is a file; a film can end in {', '.join(ENDINGS)}, or be a new folder")
        check_writable(path)


def ending_of(path: Path) -> str:
    """The ending of a film, in small letters; none for a folder of PNGs.

    Raises:
        SegueError: no film has that ending.
    """
    ending = path.suffix.lower()
    if ending and ending not in ENDINGS:
        known = ", ".join(ENDINGS)
        raise SegueError(f"{path}: unknown ending {path.suffix}; a film can end in {known}, or be a folder (none)")
    return ending

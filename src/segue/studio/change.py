"""What the page asks of a frame, read as an edit of the frame."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.run.journal import Edit
from segue.studio import pose_editor
from segue.studio.timeline import RunView

__all__ = ["edit_of", "frame_at"]

LONGEST_PROMPT = 2000  # letters
PLACE = re.compile(r"\d{1,4}(/[1-9]\d{0,6})?", re.ASCII)
_NUMBERS: Mapping[str, Callable[[Any], float]] = {"seed": int, "noise": float}


def edit_of(view: RunView, key: FrameKey, change: Mapping[str, Any], folder: Path) -> Edit | None:
    """What changes at a frame; None where only its noise is new.

    A pose leaves the frame's other own values, and other values leave its pose; what is empty is given up.

    Args:
        view: the run.
        key: the frame.
        change: what the page sent: prompt, negative_prompt, seed and noise, or a pose; nothing for other noise alone.
        folder: where the file of a pose is kept.

    Raises:
        SegueError: a value is none that the frame can have.
    """
    edit: dict[str, Any] = {}
    for name in ("prompt", "negative_prompt"):
        if text := str(change.get(name) or "").strip():
            edit[name] = text[:LONGEST_PROMPT]
    for name, kind in _NUMBERS.items():
        value = change.get(name)
        if value not in (None, ""):
            try:
                edit[name] = kind(value)
            except (TypeError, ValueError):
                raise SegueError(f"{name}: a number, not '{value}'") from None
    if edit.get("seed", 0) < 0:
        raise SegueError("seed: a whole number from 0 on")
    own = view.history.edit(key)
    if change.get("pose") is not None:
        edit = {**asdict(own), **edit, "pose": pose_file(change["pose"], view.pose_size, folder)}
    elif change and own.pose:
        edit["pose"] = str(view.path / own.pose)
    if change and own.image:
        edit["image"] = str(view.path / own.image)
    return Edit(**edit) if change else None


def pose_file(people: Any, size: tuple[int, int], folder: Path) -> str | None:
    """The file of a frame's own pose; None where nobody is in it, which gives its own pose up."""
    if people == []:
        return None
    pose = pose_editor.from_points(people, size)
    folder.mkdir(parents=True, exist_ok=True)
    return str(pose_editor.kept(pose, folder))


def frame_at(place: str) -> FrameKey:
    """The frame at a place that the page names, as "1/2"; raises SegueError if it is none."""
    if not PLACE.fullmatch(place):  # no exponents, which a Fraction would take at any length
        raise SegueError(f"there is no frame at '{place}'")
    return FrameKey.at(Fraction(place))

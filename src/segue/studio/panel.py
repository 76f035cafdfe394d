"""What the page is told: the visitor's table, and the panel of one frame, as plain values."""

from pathlib import Path
from typing import Any

from segue.engine.dialogue import describe
from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.studio import pose_editor
from segue.studio.films import command_lines, film_before
from segue.studio.jobs import Job
from segue.studio.session import Session
from segue.studio.timeline import RunView, Slot, again, film_of, written_at

__all__ = ["frame_panel", "table"]


def table(session: Session) -> dict[str, Any]:
    """Everything that the page shows beside a frame's panel."""
    run, fault = _run_of(session)
    return {
        "keyframes": [_keyframe(session, keyframe) for keyframe in session.keyframes.entries],
        "examples": [
            {"name": name, "urls": [f"/studio/example/{name}/{i}" for i in range(len(pictures))]}
            for name, pictures in session.studio.examples.items()
        ],
        "job": _job(session, session.job),
        "cleared": session.tables.cleared,
        "films": [{"name": name, "url": _film(path)} for name, path in session.films().items()],
        "run": run,
        "fault": fault,
        "begun": session.tables.name,
    }


def frame_panel(session: Session, key: FrameKey) -> dict[str, Any]:
    """The panel of one frame: what it is made from, its candidates, its pose, and what a change makes again."""
    view = session.view()
    slots = view.slots()
    numbers = {slot.key: number for number, slot in enumerate(slots)}
    if key not in numbers:
        raise SegueError(f"the film has no frame at {key}")
    slot = slots[numbers[key]]
    by_key = {other.key: other for other in slots}
    path = _path(view)
    pose, whose = pose_editor.pose_of(view, key, path)
    edit = view.history.edit(key)
    return {
        **_slot(view, slot, numbers[key]),
        "label": str(key),
        "noise": view.noise(slot),
        "parents": [_slot(view, by_key[parent], numbers[parent]) for parent in slot.parents if parent in by_key],
        "candidates": [
            _candidate(view, slot, number, cache_key) for number, cache_key in (slot.candidates or {}).items()
        ],
        "edit": {
            "prompt": edit.prompt,
            "negative_prompt": edit.negative_prompt,
            "seed": edit.seed,
            "noise": edit.noise,
        },
        "again": [str(touched.place) for touched in again(slots, key)] if not key.is_keyframe else [],
        "can_redo": not key.is_keyframe and view.is_finished and view.settings.scheme == "branching",
        "size": list(view.pose_size),
        "pose": pose_editor.as_points(pose) if pose else [],
        "pose_of": whose,
        "standing": pose_editor.as_points(pose_editor.standing(view.pose_size)),
        "control": session.studio.has_control,
    }


def _run_of(session: Session) -> tuple[dict[str, Any] | None, str]:
    """The run on the table, and what is wrong with it where it cannot be shown."""
    path = session.run
    try:
        return (_run(session, RunView(path)) if path else None), ""
    except SegueError as error:
        return None, " ".join(str(error).split())
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a file whose JSON says something else
        return None, f"{path} is damaged ({type(error).__name__}: {error})"


def _film(path: Path | None) -> str | None:
    """The address of a run's film; None where none is written."""
    stamp = written_at(film_of(path)) if path else 0
    return _url("film", path.name, film_of(path).name, stamp=stamp) if path and stamp else None


def _run(session: Session, view: RunView) -> dict[str, Any]:
    slots = view.slots()
    before, path = film_before(session, view.path), _path(view)
    return {
        "name": view.path.name,
        "finished": view.is_finished,
        "written": view.is_written,
        "size": list(view.size),
        "frames": [_slot(view, slot, number, path) for number, slot in enumerate(slots)],
        "levels": max((slot.level for slot in slots), default=-1) + 1,
        "undo": view.history.undoable is not None,
        "redo": view.history.redoable,
        "film": _film(view.path),
        "before": _url("before", view.path.name, before.name, stamp=written_at(before)) if before.exists() else None,
        "commands": command_lines(session),
        "loop": view.settings.loop,
    }


def _slot(view: RunView, slot: Slot, number: int, path: pose_editor.Poses | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "place": str(slot.key.place),
        "number": number,
        "keyframe": slot.key.is_keyframe,
        "level": slot.level,
        "made": slot.made,
        "edited": slot.edited,
        "url": _url("run", view.path.name, "frames", f"{slot.key.name}.png", stamp=slot.stamp) if slot.made else None,
    }
    pose = path(slot.key) if path else None
    return {**found, "pose": pose_editor.as_points(pose)} if pose else found


def _candidate(view: RunView, slot: Slot, number: int, cache_key: str) -> dict[str, Any]:
    return {
        "number": number,
        "url": _url("run", view.path.name, "pictures", f"{cache_key}.png"),
        "score": (slot.scores or {}).get(number),
        "chosen": number == slot.candidate,
    }


def _keyframe(session: Session, keyframe: dict[str, Any]) -> dict[str, Any]:
    whole, shown = session.keyframes.path({**keyframe, "crop": None}), session.keyframes.path(keyframe)
    return {**keyframe, "url": _keyframe_url(shown), "whole": _keyframe_url(whole)}


def _keyframe_url(path: Path) -> str:
    return _url("keyframes", path.name, stamp=written_at(path))


def _job(session: Session, job: Job | None) -> dict[str, Any] | None:
    is_elsewhere = job is not None and job.film != session.tables.name
    if job is None or (is_elsewhere and not job.is_open):  # how another film ended is said where it is shown
        return None
    progress, title = job.progress, f"{job.film}: {job.title}" if is_elsewhere else job.title
    share = progress.step / progress.steps if progress and progress.steps else 0.0
    if job.state == "waiting":
        before = session.studio.queue.place(job)
        text = f"{title}: waiting for {before} other film{'s' if before > 1 else ''}"
    elif progress is None or progress.stage == "model":
        text = f"{title}: loading the model"
    else:
        text = f"{title}: {describe(progress)}"
    return {"state": job.state, "title": job.title, "text": text, "share": min(share, 1.0), "message": job.message}


def _path(view: RunView) -> pose_editor.Poses | None:
    """The path of poses; none where a file is damaged."""
    try:
        return pose_editor.path_of(view)
    except (SegueError, ValueError):
        return None


def _url(*parts: str, stamp: int = 0) -> str:
    """The address of a file; the stamp makes the browser read it anew when it changed."""
    return "/files/" + "/".join(parts) + (f"?v={stamp}" if stamp else "")

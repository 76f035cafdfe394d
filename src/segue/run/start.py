"""The beginning of a run: what determines its images, written down or compared with what the folder holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from segue.errors import SegueError
from segue.files import file_of
from segue.method.tree import FrameKey, is_growth
from segue.pictures.alpha import ground_for
from segue.pictures.images import digest
from segue.run.folder import RunFolder
from segue.run.given import Given, keep_given
from segue.run.journal import Attempt, Edit, Remake, whole_number
from segue.run.schema import RUN_FILE, SETTINGS_FILE, sizes_of
from segue.settings.kinds import LOADED, MorphSettings, parse_settings
from segue.settings.text import as_json, differences, model_differences, write_config

NO_FILES: tuple[object, ...] = ([], "", "auto", "off")

__all__ = ["BatchSize", "begin", "plan_remake", "read_run", "settings_of"]


@dataclass(frozen=True)
class BatchSize:
    """Frames in one network call: as asked for (0 for not), else as found."""

    asked: int
    found: Callable[[], int]


def begin(
    run: RunFolder,
    keyframes: Sequence[Image.Image],
    sources: Sequence[str],
    settings: MorphSettings,
    batch_size: BatchSize,
    model: Mapping[str, Any],
    *,
    given: Given,
    network: tuple[int, int],
    overwrite: bool,
) -> None:
    """Write what determines the images, or compare it with what the folder holds.

    The run file is written last: a folder without one does not hold a run yet.

    Args:
        run: the folder.
        keyframes: the images, fitted to the film's size.
        sources: what each was given as.
        settings: what determines the images.
        batch_size: how the work is cut into batches; a run that is continued keeps its own.
        model: the name, fingerprint and parts of the model, and what else loads it again.
        given: the poses, control images and points that were given for the keyframes; they are kept in the folder.
        network: the size (width, height) at which the model works.
        overwrite: begin anew where the folder holds a run with other settings.

    Raises:
        SegueError: the folder holds a run with other settings; the message names what differs.
    """
    size = keyframes[0].size
    fresh: dict[str, Any] = {
        "settings": as_json(settings),
        "size": list(size),
        "network": list(network),
        "keyframes": [
            {"source": source, "pixels": digest(keyframe)} for source, keyframe in zip(sources, keyframes, strict=True)
        ],
        "model": dict(model),
        "given": given.digests(),
        **({"ground": ground_for(keyframes)} if keyframes[0].mode == "RGBA" else {}),
    }
    there = None if run.was_damaged else run.read(RUN_FILE)
    grown = list(there.get("grown", [])) if there else []
    before, changes = None, {}
    if there is not None:
        before = _settings_before(run, there, overwrite)
        changes = _changes({**there, "settings": as_json(before) if before else there["settings"]}, fresh)
    if before and settings.can_grow and _is_growth(changes, before, settings):
        grown = sizes_of(before, grown)
    elif changes or run.was_damaged:
        waiting = run.waiting
        continues = waiting is not None and not _changes(waiting, fresh)
        if not overwrite and not continues:
            differing = f"{run.path} holds a run with other settings ({'; '.join(changes.values())})"
            raise SegueError(f"{differing}{_growth(changes, before)}; choose another output, or overwrite it")
        run.set_aside(anew=not continues)
        there, grown = waiting if continues else None, []
    elif overwrite:
        run.drop_waiting()
    if there is None:  # whatever lies there is of a run that was begun, or cleared, and not recorded
        run.clear()
    frames = batch_size.asked or (there or {}).get("batch_size") or batch_size.found()
    for i, keyframe in enumerate(keyframes):
        if there is None or not run.frame(FrameKey(i)).exists():
            run.save_keyframe(FrameKey(i), keyframe)
    keep_given(run, given)
    are_files = all(file_of(Path(source)).exists() for source in sources)
    config = {
        "images": list(sources) if are_files else None,
        **fresh["settings"],
        **{"model" if name == "name" else name: model.get(name) or None for name in ("name", *LOADED)},
        "batch_size": frames,
    }
    write_config(run.path / SETTINGS_FILE, config, run.place)
    run.write(RUN_FILE, {**fresh, "grown": grown, "batch_size": frames, "versions": _versions()})


def read_run(run: RunFolder) -> dict[str, Any]:
    """What determines the images of a run; raises SegueError if the folder holds none."""
    data = run.read(RUN_FILE)
    if data is None:
        raise SegueError(f"{run.path} does not hold a run")
    return data


def settings_of(run: RunFolder, data: Mapping[str, Any]) -> MorphSettings:
    """The settings of a run, with the defaults of those that are newer; raises SegueError if they are not valid now."""
    try:
        return parse_settings(MorphSettings, data["settings"])
    except SegueError as error:
        raise SegueError(f"{run.path / RUN_FILE}: {error}") from error


def plan_remake(
    run: RunFolder, settings: MorphSettings, frame: FrameKey, edit: Edit | None, candidate: int | None
) -> Remake:
    """The journal's line for making a frame again."""
    if not isinstance(frame, FrameKey):
        raise SegueError(f"frame is a FrameKey, such as FrameKey.at('1/2'), not {frame!r}")
    if settings.scheme != "branching":
        raise SegueError(f"only frames made by the scheme branching can be made again, not by {settings.scheme}")
    state = run.read("state.json")
    frames = {FrameKey.at(Fraction(shown["place"])): shown for shown in (state or {}).get("frames", [])}
    if not frames:
        raise SegueError(f"{run.path} is not finished; continue it first")
    if frame.is_keyframe:
        raise SegueError(f"frame {frame} is a keyframe, which is shown as it was given")
    if frame not in frames:
        raise SegueError(f"{run.path} has no frame at {frame}")
    count = settings.candidates_at(frames[frame]["level"])
    next_candidate = run.history.next_candidate(frame, count)
    if candidate is None:
        # Without an edit of its own, only the noise is new: not from the seed that an earlier edit gave.
        edit = edit or replace(run.history.attempt_of(frame, frames[frame]["candidate"]).edit, seed=None)
        return Remake(Attempt(frame, next_candidate, count, edit))
    if edit is not None:
        raise SegueError(
            "a candidate that is there already cannot take another prompt, image, seed, noise level or pose"
        )
    if not 0 <= (candidate := whole_number("candidate", candidate)) < next_candidate:
        there = f"candidates 0 to {next_candidate - 1}" if next_candidate > 1 else "only candidate 0"
        raise SegueError(f"frame {frame} has {there}, not {candidate}")
    return Remake(key=frame, candidate=candidate)


def _settings_before(run: RunFolder, there: Mapping[str, Any], overwrite: bool) -> MorphSettings | None:
    """The settings of the run that is there; None where they are not valid and the run is overwritten anyway."""
    try:
        return settings_of(run, there)
    except SegueError:
        if overwrite:
            return None
        raise


def _is_growth(changes: Mapping[str, str], before: MorphSettings, after: MorphSettings) -> bool:
    """Whether a film only gets more frames, and all that it has are among them."""
    only = bool(changes) and set(changes) <= {"num_frames", "refine"}
    return only and is_growth(before.steps + 1, after.steps + 1, after.branching)


def _growth(changes: Mapping[str, str], before: MorphSettings | None) -> str:
    """What a run could grow to, where only its frames differ."""
    if before is None or set(changes) != {"num_frames"}:
        return ""
    if not before.can_grow:
        return "; only films of the scheme branching with uniform spacing grow"
    steps = before.num_frames - 1
    sizes = [steps * before.branching**times + 1 for times in (1, 2, 3)]
    return f"; {before.num_frames} frames grow to {', '.join(map(str, sizes))} and so on"


def _changes(there: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, str]:
    """What differs between two runs, by name."""
    changed = {text.partition(":")[0]: text for text in differences(there["settings"], fresh["settings"])}
    for name in ("size", "network"):
        old, now = there.get(name, there["size"]), fresh[name]
        if old != now and not {"size", "network"} & changed.keys():
            changed[name] = "{}: {} x {}, now {} x {}".format(name, *old, *now)
    if there["model"]["fingerprint"] != fresh["model"]["fingerprint"]:
        name, now = there["model"]["name"], fresh["model"]["name"]
        dtype, other = there["model"].get("dtype"), fresh["model"].get("dtype")
        if name == now and dtype != other:
            changed["dtype"] = f"dtype: {dtype}, now {other}"
        else:
            parts = model_differences(there["model"].get("parts", {}), fresh["model"]["parts"])
            changed["model"] = f"model: {name}, now {now} with other weights, adapters or settings: {parts}"
    before, after = ([keyframe["pixels"] for keyframe in data["keyframes"]] for data in (there, fresh))
    sources = [[keyframe["source"] for keyframe in data["keyframes"]] for data in (there, fresh)]
    explained = changed.keys() & {"size", "network", "network_size", "fit", "background", "zoom", "pan", "rotate"}
    if before != after and not (explained and sources[0] == sources[1]):
        names = ["/".join(named) for named in sources]
        changed["keyframes"] = f"keyframes: {names[0]}, now {names[1]}" + (
            " with other pixels" if names[0] == names[1] else ""
        )
    files = [name for name in ("control_image", "pose", "points") if fresh["settings"][name] not in NO_FILES]
    if there.get("given", []) != fresh["given"] and not {"control_image", "pose", "points"} & changed.keys():
        changed["given"] = f"{' or '.join(files)}: files with other content"
    return changed


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("segue", "torch", "diffusers", "transformers")}

"""Making and changing films: each function hands the studio's queue a job, and a film is written at its end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.files import write_bytes
from segue.film.morph import Morph
from segue.method.tree import FrameKey, is_growth
from segue.run.folder import RunFolder
from segue.run.schema import RUN_FILE
from segue.settings.kinds import ComputeSettings, FilmSettings, MorphSettings, parse_settings
from segue.settings.text import as_json, differences, model_differences
from segue.studio import pose_editor
from segue.studio.change import edit_of, frame_at
from segue.studio.controls import check_public, command_line, read, remake_line
from segue.studio.download import written
from segue.studio.jobs import Job, Report
from segue.studio.session import Session
from segue.studio.tables import NEW
from segue.studio.timeline import RunView, film_of, film_settings

__all__ = [
    "command_lines",
    "download_film",
    "film_before",
    "make_film",
    "remake_frame",
    "resume_film",
    "rewrite_film",
    "step",
]

KEEP = ComputeSettings(keep_candidates=True)


def make_film(session: Session, values: Mapping[str, Any], preset: str = "balanced") -> None:
    """Make a film of the keyframes on the table: continue, grow or begin a run, and let it wait for its turn."""
    with session.lock:
        if len(session.keyframes) < 2:
            raise SegueError("a film needs at least two pictures; add them above")
        settings = session.settings(values, preset)
        fresh = session.keyframes.copies()
        name = _same(session, settings, fresh) or _new_name(session)
        path = session.runs().get(name) or _place(session, name)
        if name == session.tables.name:
            film = film_settings(path, session.data["film"])
        else:  # as that of the film that was last on the page, and what is typed over it
            film = parse_settings(
                FilmSettings, {**session.data["film"], **_film_values(session, session.data["film_controls"])}
            )
        pictures = [session.keyframes.path(keyframe) for keyframe in fresh]
        if path == session.studio.opened and (path / RUN_FILE).is_file():
            pictures = [path / "frames" / f"{FrameKey(i).name}.png" for i in range(len(fresh))]
        chosen = {name: getattr(settings, name) for name in as_json(settings)}

        def make(interpolator: Interpolator, report: Report) -> Morph:
            return interpolator(*pictures, output=path, keep_candidates=True, callback=report, **chosen)

        _begin(session, "Making the film", path, film, make)
        if name != session.tables.name:
            session.data |= {"run": name, "film": as_json(film), "film_controls": {}}
        session.data["begun"][name] = fresh
        session.tables.keep("controls", values, preset=preset)


def resume_film(session: Session) -> None:
    """Go on with a paused job, or with a run that is not finished."""
    path = session.run
    if session.job and session.job.state == "paused":
        session.job.resume()
    elif path is None:  # begun, and ended before anything was written
        make_film(session, session.data["controls"], session.data["preset"])
    else:
        _begin(session, "Continuing", path, film_settings(path, session.data["film"]), _continue(path))


def remake_frame(session: Session, place: str, change: Mapping[str, Any]) -> None:
    """Make a frame again: another candidate, or a new attempt under its own prompt, seed, noise or pose."""
    view, key = session.view(), frame_at(place)
    view.frame(key)
    candidate = None if change.get("candidate") is None else int(change["candidate"])
    edit = edit_of(view, key, change, session.folder / "poses") if candidate is None else None

    def remake(interpolator: Interpolator, report: Report) -> Morph:
        if edit and edit.pose and not interpolator.backbone.controlnets:
            raise SegueError("this model has no ControlNet, so a pose changes nothing; start with --controlnet")
        if edit and edit.pose:
            pose_editor.prepare(view.path, view.keyframes, view.pose_size)
        return interpolator.remake(view.path, key, edit, candidate=candidate, compute=KEEP, callback=report)

    _begin(session, f"Making frame {key} again", view.path, film_settings(view.path, session.data["film"]), remake)


def step(session: Session, *, back: bool) -> None:
    """Undo the last remake, or take the last undo back."""
    view = session.view()
    if back and view.history.undoable is None:
        raise SegueError("there is nothing to undo")
    if not back and not view.history.redoable:
        raise SegueError("there is nothing to redo")

    def go(interpolator: Interpolator, report: Report) -> Morph:
        return (interpolator.undo if back else interpolator.redo)(view.path, compute=KEEP, callback=report)

    film = film_settings(view.path, session.data["film"])
    _begin(session, "Undoing" if back else "Restoring", view.path, film, go)


def rewrite_film(session: Session, values: Mapping[str, Any]) -> None:
    """Write the film anew with other settings of the film; costs no network call."""
    settings = parse_settings(FilmSettings, _film_values(session, values))
    path = _finished(session.view()).path
    with session.lock:
        session.studio.queue.check(session.name)
        morph = Morph(path)
        morph.remember(film_of(path), settings)  # at once, for the page's command line
        _add(session, "Writing the film", path, lambda report: _write(session, morph, report, settings))
        session.data |= {"film": as_json(settings), "film_controls": {}}
        session.save()


def download_film(session: Session, kind: str, film: str | None = None) -> Path:
    """A film, the one on the table if none is named, as a file of a kind of ``download.FORMATS``."""
    path = session.runs().get(session.tables.name if film is None else film)
    if path is None:
        raise SegueError("there is no such film")
    view = _finished(RunView(path))
    if kind == "mp4" and film_of(path).exists() and view.is_written:
        return film_of(path)
    folder = session.folder / "downloads" / path.name
    folder.mkdir(parents=True, exist_ok=True)
    return written(Morph(path), kind, folder, film_settings(path, session.data["film"]))


def command_lines(session: Session) -> list[str]:
    """The command lines that make the film on the table."""
    view = session.view()
    output, film = str(film_of(view.path)), film_settings(view.path, session.data["film"])
    sources = [keyframe["source"] for keyframe in view.data["keyframes"]]
    remakes = view.history.remakes
    return [
        command_line(sources, output, view.settings, film, view.data["model"]),
        *(remake_line(output, view.path, remake, remakes[:i]) for i, remake in enumerate(remakes)),
    ]


def film_before(session: Session, path: Path) -> Path:
    """The film of a run as it was before its last change."""
    return session.folder / "before" / film_of(path).name


def _begin(
    session: Session, title: str, path: Path, film: FilmSettings, make: Callable[[Interpolator, Report], Morph]
) -> None:
    """Let a film wait for its turn, in which the model is loaded and the film made and written."""

    def work(report: Report) -> None:
        report(Progress("model"))
        _write(session, make(session.studio.model, report), report, film)

    _add(session, title, path, work)


def _add(session: Session, title: str, path: Path, work: Callable[[Report], None]) -> None:
    job = Job(session.name, title, work, path.name)
    session.studio.queue.add(job)
    session.job = job


def _write(session: Session, morph: Morph, report: Report, film: FilmSettings) -> None:
    """Write the film and its contact sheet, and remember the film's settings for a remake; keep the film before."""
    report(Progress("film", total=len(morph)))
    output = film_of(morph.path)
    was = output.read_bytes() if output.exists() else None
    morph.save(output, film)
    if was is not None and was != output.read_bytes():
        before = film_before(session, morph.path)
        before.parent.mkdir(exist_ok=True)
        write_bytes(before, was)
    morph.contact_sheet(morph.path / "contact-sheet.png")
    morph.remember(output, film)


def _continue(path: Path) -> Callable[[Interpolator, Report], Morph]:
    """Make what is missing of a run."""

    def make(interpolator: Interpolator, report: Report) -> Morph:
        with RunFolder(path) as run:
            there = (run.read(RUN_FILE) or {}).get("model", {})
            if there.get("fingerprint") != interpolator.model["fingerprint"]:
                parts = model_differences(there.get("parts", {}), interpolator.model["parts"])
                raise SegueError(
                    f"{path.name} was made with {there.get('name')}, not with {interpolator.name}: {parts}"
                )
            interpolator.make(run, KEEP, callback=report)
        return Morph(path)

    return make


def _finished(view: RunView) -> RunView:
    """A run; raises SegueError if something of it is still to be made."""
    if not view.is_finished:
        raise SegueError("the film is not finished; continue it first")
    return view


def _same(session: Session, settings: MorphSettings, keyframes: Sequence[Mapping[str, Any]]) -> str | None:
    """The run on the table, where these settings and keyframes continue or grow it."""
    name = session.tables.name
    if name == NEW or session.data["begun"].get(name) != keyframes:
        return None
    path = session.runs().get(name)
    if path is None:
        return name
    try:
        before, after = as_json(RunView(path).settings), as_json(settings)
    except SegueError:  # it is damaged, so another one is begun
        return None
    if not differences(before, after):
        return name
    is_more = {**before, "num_frames": after["num_frames"]} == after and settings.scheme == "branching"
    return name if is_more and is_growth(before["num_frames"], after["num_frames"], settings.branching) else None


def _new_name(session: Session) -> str:
    """The name of the next film."""
    opened = session.studio.opened
    if opened and not (opened / RUN_FILE).exists() and opened.name not in session.tables.waiting:
        return opened.name
    number = 1
    while (session.folder / "films" / f"film-{number}").exists() or f"film-{number}" in session.data["begun"]:
        number += 1
    return f"film-{number}"


def _place(session: Session, name: str) -> Path:
    """The run folder of a film that is not begun yet."""
    if session.studio.opened and name == session.studio.opened.name:
        return session.studio.opened
    (session.folder / "films").mkdir(parents=True, exist_ok=True)
    return session.folder / "films" / name


def _film_values(session: Session, controls: Mapping[str, Any]) -> dict[str, Any]:
    """What the controls of the film say; what is empty is the default."""
    found = {name: setting for name, value in controls.items() if (setting := read(name, value)) is not None}
    if session.studio.public:
        check_public(found)
    return found

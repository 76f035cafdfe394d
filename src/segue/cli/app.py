"""The command line; thin: every option comes from ``settings``, every command calls one function."""

import errno
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from segue.cli.batch import BatchCommand, batch
from segue.cli.display import Mode, print_notice
from segue.cli.doctor import doctor
from segue.cli.evaluate import evaluate
from segue.cli.options import GroupedCommand, mode_of, with_settings
from segue.cli.request import check_files_exist, check_model, film_request, parse_frame, run_request
from segue.cli.studio import studio
from segue.cli.sweep import sweep
from segue.errors import SegueError, hearing
from segue.film.outputs import check_film
from segue.run.journal import Edit, History, check_step, events_of
from segue.run.schema import JOURNAL
from segue.settings.kinds import (
    ComputeSettings,
    FilmSettings,
    LoadSettings,
    ModelSettings,
    MorphSettings,
    fields,
    parse_settings,
)
from segue.settings.presets import PRESET_HELP, PresetName

__all__ = ["app", "main", "run"]

STOPPED = 130  # the exit code of a process that was interrupted
CONTINUED = dict.fromkeys(("morph", "invert", "batch", "evaluate", "sweep"), "; run the same command again to continue")

app = typer.Typer(
    help="Make the images between two images with latent diffusion models.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Images = Annotated[
    list[Path] | None,
    typer.Argument(help="Two images or more, in the order of the film; clip.mp4@last is a video's last frame."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The film: .mp4, .mov, .webm, .gif, .webp, or a folder for PNGs."),
]
Run = Annotated[Path, typer.Argument(help="A film that segue made, or its run folder.", show_default=False)]
Preset = Annotated[PresetName | None, typer.Option(help=PRESET_HELP)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
Json = Annotated[bool, typer.Option("--json", help="Progress as JSON lines on standard output.")]
PickOption = Annotated[bool, typer.Option("--pick", help="Pick each frame among its candidates by hand.")]


@app.command(cls=GroupedCommand)
@with_settings(ModelSettings, MorphSettings, ComputeSettings, FilmSettings)
def morph(
    images: Images = None,
    output: Output = None,
    preset: Preset = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a run with other settings, and files not made by segue.",
        ),
    ] = False,
    pick: PickOption = False,
    quiet: Quiet = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Make a film that morphs images into each other.

    The same command again continues an unfinished film; one with more frames grows it.
    """
    request = film_request(images, output, values, preset=preset, overwrite=overwrite)

    from segue.cli.morph import make_film

    make_film(request, pick=pick, mode=mode_of(quiet, as_json))


@app.command(cls=GroupedCommand)
@with_settings(LoadSettings, hidden=("dtype",))
def remake(
    run: Run,
    frame: Annotated[
        str, typer.Option(help="The frame: its number in the film, or its place, such as 1/2.", show_default=False)
    ],
    prompt: Annotated[str | None, typer.Option(help="The frame's own prompt.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="The frame's own negative prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="The frame's own seed.")] = None,
    noise: Annotated[float | None, typer.Option(help="The frame's own noise level.")] = None,
    pose: Annotated[Path | None, typer.Option(help="The frame's own pose, an OpenPose JSON file.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="The frame's own picture as a prompt, with --image-adapter.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Reset the frame's words, image, seed, noise, pose.")] = False,
    candidate: Annotated[int | None, typer.Option(help="Show this candidate instead of making new ones.")] = None,
    pick: PickOption = False,
    quiet: Quiet = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Make one frame and its descendants again, and nothing else."""
    own_pose, own_image = (str(file.absolute()) if file else None for file in (pose, image))
    own = Edit(prompt, negative_prompt, seed, noise, own_pose, own_image)
    if pick and candidate is not None:
        raise SegueError("--candidate names what is shown; it cannot be combined with --pick")
    if reset and (own != Edit() or candidate is not None):
        text = "--reset removes a frame's own words, image, seed, noise and pose"
        raise SegueError(f"{text}; it cannot be combined with them")
    edit = own if reset or own != Edit() else None
    request = run_request(run, parse_settings(LoadSettings, values))
    key = parse_frame(request.folder, frame)
    if own.pose is not None or own.image is not None:
        from segue.engine.inputs import check_edit

        check_edit(request.folder, own)

    from segue.cli.morph import make_again

    make_again(request, key, edit, candidate=candidate, pick=pick, mode=mode_of(quiet, as_json))


@app.command(cls=GroupedCommand)
@with_settings(LoadSettings, hidden=("dtype",))
def undo(
    run: Run,
    quiet: Quiet = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Bring back what was there before the last remake."""
    _step(run, values, redo=False, mode=mode_of(quiet, as_json))


@app.command(cls=GroupedCommand)
@with_settings(LoadSettings, hidden=("dtype",))
def redo(
    run: Run,
    quiet: Quiet = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Take the last undo back."""
    _step(run, values, redo=True, mode=mode_of(quiet, as_json))


@app.command(cls=GroupedCommand)
@with_settings(ModelSettings, MorphSettings)
def invert(
    images: Images = None,
    output: Output = None,
    preset: Preset = None,
    quiet: Quiet = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Fit the words of a film to its images, and make no frame."""
    request = film_request(images, output, values, preset=preset)

    from segue.cli.morph import fit_words

    fit_words(request, mode=mode_of(quiet, as_json))


@app.command(cls=GroupedCommand)
def pose(
    images: Annotated[list[Path], typer.Argument(help="Pictures; with --between also pose files.", show_default=False)],
    between: Annotated[
        bool, typer.Option("--between", help="Write a film of the skeletons between the poses.")
    ] = False,
    num_frames: Annotated[
        int | None, typer.Option("--num-frames", "-n", min=2, help="Skeletons from one to the next; 17 if not given.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="OpenPose JSON of the picture; with --between, the film.")
    ] = None,
    drawing: Annotated[Path | None, typer.Option("--draw", help="PNG of the skeleton over the picture.")] = None,
    detector: Annotated[
        Literal["pocket", "blazepose", "rtmlib"] | None,
        typer.Option(help=fields(MorphSettings)["pose_detector"].description),
    ] = None,
    matching: Annotated[
        Literal["largest", "left-to-right", "nearest"] | None,
        typer.Option(help="How people of two pictures are matched; largest if not given."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the detector's weights if they are missing.")
    ] = False,
) -> None:
    """Find the people in pictures: print their poses, draw them, write them as OpenPose JSON."""
    pictures = [image for image in images if image.suffix.lower() != ".json"]
    check_files_exist(images if between else pictures)
    if between and drawing:
        raise SegueError("--draw takes a picture by itself, not with --between")
    if between and output is None:
        raise SegueError("--between needs --output, the film to write")
    if not between and (num_frames or matching):
        raise SegueError(f"{'--num-frames' if num_frames else '--matching'} goes with --between, the film of skeletons")
    if between and output is not None:
        check_film(output)

    from segue.engine.inputs import check_images

    check_images(pictures)

    from segue.cli.pose import show_poses, skeleton_film

    if between and output is not None:
        count, how = num_frames or 17, matching or "largest"
        skeleton_film(images, output, num_frames=count, detector=detector, download=download, matching=how)
    else:
        show_poses(images, detector=detector, download=download, output=output, drawing=drawing)


@app.command(cls=GroupedCommand)
def check(
    images: Images = None,
    model: Annotated[str | None, typer.Option(help=fields(ModelSettings)["model"].description)] = None,
    detector: Annotated[
        Literal["pocket", "blazepose", "rtmlib"] | None,
        typer.Option(help=fields(MorphSettings)["pose_detector"].description),
    ] = None,
) -> None:
    """Say before a film is made whether its shapes will move or fade, and why."""
    if images is None or len(images) < 2:
        raise SegueError(f"a film needs at least two images, not {len(images or [])}")
    check_model(ModelSettings(model=model))
    check_files_exist(images)

    from segue.engine.inputs import check_images

    check_images(images)

    from segue.cli.check import print_gaps

    print_gaps(images, detector=detector, model=model)


app.command(cls=GroupedCommand)(sweep)
app.command(cls=GroupedCommand)(doctor)
app.command(cls=BatchCommand)(batch)
app.command(cls=GroupedCommand)(evaluate)
app.command(cls=GroupedCommand)(studio)


@app.command(cls=GroupedCommand)
def models() -> None:
    """List the models that are known by name, and what is on disk."""
    from segue.models.cache import list_models

    for model, there in list_models():
        state = "on disk" if there else "to download"
        print(f"{model.name:48} {model.kind:11} {state:12} {model.about}")


def main() -> None:
    """Run the command line: one line and exit code 2 for whatever a user can get wrong."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # their notes are for programmers
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal has no letters for is not a fault of the film
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    try:
        with hearing(print_notice):
            result = app(arguments, standalone_mode=False)
    except SegueError as error:
        print(f"segue: {_line(error)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        result = STOPPED
    except BrokenPipeError:
        return 0
    except SystemExit as error:
        if getattr(error.__context__, "errno", None) == errno.EPIPE:  # what typer makes of a reader that went away
            return 0
        raise
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            raise
        place = "standard output cannot be written" if error.filename is None else error.filename
        print(f"segue: {place}: {error.strerror}", file=sys.stderr)
        return 2
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        print(f"segue: {_line(error.format_message()).replace('Value error, ', '')}", file=sys.stderr)
        return 2
    if result == STOPPED:  # also what typer makes of an interrupt
        print(f"segue: stopped{CONTINUED.get(arguments[0], '') if arguments else ''}", file=sys.stderr)
    return result if isinstance(result, int) else 0


@app.callback(invoke_without_command=True)
def segue(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Make the images between two images with latent diffusion models."""
    if version:
        from segue import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def _step(run: Path, values: Mapping[str, Any], *, redo: bool, mode: Mode) -> None:
    """Go one remake back, or forward again."""
    request = run_request(run, parse_settings(LoadSettings, values))
    check_step(History(events_of(request.folder / JOURNAL)), request.folder, redo=redo)

    from segue.cli.morph import step

    step(request, redo=redo, mode=mode)


def _line(text: object) -> str:
    """A message on one line."""
    return " ".join(str(text).split())

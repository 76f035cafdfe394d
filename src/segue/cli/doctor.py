"""The command ``segue doctor``: whether a model works on this machine, and what is wrong if not."""

from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli.display import show_progress
from segue.cli.options import mode_of, with_settings
from segue.cli.request import check_files_exist, check_model
from segue.errors import SegueError
from segue.files import check_apart, check_writable, file_of
from segue.models.cache import marks_of
from segue.settings.kinds import ModelSettings, MorphSettings, parse_settings
from segue.settings.presets import PRESET_HELP, PresetName, with_preset
from segue.settings.text import parse_lora

__all__ = ["doctor"]

WIDTH = 13  # of the names of checks
SHEET = Path("segue-doctor.png")


@with_settings(ModelSettings)
def doctor(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Two pictures to try; drawn ones if not given.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The contact sheet of a short film, a .png.")] = SHEET,
    preset: Annotated[PresetName, typer.Option(help=PRESET_HELP)] = "draft",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what is wrong.")] = False,
    **values: Any,
) -> None:
    """Say whether a model works on this machine, how fast it is, and what is wrong if it does not.

    The exit code is 0 if all is well, 1 if something is wrong, 2 if the model or a picture cannot be loaded.
    """
    model = parse_settings(ModelSettings, values)
    if images and len(images) != 2:
        raise SegueError(f"doctor takes two pictures, or none, not {len(images)}")
    if output.suffix.lower() != ".png":
        raise SegueError(f"{output}: a contact sheet is a .png")
    check_model(model)
    check_files_exist(images or [])
    check_writable(output)
    check_apart(output, map(file_of, images or []))
    if output.exists() and output != SHEET:
        raise SegueError(f"{output} exists; doctor writes a new picture")
    marks = marks_of(model.model, [parse_lora(text)[0] for text in model.lora])
    parse_settings(MorphSettings, with_preset(preset, {}, model.model, marks))

    from segue.engine.inputs import check_images

    check_images(images or [])

    from segue.engine.doctor import describe_machine, examine
    from segue.engine.interpolator import Interpolator
    from segue.machine import limit_threads, within_memory

    limit_threads()
    wrong = 0
    with show_progress(mode_of(quiet)) as show:
        with within_memory():
            interpolator = Interpolator.from_settings(model)
        backbone: Any = interpolator.backbone
        if not quiet:
            print(f"{'model':{WIDTH}}{interpolator.name}: {backbone.family.name}")
            print(f"{'device':{WIDTH}}{describe_machine(backbone)}", flush=True)
        for found in examine(interpolator, images or [], sheet=output, preset=preset, callback=show):
            if not quiet:
                print(f"{found.check:{WIDTH}}{found.text}", flush=True)
            if found.problem:
                wrong += 1
                print(f"{'' if not quiet else found.check:{WIDTH}}wrong: {found.problem}", flush=True)
    if wrong:
        raise typer.Exit(1)
    if not quiet:
        print("nothing is wrong")

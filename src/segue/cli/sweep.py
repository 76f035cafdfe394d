"""The command ``segue sweep``: the middle frame of a pair at several noise levels and guidance scales, on one sheet."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.display import Line, print_notice, show_as_lines
from segue.cli.options import mode_of, select_given, with_settings
from segue.cli.request import check_files_exist, check_model
from segue.errors import Notice, SegueError
from segue.files import check_apart, check_writable, file_of, writing
from segue.models.cache import marks_of
from segue.run.schema import read_part
from segue.settings.kinds import RARE, ComputeSettings, ModelSettings, MorphSettings, parse_settings
from segue.settings.presets import PRESET_HELP, PresetName, with_preset
from segue.settings.text import as_text, option_name, parse_lora, shape_of

if TYPE_CHECKING:
    from segue.engine.dialogue import Progress
    from segue.engine.interpolator import Interpolator

__all__ = ["Cell", "sweep", "words_of_morph"]

NOT_HERE = ("num_frames", "loop")  # a cell is the one frame between two pictures
SIDE = 256  # pixels of a picture on the sheet


@dataclass(frozen=True)
class Cell:
    """One frame of the sheet: a noise level for both ends of the range, and a guidance scale."""

    noise: float
    guidance_scale: float

    @property
    def values(self) -> dict[str, Any]:
        """As settings of a film."""
        return {"noise": (self.noise, self.noise), "guidance_scale": self.guidance_scale, "num_frames": 3}

    @property
    def name(self) -> str:
        """The name of its run's folder."""
        return f"noise-{self.noise:g}-guidance-{self.guidance_scale:g}"

    def __str__(self) -> str:
        return f"noise {self.noise:g}, guidance {self.guidance_scale:g}"


@with_settings(ModelSettings, MorphSettings, ComputeSettings, hidden=NOT_HERE, unfiled=NOT_HERE)
def sweep(
    images: Annotated[list[Path] | None, typer.Argument(help="Two images.", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The sheet, a .png; its frames' runs are kept in a folder beside it."),
    ] = None,
    noise: Annotated[
        list[float], typer.Option(metavar="<number>...", help="Noise levels, one per row of the sheet.")
    ] = [0.3, 0.4, 0.5, 0.6],  # noqa: B006
    guidance_scale: Annotated[
        list[float], typer.Option(metavar="<number>...", help="Guidance scales, one per column of the sheet.")
    ] = [1, 3, 5],  # noqa: B006
    preset: Annotated[PresetName | None, typer.Option(help=PRESET_HELP)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace frames made with other settings.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
    **values: Any,
) -> None:
    """Make the frame in the middle of two images at several noise levels and guidance scales, on one sheet.

    The same command again continues where it was stopped; another value costs only its own frames.
    """
    if images is None or len(images) != 2:
        raise SegueError(f"sweep takes two images, not {len(images or [])}")
    if output is None:
        raise SegueError("no output: --output names the sheet, a .png")
    if output.suffix.lower() != ".png":
        raise SegueError(f"{output}: a sheet is a .png")
    for name in NOT_HERE:
        if name in values:
            raise SegueError(f"{option_name(name)} is not an option of sweep, which makes one frame of two images")
    folder, preset = output.with_suffix(""), preset or "balanced"
    model = parse_settings(ModelSettings, select_given(values, ModelSettings))
    given, computing = select_given(values, MorphSettings), select_given(values, ComputeSettings)
    parse_settings(ComputeSettings, computing)
    cells = [Cell(level, scale) for level in dict.fromkeys(noise) for scale in dict.fromkeys(guidance_scale)]
    marks = marks_of(model.model, [parse_lora(text)[0] for text in model.lora])
    begun = [with_preset(preset, {**given, **cell.values}, model.model, marks) for cell in cells]
    settings = {cell: parse_settings(MorphSettings, each) for cell, each in zip(cells, begun, strict=True)}
    check_model(model)
    check_files_exist(images)
    check_writable(output)
    for place in (output, folder):
        check_apart(place, map(file_of, images))
    if output.exists() and not folder.exists() and not overwrite:
        raise SegueError(f"{output} exists and is not a sheet of sweep; --overwrite replaces it")

    from segue.engine.inputs import check_inputs

    check_inputs(images, settings[cells[0]])

    from segue.engine.interpolator import Interpolator
    from segue.machine import limit_threads

    limit_threads()
    interpolator = Interpolator.from_settings(model)
    asked = {"overwrite": overwrite, "preset": preset, **given, **computing}
    if not quiet:
        print(_cost(interpolator, folder, settings), flush=True)
    _write_sheet(output, images, _make(interpolator, images, folder, asked, cells, quiet))
    if not quiet:
        print(f"{output}: a row per noise level, a column per guidance scale; runs in {folder}")
        chosen = cells[len(cells) // 2]
        print(f"the film of a cell, such as {chosen}:")
        print(f"  {words_of_morph(images, values, preset, chosen)}")


def _make(
    interpolator: "Interpolator",
    images: Sequence[Path],
    folder: Path,
    asked: Mapping[str, Any],
    cells: Sequence[Cell],
    quiet: bool,
) -> dict[Cell, Sequence[Path]]:
    """The left image, the frame and the right image of each cell; what is made already is not made again."""
    told: set[str] = set()
    made: dict[Cell, Sequence[Path]] = {}
    with show_as_lines(mode_of(quiet), _line, unit="steps") as show:

        def report(state: "Progress | Notice") -> None:
            is_known = state.text in told
            told.add(state.text)
            if not isinstance(state, Notice):
                show((f"frame {len(made) + 1} of {len(cells)}", replace(state, text="") if is_known else state))
            elif not is_known:
                print_notice(state)

        for cell in cells:
            film = interpolator(*images, output=folder / cell.name, callback=report, **{**asked, **cell.values})
            made[cell] = film.frames.paths
    return made


def _write_sheet(output: Path, images: Sequence[Path], made: Mapping[Cell, Sequence[Path]]) -> None:
    """Write the sheet: a row for each noise level, from the left image over its frames to the right image."""
    from segue.film.writers import sheet

    shown: list[tuple[Path, str]] = []
    for level in dict.fromkeys(cell.noise for cell in made):
        row = {cell: frames for cell, frames in made.items() if cell.noise == level}
        left, _, right = next(iter(row.values()))
        shown += [(left, images[0].name), *((frames[1], str(cell)) for cell, frames in row.items())]
        shown.append((right, images[1].name))
    columns = 2 + len({cell.guidance_scale for cell in made})
    whole = sheet([path for path, _ in shown], [label for _, label in shown], columns=columns, side=SIDE)
    with writing(output) as temporary:
        whole.save(temporary, format="PNG")


def _cost(interpolator: "Interpolator", folder: Path, settings: Mapping[Cell, MorphSettings]) -> str:
    """What is left to make, in words; a frame takes with it what its detail needs of both keyframes."""
    from segue.engine.cost import sampling_of
    from segue.method.diffusion import CLEAN

    backbone, steps = interpolator.backbone, 0
    left = [cell for cell in settings if read_part(folder / cell.name, "state.json") is None]
    for cell in left:
        one = settings[cell]
        samples = one.candidates + 2 * bool(one.detail and one.align) if one.scheme != "interpolate" else 0
        steps += samples * len(backbone.leg(backbone.point(cell.noise, one.noise_shift), CLEAN, sampling_of(one)))
    return f"{len(settings)} frames, {len(left)} of them to make" + (
        f": at most {steps} denoising steps" if left else ""
    )


def words_of_morph(images: Sequence[Path], values: Mapping[str, Any], preset: str, cell: Cell) -> str:
    """The command that makes the whole film of a cell, with everything else that was typed."""
    words = ["segue", "morph", *map(str, images), "-o", "film.mp4"]
    words += ["--noise", as_text(cell.noise), "--guidance-scale", as_text(cell.guidance_scale)]
    words += ["--preset", preset] if preset != "balanced" else []
    for name, value in values.items():
        option, shape = option_name(name), shape_of(name)
        if isinstance(value, bool) and name not in RARE:
            words.append(option if value else f"--no-{option[2:]}")
        elif name not in RARE and shape == "numbers":
            words += [option, *as_text(value).split()]
        else:
            lines = as_text(value).splitlines() if shape in ("texts", "places") else [as_text(value)]
            words += chain.from_iterable(["--set", f"{name}={x}"] if name in RARE else [option, x] for x in lines)
    return shlex.join(words)


def _line(state: "tuple[str, Progress]") -> Line:
    """Where the sweep is, in words."""
    text, progress = state
    return Line(text, progress.step, progress.steps, part=text, news=progress.text)

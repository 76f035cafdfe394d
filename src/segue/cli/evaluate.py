"""The command ``segue evaluate``: measure schemes on pairs, compare two evaluations, convert weights."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.display import Line, show_as_lines
from segue.cli.options import faults_as_lines, mode_of, select_given, with_settings
from segue.cli.request import check_manifest, check_model
from segue.errors import SegueError
from segue.method.perceptual import network_parts
from segue.models.cache import marks_of
from segue.settings.kinds import SCHEMES, ComputeSettings, ModelSettings, MorphSettings, parse_settings
from segue.settings.presets import PRESET_HELP, PresetName, with_preset
from segue.settings.text import option_name, parse_lora

if TYPE_CHECKING:
    from segue.evaluate.compare import Comparison
    from segue.evaluate.harness import Stage

__all__ = ["evaluate", "parse_schemes", "print_comparison"]

NOT_HERE = ("scheme", "loop")  # an evaluation says them in another way


@with_settings(ModelSettings, MorphSettings, ComputeSettings, hidden=NOT_HERE)
def evaluate(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PAIRS",
            help="A .jsonl or .csv manifest, or a folder of NAME-a.png and NAME-b.png.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The evaluation's folder; with --compare a .html file.", show_default=False
        ),
    ] = None,
    schemes: Annotated[str, typer.Option(help="The schemes to measure: all, or names separated by commas.")] = "all",
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="Feature network, also several times: pocket (if not given), pixels, clip:NAME, dinov2, "
            "inception:FILE, lpips:FILE."
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare two evaluations: --compare A B.")] = False,
    convert: Annotated[
        bool,
        typer.Option("--convert", help="Convert published .pth weights: --convert FILE.pth ... -o FILE.safetensors."),
    ] = False,
    preset: Annotated[PresetName | None, typer.Option(help=PRESET_HELP)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
    **values: Any,
) -> None:
    """Measure schemes on pairs of images, with one report as HTML, JSON and CSV.

    The same command again continues where it was stopped; another scheme, pair or network costs only itself.
    """
    if compare and convert:
        raise SegueError("--compare and --convert are two commands; give one of them")
    if convert:
        _convert(inputs, output, quiet)
    elif compare:
        _compare(inputs, output, quiet)
    else:
        _evaluate(inputs, output, schemes, network or ["pocket"], preset or "balanced", values, quiet)


def _evaluate(
    inputs: list[Path],
    output: Path | None,
    schemes: str,
    networks: list[str],
    preset: str,
    values: Mapping[str, Any],
    quiet: bool,
) -> None:
    """Check everything, load everything, measure, write the report."""
    if len(inputs) != 1:
        raise SegueError("one manifest or folder of pairs at a time; --compare takes two evaluations")
    if output is None:
        raise SegueError("--output FOLDER names where the evaluation goes")
    for name in NOT_HERE:
        if name in values:
            raise SegueError(
                f"{option_name(name)} is not an option of evaluate, which takes --schemes and films of two images"
            )
    chosen = parse_schemes(schemes)
    settings = select_given(values, MorphSettings)
    model = parse_settings(ModelSettings, select_given(values, ModelSettings))
    marks = marks_of(model.model, [parse_lora(text)[0] for text in model.lora])
    for scheme in chosen:
        parse_settings(MorphSettings, with_preset(preset, {**settings, "scheme": scheme}, model.model, marks))
    computing = select_given(values, ComputeSettings)
    parse_settings(ComputeSettings, computing)
    for name in networks:
        network_parts(name)
    check_model(model)
    check_manifest(inputs[0])

    from segue.batch.manifest import read_pairs

    with faults_as_lines():
        pairs = read_pairs(inputs[0])

    from segue.evaluate.report import check_report, write_report
    from segue.files import file_of

    check_report(output, [inputs[0], *(file_of(image) for pair in pairs for image in (pair.a, pair.b))])

    from segue.engine.interpolator import Interpolator
    from segue.evaluate.harness import evaluate as measure
    from segue.evaluate.results import NOTES
    from segue.lock import hold_lock
    from segue.models.features.networks import load_network

    seen = [load_network(name, model.device or _device()) for name in dict.fromkeys(networks)]
    interpolator = Interpolator.from_settings(model)
    with hold_lock(output, NOTES, "evaluation"), show_as_lines(mode_of(quiet), _line, unit="films") as show:
        report = measure(
            interpolator,
            pairs,
            chosen,
            output,
            networks=seen,
            settings={**settings, **computing},
            preset=preset,
            callback=show,
        )
        page = write_report(report, output)
    if not quiet:
        print(page)


def _compare(inputs: list[Path], output: Path | None, quiet: bool) -> None:
    from segue.evaluate.compare import comparison_of, comparison_page
    from segue.evaluate.results import read_report
    from segue.files import check_writable, write_text

    if len(inputs) != 2:
        raise SegueError("--compare takes two evaluations: segue evaluate --compare A B")
    if output is not None:
        if output.suffix != ".html":
            raise SegueError(f"{output}: a comparison is written as .html")
        check_writable(output)
    first, second = (read_report(path) for path in inputs)
    comparison = comparison_of(first, second, (str(inputs[0]), str(inputs[1])))
    if not quiet:
        print_comparison(comparison)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, comparison_page(comparison))


def print_comparison(comparison: "Comparison") -> None:
    """Print what differs between two evaluations, and a table of the measures for each scheme."""
    from rich.console import Console
    from rich.table import Table

    from segue.evaluate.catalogue import find_measure
    from segue.evaluate.charts import number

    first, second = comparison.names
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(f"{second} against {first}, {comparison.pairs} pairs")
    for change in comparison.changes or ("the same settings and model",):
        console.print(f"  {change}")
    for scheme in dict.fromkeys(row[0] for row in comparison.rows):
        table = Table(title=scheme, title_justify="left")
        table.add_column("measure")
        for heading in (first, second, "difference", "95 % interval"):
            table.add_column(heading, justify="right")
        for _, before, after, found in (row for row in comparison.rows if row[0] == scheme):
            network = f" ({found.network})" if found.network else ""
            interval = "" if found.low is None else f"{number(found.low)} to {number(found.high)}"
            table.add_row(
                f"{find_measure(found.measure).label}{network}",
                number(before),
                number(after),
                number(found.value),
                interval + (" *" if found.is_clear else ""),
            )
        console.print(table)


def _convert(inputs: list[Path], output: Path | None, quiet: bool) -> None:
    from segue.models.features.networks import convert

    if output is None:
        raise SegueError("--convert needs --output FILE.safetensors")
    count = convert(inputs, output)
    if not quiet:
        print(f"{output}: {count} tensors")


def parse_schemes(text: str) -> tuple[str, ...]:
    """Schemes from "all" or names separated by commas; raises SegueError for an unknown one."""
    if text == "all":
        return SCHEMES
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if wrong := [name for name in names if name not in SCHEMES]:
        raise SegueError(f"unknown scheme '{wrong[0]}'; choose from {', '.join(SCHEMES)}, or all")
    if not names:
        raise SegueError(f"schemes: none given; choose from {', '.join(SCHEMES)}, or all")
    return names


def _device() -> str:
    """The best device there is."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _line(stage: "Stage") -> Line:
    """Where the evaluation is, in words."""
    named = stage.stage in ("films", "features")
    text = f"{stage.stage}, {stage.what}, {stage.pair}" if named else "intervals and report"
    count = f" {stage.done} of {stage.total}" if stage.total else ""
    return Line(text, stage.done, stage.total, f"{text}{count}", part=(stage.stage, stage.what))

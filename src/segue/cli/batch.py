"""The command ``segue batch``: a manifest's films, made by many workers, with one table at the end."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segue.cli.display import Line, show_as_lines
from segue.cli.options import GroupedCommand, faults_as_lines, mode_of, select_given, with_settings
from segue.cli.request import check_manifest, check_model
from segue.engine.dialogue import duration
from segue.settings.kinds import (
    ComputeSettings,
    FilmSettings,
    ModelSettings,
    MorphSettings,
    parse_settings,
    update_settings,
)
from segue.settings.presets import PRESET_HELP, PresetName
from segue.settings.text import parse_lora, rebase_paths

if TYPE_CHECKING:
    from segue.batch.drive import Status
    from segue.batch.notes import Outcome
    from segue.batch.pool import WorkerPool

__all__ = ["BatchCommand", "batch"]

LOCAL = "local"  # the address of a bare --ray


class BatchCommand(GroupedCommand):
    """The command line of ``batch``: an option --ray that may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put an address behind a bare --ray."""
        filled: list[str] = []
        for argument, following in zip(args, [*args[1:], ""], strict=True):
            filled += [argument, LOCAL] if argument == "--ray" and not _is_address(following) else [argument]
        return super().parse_args(ctx, filled)


@with_settings(ModelSettings, MorphSettings, ComputeSettings, FilmSettings)
def batch(
    pairs: Annotated[
        Path,
        typer.Argument(help="A .jsonl or .csv manifest, or a folder of NAME-a.png and NAME-b.png.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of all films and run folders.", show_default=False)
    ],
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Films to make at once; one per GPU, else one."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="Distribute with Ray: on this machine, or on the cluster at ADDRESS."),
    ] = None,
    film: Annotated[
        Literal["mp4", "mov", "webm", "gif", "webp"], typer.Option(help="The format of the films.")
    ] = "mp4",
    preset: Annotated[PresetName | None, typer.Option(help=PRESET_HELP)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over where a run has other settings.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Progress as JSON lines on standard output.")] = False,
    **values: Any,
) -> None:
    """Make a film of each row of a manifest, on one machine or many.

    The same command again makes only what is missing. The exit code is 1 if a row failed.
    """
    check_manifest(pairs)

    from segue.batch.rows import NOTES, TABLE, check_output, read_rows

    settings = {
        name: value
        for kind in (MorphSettings, ComputeSettings, FilmSettings)
        for name, value in select_given(values, kind).items()
    }
    chosen = parse_settings(ModelSettings, select_given(values, ModelSettings))
    check_model(chosen)
    loras = [parse_lora(text)[0] for text in chosen.lora]
    with faults_as_lines():
        rows = read_rows(
            pairs, output, settings, preset=preset or "balanced", ending=f".{film}", model=chosen.model, loras=loras
        )
    chosen = update_settings(chosen, rebase_paths(dict(chosen), Path()))  # wherever a worker stands
    check_output(rows, output, overwrite=overwrite)

    from segue.batch.drive import drive
    from segue.batch.notes import Notes
    from segue.lock import hold_lock

    mode, notes, order = mode_of(quiet, as_json), Notes(output, chosen), {row.name: i for i, row in enumerate(rows)}
    outcomes: list[Outcome] = []
    with hold_lock(output, NOTES, "batch"), show_as_lines(mode, _line, record=_record, unit="rows") as show:
        outcomes += [outcome for row in rows if (outcome := notes.outcome(row))]
        names = {outcome.name for outcome in outcomes}
        missing = [row for row in rows if row.name not in names]
        try:
            if missing:
                pool = _start_pool(chosen, workers, ray, len(missing), output)
                try:
                    drive(missing, outcomes, pool, overwrite=overwrite, notes=notes, callback=show)
                finally:
                    pool.close()
        finally:  # however it ends, the table has what was made until then
            outcomes.sort(key=lambda outcome: order[outcome.name])
            _write_table(outcomes, output / TABLE)
    if as_json or not quiet:
        _print_table(outcomes, output, as_json)
    else:
        for outcome in outcomes:
            if outcome.state == "failed":
                print(f"segue: {outcome.name} failed: {outcome.reason}", file=sys.stderr)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _start_pool(model: ModelSettings, workers: int | None, ray: str | None, rows: int, output: Path) -> "WorkerPool":
    """The workers: processes of this machine, or actors on Ray; never more than rows."""
    if ray is not None:
        from segue.batch.cluster import ActorPool

        return ActorPool(model, None if workers is None else min(workers, rows), ray, rows, output)

    import torch

    from segue.batch.pool import ProcessPool, threads_of

    gpus = torch.cuda.device_count() if model.device in (None, "cuda") else 0
    count = min(workers or max(1, gpus), rows)
    models = [update_settings(model, {"device": f"cuda:{i % gpus}" if gpus else model.device}) for i in range(count)]
    return ProcessPool(models, threads_of(torch.get_num_threads(), count))


def _is_address(text: str) -> bool:
    """Whether a word of the command line is the address of a Ray cluster: auto, HOST:PORT, ray://HOST:PORT."""
    host, colon, port = text.removeprefix("ray://").rpartition(":")
    return text in ("auto", LOCAL) or bool(colon and host and port.isdecimal() and "/" not in host)


# Progress.


def _line(status: "Status") -> Line:
    """Where the batch is, in words."""
    parts = [f"{len(status.running)} running", f"{status.failed} failed"]
    if status.frames:
        parts.append(f"{status.frames_per_minute:.0f} frames a minute")
    if status.left is not None:
        parts.append(f"{duration(status.left)} left")
    text, through = ", ".join(parts), status.kept + status.made + status.failed
    plain = f"{through} of {status.rows} rows, {text}"
    return Line(text, through, status.rows, plain, part=status.made, news=_news(status))


def _news(status: "Status") -> str:
    """What a user should know of an event at once."""
    if status.event == "failed":
        return f"segue: {status.row} failed: {status.text}"
    if status.event == "again":
        return f"segue: {status.row} is tried again: {status.text}"
    return f"segue: {status.row}: {status.text}" if status.event == "word" else ""


def _record(status: "Status") -> dict[str, Any]:
    """An event as plain values."""
    return {
        "event": status.event,
        "row": status.row or None,
        "text": status.text or None,
        "rows": status.rows,
        "kept": status.kept,
        "made": status.made,
        "failed": status.failed,
        "running": list(status.running),
        "frames": status.frames,
        "frames_per_minute": round(status.frames_per_minute, 1),
        "seconds": round(status.seconds, 3),
        "left": None if status.left is None else round(status.left, 1),
    }


# The table at the end.

COLUMNS = ("name", "state", "frames", "seconds", "attempts", "reason")


def _cells(outcome: "Outcome") -> tuple[str, ...]:
    return (
        outcome.name,
        outcome.state,
        str(outcome.frames or ""),
        f"{outcome.seconds:.1f}",
        str(outcome.attempts or ""),
        outcome.reason,
    )


def _write_table(outcomes: "Sequence[Outcome]", path: Path) -> None:
    from segue.files import write_text

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_cells, outcomes))
    write_text(path, text.getvalue())


def _print_table(outcomes: "Sequence[Outcome]", output: Path, as_json: bool) -> None:
    """The table on standard output, or its counts as the last JSON line."""
    states = [outcome.state for outcome in outcomes]
    counts = {state: states.count(state) for state in ("made", "kept", "failed")}
    if as_json:
        failed = {outcome.name: outcome.reason for outcome in outcomes if outcome.state == "failed"}
        print(json.dumps({"event": "done", "output": str(output), **counts, "reasons": failed}), flush=True)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, box=box.SIMPLE)
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    Console(width=None if sys.stdout.isatty() else 160).print(table, highlight=False, markup=False)
    print(f"{output}: {', '.join(f'{count} {state}' for state, count in counts.items() if count)}")

"""Two evaluations side by side: what differs in their settings, and every measure's difference over shared pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from segue.errors import SegueError
from segue.evaluate.catalogue import SET_MEASURES, find_measure
from segue.evaluate.charts import number
from segue.evaluate.page import contrast, document, grid
from segue.evaluate.results import Difference, Report, key_of
from segue.evaluate.statistics import paired_interval
from segue.settings.text import differences, model_differences

__all__ = ["Comparison", "comparison_of", "comparison_page"]


@dataclass(frozen=True)
class Comparison:
    """Second minus first.

    Attributes:
        names: what the two are called.
        changes: what differs in model, networks and settings, one text each.
        pairs: how many pairs both have.
        rows: for each scheme and measure of both: the value in each, and the difference. FID and KID have an interval
            only within one evaluation, not between two.
    """

    names: tuple[str, str]
    changes: tuple[str, ...]
    pairs: int
    rows: tuple[tuple[str, float | None, float | None, Difference], ...]


def comparison_of(first: Report, second: Report, names: tuple[str, str]) -> Comparison:
    """Compare two reports over the schemes, pairs and networks that both have.

    Raises:
        SegueError: they have no scheme, pair or network in common.
    """
    schemes = [scheme for scheme in first.schemes if scheme in second.schemes]
    named = [pair for pair in first.pairs if pair in second.pairs]
    other = [pair for pair in named if _has_changed(pair, first, second)]
    pairs = [pair for pair in named if pair not in other]
    columns = [column for column in first.columns if column in second.columns]
    for what, common, ours, theirs in (
        ("scheme", schemes, first.schemes, second.schemes),
        ("pair", pairs, first.pairs, second.pairs),
        ("feature network", [c for c in columns if c[1]], tuple(first.networks), tuple(second.networks)),
    ):
        if not common:
            shown = " and ".join(", ".join(map(str, names[:5])) for names in (ours, theirs))
            raise SegueError(f"{names[0]} and {names[1]} have no {what} in common: {shown}{_of_other(other)}")
    changes = [
        *([_models(first.model, second.model)] if first.model != second.model else []),
        *(
            f"{network}: other weights"
            for network, mark in first.networks.items()
            if network in second.networks and second.networks[network] != mark
        ),
        *differences(*_settings(first, second)),
        *([f"{len(other)} pairs left out{_of_other(other)}"] if other else []),
        *(f"{what}: measures of a whole set, as FID, are not compared" for what in _other_sets(first, second)),
    ]
    return Comparison(names, tuple(changes), len(pairs), tuple(_rows(first, second, schemes, pairs, columns)))


def _models(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """How two models differ."""
    parts = model_differences(first.get("parts", {}), second.get("parts", {}))
    return f"model: {first['name']}, now {second['name']}: {parts}"


def _settings(first: Report, second: Report) -> tuple[dict[str, Any], dict[str, Any]]:
    """What all films of each share, where it is shared in both, but for the scheme."""
    common = (first.settings.keys() & second.settings.keys()) - {"scheme"}
    before, after = ({name: report.settings[name] for name in common} for report in (first, second))
    return before, after


def _other_sets(first: Report, second: Report) -> list[str]:
    """Why measures of all pairs together are not of the same set; the order of the pairs does not matter."""
    lengths = [{len(film.frames) for film in report.films} for report in (first, second)]
    is_other = set(first.pairs) != set(second.pairs) or any(_has_changed(pair, first, second) for pair in first.pairs)
    return ["other pairs"] * is_other + ["other numbers of frames"] * (lengths[0] != lengths[1])


def _has_changed(pair: str, first: Report, second: Report) -> bool:
    """Whether a pair of one name is another one; not known of reports that have no digests of pairs."""
    digests = first.digests.get(pair), second.digests.get(pair)
    return None not in digests and digests[0] != digests[1]


def _of_other(pairs: Sequence[str]) -> str:
    shown = ", ".join(pairs[:5]) + (", ..." if len(pairs) > 5 else "")
    return f"; other pictures, prompts or poses: {shown}" if pairs else ""


def comparison_page(comparison: Comparison) -> str:
    """The comparison as one HTML page."""
    first, second = map(escape, comparison.names)
    changes = "".join(f"<li>{escape(change)}</li>" for change in comparison.changes)
    parts = [
        f"<h1>{second} against {first}</h1>",
        f'<p class="soft">{comparison.pairs} pairs. Bold: the 95 % interval over pairs does not hold zero.</p>',
        f"<ul>{changes}</ul>" if changes else "<p>The same settings and model.</p>",
    ]
    for scheme in dict.fromkeys(row[0] for row in comparison.rows):
        rows = [
            f"<tr><td>{escape(find_measure(d.measure).label)} <small>{escape(d.network)}</small></td>"
            f"<td>{number(before)}</td><td>{number(after)}</td>{contrast(d)}</tr>"
            for of, before, after, d in comparison.rows
            if of == scheme
        ]
        parts += [f"<h2>{escape(scheme)}</h2>", grid(f"<th>{first}</th><th>{second}</th><th>difference</th>", rows)]
    return document(f"Segue: {comparison.names[1]} against {comparison.names[0]}", parts, 0)


def _rows(
    first: Report, second: Report, schemes: list[str], pairs: list[str], columns: list[tuple[str, str]]
) -> Iterator[tuple[str, float | None, float | None, Difference]]:
    of_sets = {measure.name for measure in SET_MEASURES}
    values = [{(film.scheme, film.pair): film.values for film in report.films} for report in (first, second)]
    for scheme in schemes:
        for measure, network in columns:
            if measure in of_sets:
                cells = (report.cell(scheme, measure, network) for report in (first, second))
                same = not _other_sets(first, second) and first.networks[network] == second.networks[network]
                before, after = (cell.value if cell and same else None for cell in cells)
                value = None if before is None or after is None else after - before
                yield (
                    scheme,
                    before,
                    after,
                    Difference("second", "first", measure, network, value, None, None, len(pairs)),
                )
                continue
            old, new = (
                np.array([_or_nan(found[scheme, pair].get(key_of(measure, network))) for pair in pairs])
                for found in values
            )
            both = np.isfinite(old) & np.isfinite(new)
            interval = paired_interval(new, old)
            numbers = (interval.value, interval.low, interval.high)
            value, low, high = (v if np.isfinite(v) else None for v in numbers)
            yield (
                scheme,
                float(old[both].mean()) if both.any() else None,
                float(new[both].mean()) if both.any() else None,
                Difference("second", "first", measure, network, value, low, high, interval.pairs),
            )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value

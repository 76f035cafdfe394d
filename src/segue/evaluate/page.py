"""The HTML page of a report: one file, no network, no script; light or dark as the reader's system is."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

import numpy as np

from segue.evaluate.catalogue import MEASURES, find_measure
from segue.evaluate.charts import Dot, interval_chart, line_chart, number
from segue.evaluate.published import TABLE_1
from segue.evaluate.results import Cell, Difference, FilmReport, Report

__all__ = ["contrast", "document", "grid", "page_of"]

REFERENCE = "branching"
SHOWN = (
    "num_frames",
    "align",
    "detail",
    "noise",
    "solver",
    "num_inference_steps",
    "guidance_scale",
    "inversion",
    "seed",
)
OURS = ("align", "detail")  # what the paper's films do not have
OPEN = 4  # pairs that are shown without being asked for

STYLE = """
:root{color-scheme:light dark;--ink:#1d2026;--soft:#666d78;--line:#dfe2e7;--back:#fff;--card:#f6f7f9;--mark:#e8f1ec}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ec;--soft:#9aa1ad;--line:#343942;--back:#15171b;--card:#1d2025;
--mark:#20352a}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.5rem 4rem;max-width:1320px;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.6rem 0 .6rem}h3{font-size:1rem;margin:1.6rem 0 .4rem}
p{max-width:75ch}.soft,figcaption,small{color:var(--soft)}code{font-size:.9em}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
table{font-size:.87rem}
th,td{padding:.3rem .55rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child{text-align:left;white-space:nowrap}
thead th{color:var(--soft);font-weight:600;font-size:.8rem}
td small{display:block;font-size:.7rem;font-weight:400;white-space:nowrap}
td.best{background:var(--mark);font-weight:600}
td.clear{font-weight:600}td.even{color:var(--soft)}
.key{display:inline-flex;align-items:center;gap:.45rem;margin-right:1.1rem}.dot{width:.75em;height:.75em;border-radius:50%}
.cards{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;padding:.7rem;background:var(--card);border-radius:8px}
figcaption{font-size:.85rem}dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;max-width:90ch}
dt{font-weight:600}dd{margin:0}details{border-bottom:1px solid var(--line);padding:.5rem 0}summary{cursor:pointer}
.strip{display:grid;grid-template-columns:14rem 1fr;gap:.15rem .8rem;align-items:center;margin:.6rem 0;font-size:.85rem}
.strip img{max-width:100%;height:auto;display:block;border-radius:3px}
svg{display:block;max-width:100%}svg text{fill:var(--soft);font-size:10px}svg .title{fill:var(--ink);font-size:11px}
svg .grid{stroke:var(--line)}svg .zero{stroke:var(--soft);stroke-dasharray:3 3}
svg polyline{fill:none;stroke-width:1.8;stroke-linejoin:round}svg g line{stroke-width:2}
"""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e0a100", "#56b4e9", "#7a6a58", "#8c564b")


def document(title: str, parts: Sequence[str], series: int) -> str:
    """A whole page of parts, with a colour for each of a number of series."""
    colours = "".join(
        f".s{i} line,.s{i} polyline{{stroke:{colour}}}.s{i} circle{{fill:{colour}}}.dot.s{i}{{background:{colour}}}"
        for i, colour in zip(range(series), itertools.cycle(COLOURS), strict=False)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{colours}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def page_of(report: Report, strips: Mapping[tuple[str, str], str]) -> str:
    """The page of a report.

    Args:
        report: the numbers.
        strips: the address of the film strip of each (scheme, pair).
    """
    parts = [_head(report)]
    for network in _networks(report):
        parts += [_table(report, network), _intervals(report, network)]
    parts += [
        _side_by_side(report, strips),
        _paper(report),
        *(_differences(report, network) for network in _networks(report)),
    ]
    parts += [_average(report), _groups(report), _time(report), _definitions(report), _distances(report)]
    return document(
        f"Segue: evaluation of {report.model['name']}", [part for part in parts if part], len(report.schemes)
    )


def grid(head: str, rows: Sequence[str]) -> str:
    """A table with a first column of names."""
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def contrast(found: Difference | None) -> str:
    """The cell of a difference with its interval; bold where that does not hold zero."""
    if found is None or found.value is None:
        return "<td>–</td>"
    sign = "+" if found.value > 0 else ""
    if found.low is None or found.high is None:
        return f"<td>{sign}{number(found.value)}</td>"
    clear = "clear" if found.is_clear else "even"
    interval = f"<small>{number(found.low)} to {number(found.high)}</small>"
    return f'<td class="{clear}">{sign}{number(found.value)}{interval}</td>'


def _head(report: Report) -> str:
    networks = ", ".join(f"{escape(name)} <small>({escape(mark)})</small>" for name, mark in report.networks.items())
    settings = ", ".join(
        f"{name.replace('_', ' ')} {_plain(report.settings[name])}" for name in SHOWN if name in report.settings
    )
    return (
        f"<h1>Evaluation of {escape(report.model['name'])}</h1>"
        f'<p class="soft">{len(report.pairs)} pairs, {len(report.schemes)} schemes; feature networks: {networks}; '
        f"{escape(settings)}; Segue {escape(report.version)}.</p>"
        f"<p>{_key(report)}</p>"
    )


def _table(report: Report, network: str) -> str:
    columns = [column for column in report.columns if column[1] in (network, "")]
    best = {column: _best(report, *column) for column in columns}
    head = "".join(
        f"<th>{escape(find_measure(name).label)}<br><small>{_wish(find_measure(name).better)}</small></th>"
        for name, _ in columns
    )
    rows = []
    for i, scheme in enumerate(report.schemes):
        cells = [report.cell(scheme, *column) for column in columns]
        rows.append(
            f"<tr><td>{_dot(i)} {escape(scheme)}</td>"
            + "".join(_value(cell, scheme in best[column]) for cell, column in zip(cells, columns, strict=True))
            + "</tr>"
        )
    return (
        f"<h2>Measured with {escape(network)}</h2>"
        f"{grid(head, rows)}"
        f'<p class="soft">Below each value its 95 % interval over pairs. ↓ lower, ↑ higher, '
        f"→ 1 nearer to one is better; shaded: the best of a column.</p>{_about_sets(report, network)}"
    )


def _about_sets(report: Report, network: str) -> str:
    """What to know of FID and KID, or why there are none."""
    if floor := report.floors.get(network):
        text = (
            "FID is biased upwards at these numbers of frames: two independent samples of one and the same Gaussian "
            f"would score {number(floor['fid'])} (all frames: {number(floor['fid_all'])}); frames are like their own "
            "keyframes and can score less. Compare FID only between rows; KID has no such bias."
        )
    elif network.startswith("lpips"):
        text = "LPIPS compares two pictures; it has no features that FID and KID could be measured on."
    else:
        text = "FID and KID need two pairs or more, and films that all have one number of frames."
    return f'<p class="soft">{text}</p>'


def _intervals(report: Report, network: str) -> str:
    figures = []
    for column in (column for column in report.columns if column[1] in (network, "")):
        cells = [(i, report.cell(scheme, *column)) for i, scheme in enumerate(report.schemes)]
        dots = [
            Dot(cell.value, cell.low, cell.high, f"s{i}")
            for i, cell in cells
            if cell and cell.value is not None and cell.low is not None and cell.high is not None
        ]
        if dots:
            label = escape(find_measure(column[0]).label)
            figures.append(f"<figure><figcaption>{label}</figcaption>{interval_chart(dots)}</figure>")
    return f'<div class="cards">{"".join(figures)}</div>'


def _paper(report: Report) -> str:
    """The paper's table 1 beside the first network's FID and PPL, of films made as the paper's are."""
    if any(report.settings.get(name) for name in OURS):
        return (
            "<h2>Beside the paper's table 1</h2>"
            f"<p>Not comparable: these films have {_ours(report.settings)}, which the paper's do not. "
            "An evaluation with <code>--no-align --set detail=0</code> shows the table here.</p>"
        )
    measured = [network for measure, network in report.columns if measure == "fid"]
    network = next((n for n in measured if n.startswith("inception")), next(iter(measured), ""))
    rows = []
    for i, scheme in enumerate(report.schemes):
        ours, path = report.cell(scheme, "fid", network), report.cell(scheme, "ppl", network)
        if scheme in TABLE_1 and ours and path:
            theirs = TABLE_1[scheme]
            rows.append(
                f"<tr><td>{_dot(i)} {escape(scheme)}</td><td>{theirs.fid:g}</td><td>{number(ours.value)}</td>"
                f"<td>{theirs.ppl:g} ± {theirs.ppl_spread:g}</td>"
                f"<td>{number(path.value)} ± {number(path.spread)}</td></tr>"
            )
    if not rows:
        return ""
    return (
        "<h2>Beside the paper's table 1</h2>"
        + grid("<th>FID, paper</th><th>FID, here</th><th>PPL, paper</th><th>PPL, here</th>", rows)
        + f'<p class="soft">The paper: Stable Diffusion 2.1, 26 pairs, Inception-v3. Here: '
        f"{escape(report.model['name'])}, {len(report.pairs)} pairs, {escape(network)}. "
        "Without alignment and detail, as there. Only the order of the rows can be compared. "
        "± is the standard deviation over pairs.</p>"
    )


def _differences(report: Report, network: str) -> str:
    """How every scheme differs from the reference over the same pairs."""
    reference = REFERENCE if REFERENCE in report.schemes else report.schemes[0]
    others = [scheme for scheme in report.schemes if scheme != reference]
    columns = [column for column in report.columns if column[1] in (network, "")]
    if not others:
        return ""
    head = "".join(f"<th>{escape(find_measure(name).label)}</th>" for name, _ in columns)
    rows = []
    for scheme in others:
        cells = "".join(contrast(_between(report, scheme, reference, *column)) for column in columns)
        rows.append(f"<tr><td>{_dot(report.schemes.index(scheme))} {escape(scheme)}</td>{cells}</tr>")
    return (
        f"<h2>Against {escape(reference)}, pair by pair ({escape(network)})</h2>"
        f"{grid(head, rows)}"
        f'<p class="soft">Scheme minus {escape(reference)} over the same pairs, with the 95 % interval; bold where it '
        "does not hold zero.</p>"
    )


def _between(report: Report, first: str, second: str, measure: str, network: str) -> Difference | None:
    """The difference first - second, whichever way round it was kept."""
    for found in report.differences:
        if (found.measure, found.network) == (measure, network):
            if (found.first, found.second) == (first, second):
                return found
            if (found.first, found.second) == (second, first):
                low, high = (None if v is None else -v for v in (found.high, found.low))
                value = None if found.value is None else -found.value
                return Difference(first, second, measure, network, value, low, high, found.pairs)
    return None


def _average(report: Report) -> str:
    """The mean over pairs of the distances along the sequence, by network."""
    parts = []
    for network in report.networks:
        curves: dict[str, dict[str, list[tuple[float, float]]]] = {"steps": {}, "to_first": {}, "to_last": {}}
        for i, scheme in enumerate(report.schemes):
            films = [film for film in report.films if film.scheme == scheme]
            if len({film.positions for film in films}) != 1:
                return ""
            for name, curve in curves.items():
                mean = np.mean([film.distances[network][name] for film in films], axis=0)
                curve[f"s{i}"] = list(zip(_places(films[0], name), mean.tolist(), strict=True))
        titles = {
            "steps": "between neighbours",
            "to_first": "to the first keyframe",
            "to_last": "to the last keyframe",
        }
        charts = "".join(
            f"<figure>{line_chart(curve, width=340, height=180, title=titles[name], dots=name == 'steps')}</figure>"
            for name, curve in curves.items()
        )
        parts.append(f'<h3>{escape(network)}</h3><div class="cards">{charts}</div>')
    return f"<h2>Distance along the sequence, mean over pairs</h2>{''.join(parts)}"


def _groups(report: Report) -> str:
    if not report.groups:
        return ""
    columns = [column for column in report.columns if report.cell(report.schemes[0], *column, report.groups[0])]
    head = "".join(
        f"<th>{escape(find_measure(name).label)}{f'<br><small>{escape(net)}</small>' if net else ''}</th>"
        for name, net in columns
    )
    rows = []
    for group in report.groups:
        size = report.cell(report.schemes[0], *columns[0], group)
        rows.append(
            f'<tr><th colspan="{len(columns) + 1}">{escape(group)} '
            f"<small>({size.pairs if size else 0} pairs)</small></th></tr>"
        )
        for i, scheme in enumerate(report.schemes):
            cells = "".join(_value(report.cell(scheme, *column, group), best=False) for column in columns)
            rows.append(f"<tr><td>{_dot(i)} {escape(scheme)}</td>{cells}</tr>")
    return (
        '<h2>By group</h2><details><summary>Show the table</summary><div class="scroll"><table>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _time(report: Report) -> str:
    if not report.seconds:
        return ""
    films = report.seconds["films"] or 1e-9
    return (
        "<h2>Time</h2><dl>"
        f"<dt>Films</dt><dd>{report.seconds['films']:.1f} s for {len(report.films)} films</dd>"
        f"<dt>Feature networks</dt><dd>{report.seconds['features']:.1f} s "
        f"({report.seconds['features'] / films:.1%} of the films)</dd>"
        f"<dt>Everything else</dt><dd>{report.seconds['rest']:.1f} s ({report.seconds['rest'] / films:.1%})</dd></dl>"
    )


def _definitions(report: Report) -> str:
    there = {measure for measure, _ in report.columns}
    entries = "".join(
        f"<dt>{escape(m.label)}</dt><dd>{escape(m.definition)}"
        + (f" <small>{escape(m.source)}</small>" if m.source else "")
        + "</dd>"
        for m in MEASURES
        if m.name in there
    )
    return f"<h2>Definitions</h2><dl>{entries}</dl>"


def _side_by_side(report: Report, strips: Mapping[tuple[str, str], str]) -> str:
    """Every pair: a row for each scheme, a column for each frame; the first few are open."""
    parts = []
    for i_pair, (summary, there) in enumerate(_films_of_pairs(report)):
        rows = "".join(
            f'<span>{_dot(i)} {escape(film.scheme)}</span><img alt="{escape(film.scheme)}, {escape(film.pair)}" '
            f'src="{strips[film.scheme, film.pair]}">'
            for i, film in there
        )
        is_open = " open" if i_pair < OPEN else ""
        parts.append(f'<details{is_open}>{summary}<div class="strip">{rows}</div></details>')
    return f"<h2>The schemes side by side</h2>{''.join(parts)}"


def _films_of_pairs(report: Report) -> Iterator[tuple[str, list[tuple[int, FilmReport]]]]:
    """The heading of each pair, and its films with the numbers of their schemes."""
    films = {(film.scheme, film.pair): film for film in report.films}
    for name in report.pairs:
        there = [(i, films[scheme, name]) for i, scheme in enumerate(report.schemes) if (scheme, name) in films]
        group = f" <small>{escape(there[0][1].group)}</small>" if there and there[0][1].group else ""
        yield f"<summary>{escape(name)}{group}</summary>", there


def _distances(report: Report) -> str:
    """Every pair: the distances along the films of all schemes."""
    parts = []
    for summary, there in _films_of_pairs(report):
        charts = "".join(
            "<figure>"
            + line_chart(
                {
                    f"s{i}": list(zip(_places(film, kind), film.distances[network][kind], strict=True))
                    for i, film in there
                },
                title=f"{title}, {network}",
                dots=kind == "steps",
            )
            + "</figure>"
            for network in report.networks
            for kind, title in (("steps", "between neighbours"), ("to_first", "to the first keyframe"))
        )
        parts.append(f'<details>{summary}<div class="cards">{charts}</div></details>')
    return f"<h2>Distances along each pair</h2>{''.join(parts)}"


def _places(film: FilmReport, kind: str) -> Sequence[float]:
    """Where the distances of a kind stand: steps in the middle of their gap, the others at their frames."""
    if kind != "steps":
        return film.positions
    return [(a + b) / 2 for a, b in zip(film.positions, film.positions[1:], strict=False)]


def _networks(report: Report) -> tuple[str, ...]:
    return tuple(report.networks)


def _best(report: Report, measure: str, network: str) -> set[str]:
    """The schemes with the best value of a measure; none where no direction is better."""
    wish = find_measure(measure).better
    found = {s: c.value for s in report.schemes if (c := report.cell(s, measure, network)) and c.value is not None}
    if not wish or len(found) < 2:
        return set()
    ranks: dict[str, Callable[[float], float]] = {
        "lower": lambda v: v,
        "higher": lambda v: -v,
        "1": lambda v: abs(v - 1),
    }
    rank = ranks[wish]
    first = min(rank(value) for value in found.values())
    return {scheme for scheme, value in found.items() if rank(value) == first}


def _value(cell: Cell | None, best: bool) -> str:
    if cell is None or cell.value is None:
        return "<td>–</td>"
    interval = "" if cell.low is None else f"<small>{number(cell.low)} to {number(cell.high)}</small>"
    return (
        f'<td class="best">{number(cell.value)}{interval}</td>' if best else f"<td>{number(cell.value)}{interval}</td>"
    )


def _wish(better: str) -> str:
    return {"lower": "↓", "higher": "↑", "1": "→ 1", "": "&nbsp;"}[better]


def _dot(i: int) -> str:
    return f'<span class="dot s{i}" style="display:inline-block"></span>'


def _key(report: Report) -> str:
    return "".join(f'<span class="key">{_dot(i)} {escape(scheme)}</span>' for i, scheme in enumerate(report.schemes))


def _ours(settings: Mapping[str, object]) -> str:
    """What films have that the paper's do not, in words."""
    return " and ".join(text for name, text in zip(OURS, ("alignment", "detail"), strict=True) if settings.get(name))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " to ".join(f"{v:g}" for v in value) if isinstance(value, list | tuple) else str(value)

"""Charts as SVG text, to stand in a page; their colours come from the page's style, one class for each series."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Dot", "interval_chart", "line_chart", "number"]


@dataclass(frozen=True)
class Dot:
    """A value with its interval, and the class of its series."""

    value: float
    low: float
    high: float
    series: str


def interval_chart(dots: Sequence[Dot], *, width: int = 220, zero: bool = False) -> str:
    """Values with their intervals, one below the other; with ``zero``, a line where nothing differs."""
    row, pad = 18, 6
    values = [v for dot in dots for v in (dot.value, dot.low, dot.high)] + ([0.0] if zero else [])
    scale = _Scale(min(values), max(values), pad, width - pad)
    height = row * len(dots) + 20
    parts = [_vertical(scale(tick), 0, row * len(dots), "grid") for tick in scale.ticks(3)]
    parts += [
        f'<text class="tick" x="{scale(tick):.1f}" y="{height - 6}" text-anchor="middle">{_tick(tick)}</text>'
        for tick in scale.ticks(3)
    ]
    if zero:
        parts.append(_vertical(scale(0), 0, row * len(dots), "zero"))
    for i, dot in enumerate(dots):
        y = row * i + row / 2
        parts.append(
            f'<g class="{dot.series}"><line x1="{scale(dot.low):.1f}" x2="{scale(dot.high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{scale(dot.value):.1f}" cy="{y}" r="4"/></g>'
        )
    return _svg(width, height, parts)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    width: int = 300,
    height: int = 130,
    title: str = "",
    dots: bool = False,
) -> str:
    """Lines over the positions 0 to 1 from 0 up, each with the class of its series; dots mark the points."""
    left, bottom, top = 34, 18, 16 if title else 6
    highest = max((y for points in series.values() for _, y in points), default=0.0) or 1.0
    across, up = _Scale(0, 1, left, width - 6, exact=True), _Scale(0, highest * 1.04, height - bottom, top, exact=True)
    parts = []
    for tick in _Scale(0, highest, 0, 1, exact=True).ticks(3):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 6}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 4}" y="{up(tick) + 3:.1f}" text-anchor="end">{_tick(tick)}</text>')
    for tick in (0.0, 0.5, 1.0):
        parts.append(f'<text class="tick" x="{across(tick):.1f}" y="{height - 5}" text-anchor="middle">{tick:g}</text>')
    if title:
        parts.append(f'<text class="title" x="{left}" y="10">{escape(title)}</text>')
    for name, points in series.items():
        drawn = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        marks = "".join(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2"/>' for x, y in points) if dots else ""
        parts.append(f'<g class="{name}"><polyline points="{drawn}"/>{marks}</g>')
    return _svg(width, height, parts)


def number(value: float | None) -> str:
    """A number with three significant digits; an en dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 100_000:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{digits}f}".replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


class _Scale:
    """A linear scale from values to pixels; with a margin, unless exact."""

    def __init__(self, low: float, high: float, start: float, stop: float, *, exact: bool = False) -> None:
        margin = 0.0 if exact else ((high - low) * 0.06 or abs(high) * 0.1 or 1.0)
        self.low, self.high = low - margin, high + margin
        self.start, self.stop = start, stop

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.stop - self.start)

    def ticks(self, count: int) -> list[float]:
        """About that many round values inside."""
        span = (self.high - self.low) or 1.0
        power = 10 ** math.floor(math.log10(span / count))
        step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _vertical(x: float, top: float, bottom: float, name: str) -> str:
    return f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'

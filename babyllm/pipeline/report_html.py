"""The files of a report: a JSON file, and an HTML page without scripts or other files, in light and dark colours.

Report -> write_report -> report.json
                       -> facts, tables (shares as bars), plots (inline SVG), examples (side by side) -> report.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from babyllm.files import write_bytes, write_json
from babyllm.pipeline.html_page import N_COLOURS, environment, even_ticks, log_ticks, short_number
from babyllm.pipeline.report import Bin, Histogram, Report

if TYPE_CHECKING:
    from jinja2 import Template

REPORT_FILES = ("report.json", "report.html")
WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 34  # Margins of a plot, in units of its SVG.
PAGE = """\
{% from "tables" import show %}
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.title | visible }}</title><style>{{ style | safe }}</style></head>
<body>
<h1>{{ report.title | visible }}</h1>
<dl>
{%- for name, value in report.facts -%}
<div><dt>{{ name | visible }}</dt><dd>{{ value | shown | visible }}</dd></div>
{%- endfor -%}
</dl>
{% for table in report.tables %}
<h2>{{ table.title | visible }}</h2>
{{ show(table) }}
{% endfor %}
{% if report.histograms %}
<h2>Distributions</h2><div class="plots">
{%- for histogram in report.histograms -%}
{%- set plot = histogram | plot -%}
<figure><figcaption>{{ histogram.title | visible }}</figcaption><div class="legend">
{%- for curve in plot.curves -%}
<span><i style="background: {{ curve.colour }}"></i>{{ curve.name | visible }}</span>
{%- endfor -%}
</div><svg viewBox="0 0 {{ width }} {{ height }}" role="img">
{%- for y, label in plot.y_ticks -%}
<line class="grid" x1="{{ left }}" x2="{{ right }}" y1="{{ "%.1f" | format(y) }}" y2="{{ "%.1f" | format(y) }}"/>
<text x="{{ left - 6 }}" y="{{ "%.1f" | format(y + 4) }}" text-anchor="end">{{ label }}</text>
{%- endfor -%}
{%- for curve in plot.curves -%}
<path class="series" style="stroke: {{ curve.colour }}; fill: {{ curve.colour }}" d="{{ curve.outline }}"/>
{%- endfor -%}
{%- for x, label in plot.x_ticks -%}
<text x="{{ "%.1f" | format(x) }}" y="{{ bottom + 15 }}" text-anchor="middle">{{ label }}</text>
{%- endfor -%}
<text x="{{ right }}" y="{{ height - 4 }}" text-anchor="end">{{ histogram.unit | visible }}</text></svg></figure>
{% endfor %}
</div>
{% endif %}
{% for group in report.examples or () %}
<h2>{{ group.title | visible }}</h2>
{% for item in group["items"] %}
<div class="example"><div class="label">{{ item.label | visible }}</div><div class="texts">
{%- for text in item.texts -%}
<p lang="zh">{{ text | visible }}</p>
{%- endfor -%}
</div></div>
{% endfor %}
{% endfor %}
</body></html>
"""


def write_report(directory: Path, report: Report) -> None:
    """Write `report.json` and `report.html` into an existing directory."""
    value, shown_as_page = (directory / name for name in REPORT_FILES)
    write_json(value, report.to_json())
    write_bytes(shown_as_page, page(report).encode("utf-8", "backslashreplace"))


def page(report: Report) -> str:
    """The whole HTML page of a report."""
    return _template().render(report=report)


@cache
def _template() -> Template:
    made = environment()
    made.filters["plot"] = _plot
    made.globals |= {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM}
    return made.from_string(PAGE)


# ---- plots


class _Curve(NamedTuple):
    name: str
    colour: str
    outline: str


class _Plot(NamedTuple):
    curves: list[_Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def _plot(histogram: Histogram) -> _Plot:
    """The curves and ticks of a histogram, in SVG coordinates; each tick has a position and a label."""
    series, is_log = histogram.series, histogram.is_log
    edges = [edge for bins in series.values() for low, high, _ in bins for edge in (low, high)] or [1, 10]
    floor = min((edge for edge in edges if edge > 0), default=1) / 2 if is_log else -math.inf  # where 0 is drawn
    first, last = max(min(edges), floor), max(edges)
    top = max((count for bins in series.values() for _, _, count in bins), default=0) or 1

    def x(value: float) -> float:
        low, high, v = (math.log(max(u, floor)) if is_log else u for u in (first, last, value))
        return LEFT + (v - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - count / top * (HEIGHT - TOP - BOTTOM)

    return _Plot(
        [
            _Curve(name, f"var(--c{i % N_COLOURS})", _outline(bins, x, y))
            for i, (name, bins) in enumerate(series.items())
        ],
        [(x(v), short_number(v)) for v in (log_ticks(first, last) if is_log else even_ticks(first, last, 6))],
        [(y(v), short_number(v)) for v in even_ticks(0, top, 4)],
    )


def _outline(bins: Sequence[Bin], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """A path along the tops of the bins, down to zero where bins are missing."""
    points: list[str] = []
    previous = None
    for low, high, count in bins:
        if low != previous:
            points += [f"V{y(0):.1f}"] if points else []
            points.append(f"{'L' if points else 'M'}{x(low):.1f},{y(0):.1f}")
        points.append(f"V{y(count):.1f}H{x(high):.1f}")
        previous = high
    return "".join([*points, f"V{y(0):.1f}" if points else ""])

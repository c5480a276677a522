"""The files of a report: a JSON file, and an HTML page without scripts or other files, in light and dark colours.

Report -> write_report -> report.json
                       -> facts, tables (shares as bars), plots (inline SVG), examples (side by side) -> report.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from babyllm.files import write_bytes, write_json
from babyllm.pipeline.report import Bin, Cell, Histogram, Report, shown

if TYPE_CHECKING:
    from jinja2 import Template

REPORT_FILES = ("report.json", "report.html")
WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 34  # Margins of a plot, in units of its SVG.
N_COLOURS = 6
# Characters that a browser would not show, or that would reverse the direction of text.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5d6778; --line: #dfe3e9; --card: #fff; --page: #f5f6f8;
  --bar: #8fb3e8; --c0: #8a94a6; --c1: #2468c9; --c2: #d9822b; --c3: #2c9367; --c4: #a64ac9; --c5: #c23b4a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #98a3b3; --line: #303846; --card: #1a1f28;
  --page: #12151b; --bar: #33578f; --c0: #8691a3; --c1: #6ea8ff; --c2: #f0a353; --c3: #57c794; --c4: #cf8bea;
  --c5: #f07a86; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 24px 20px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC",
  "Source Han Sans SC", sans-serif; }
h1 { font-size: 24px; margin: 8px 0 16px; } h2 { font-size: 17px; margin: 32px 0 10px; }
dl { display: flex; flex-wrap: wrap; gap: 10px; margin: 0; }
dl div, figure, table, .example { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
dl div { padding: 8px 14px; } dt { color: var(--soft); font-size: 13px; }
dd { margin: 0; font-size: 17px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; min-width: 50%; }
th, td { padding: 6px 14px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: 13px; } tr:last-child td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.share { min-width: 160px; background: linear-gradient(var(--bar) 0 0) 0 50% / var(--share) 62% no-repeat; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 12px; } figcaption { font-weight: 600; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); } .series { stroke-width: 1.6; fill-opacity: .18; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; color: var(--soft); font-size: 13px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.example { padding: 10px 14px; margin: 8px 0; } .label { color: var(--soft); font-size: 13px; }
.texts { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 16px; }
.texts p { margin: 4px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16em; overflow-y: auto; }
.texts p + p { border-left: 1px solid var(--line); padding-left: 16px; }
@media (max-width: 700px) { .texts { grid-auto-flow: row; } .texts p + p { border: 0; padding: 0; } }
"""


PAGE = """\
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
{% set is_numeric = table.is_numeric() %}
<h2>{{ table.title | visible }}</h2>
<div class="wide"><table><tr>
{%- for name in table.columns -%}
<th{% if is_numeric[loop.index0] and name != "share" %} class=number{% endif %}>{{ name | visible }}</th>
{%- endfor -%}
</tr>
{% for row in table.rows %}
<tr>
{%- for value in row -%}
{%- set column = table.columns[loop.index0] -%}
{%- if column == "share" and value is number -%}
<td class="share" style="--share: {{ "%.2f" | format([1.0, value] | min * 100) }}%">
{%- else -%}
<td{% if is_numeric[loop.index0] %} class=number{% endif %}>
{%- endif -%}
{{ value | shown(column) | visible }}</td>
{%- endfor -%}
</tr>
{% endfor %}
</table></div>
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
    from jinja2 import Environment, StrictUndefined  # imported only when a page is written, which few processes do

    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"visible": _visible, "shown": shown, "plot": _plot}
    environment.globals |= {"style": STYLE, "width": WIDTH, "height": HEIGHT}
    environment.globals |= {"left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM}
    return environment.from_string(PAGE)


def _visible(value: Cell) -> str:
    """A text in which invisible characters are written as code points."""
    return INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", str(value))


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
        [(x(v), _short(v)) for v in (_log_ticks(first, last) if is_log else _even_ticks(first, last, 6))],
        [(y(v), _short(v)) for v in _even_ticks(0, top, 4)],
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


def _even_ticks(first: float, last: float, about: int) -> Iterable[float]:
    """Round numbers from `first` to `last`, approximately `about` of them; whole numbers unless `last` is small."""
    rough = max((last - first) / about, 1e-12)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    step = max(step, 1.0) if last >= about else step
    return [step * k for k in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _log_ticks(first: float, last: float) -> Iterable[float]:
    """Powers of ten from `first` to `last`; if there are few, also twice and five times each."""
    powers = range(math.floor(math.log10(first)), math.floor(math.log10(last)) + 1)
    ticks = [m * 10.0**power for power in powers for m in ((1, 2, 5) if last / first < 1e4 else (1,))]
    return [tick for tick in ticks if first <= tick <= last]


def _short(value: float) -> str:
    """A number in a few characters: 1,500, 20k, 3M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if suffix == 'k' else size):g}{suffix}"
    return f"{value:,g}"

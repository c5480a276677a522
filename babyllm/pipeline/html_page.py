"""What the HTML pages of reports share: style, tables, a template environment, ticks of an axis.

A page is one file without a network, in light and dark colours. Its series have colours that the colour-blind can tell
apart (after Okabe and Ito 2008), darkened or lightened for the page that they are on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from babyllm.pipeline.report import Cell, shown

if TYPE_CHECKING:
    from jinja2 import Environment

N_COLOURS = 6
# Characters that a browser would not show, or that would reverse the direction of text.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5d6778; --line: #dfe3e9; --card: #fff; --page: #f5f6f8;
  --bar: #8fb3e8; --c0: #7d8798; --c1: #0f6cbd; --c2: #cf5a00; --c3: #008764; --c4: #a3458a; --c5: #a87400; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #98a3b3; --line: #303846; --card: #1a1f28;
  --page: #12151b; --bar: #33578f; --c0: #8f9aac; --c1: #6ab0ff; --c2: #f58b4c; --c3: #3fcf9f; --c4: #e79acb;
  --c5: #e3bb4d; } }
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

TABLES = """\
{% macro show(table) %}
{% set is_numeric = table.is_numeric() %}
<div class="wide"><table><tr>
{%- for name in table.columns -%}
<th{% if is_numeric[loop.index0] and name != "share" %} class=number{% endif %}>{{ name | label | visible }}</th>
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
{% endmacro %}
"""


def environment(label: Callable[[str], str] = str) -> Environment:
    """A Jinja environment that escapes every value; `{% from "tables" import show %}` brings the macro of tables.

    Args:
        label: function that returns the heading of a column, given its name.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined  # imported only when a page is written

    made = Environment(
        loader=DictLoader({"tables": TABLES}),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    made.filters |= {"visible": visible, "shown": shown, "label": label}
    made.globals |= {"style": STYLE}
    return made


def visible(value: Cell) -> str:
    """A text in which invisible characters are written as code points."""
    return INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", str(value))


def even_ticks(first: float, last: float, about: int, *, is_count: bool = True) -> Iterable[float]:
    """Round numbers from `first` to `last`, about `about` of them; of counts whole ones unless `last` is small."""
    rough = max((last - first) / about, 1e-12)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    step = max(step, 1.0) if is_count and last >= about else step
    return [step * k for k in range(math.ceil(first / step), math.floor(last / step) + 1)]


def log_ticks(first: float, last: float) -> Iterable[float]:
    """Powers of ten from `first` to `last`; if there are few, also twice and five times each."""
    powers = range(math.floor(math.log10(first)), math.floor(math.log10(last)) + 1)
    ticks = [m * 10.0**power for power in powers for m in ((1, 2, 5) if last / first < 1e4 else (1,))]
    return [tick for tick in ticks if first <= tick <= last]


def short_number(value: float) -> str:
    """A number in a few characters: 1,500, 20k, 3M, 2e-4."""
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if suffix == 'k' else size):g}{suffix}"
    return f"{value:,g}"

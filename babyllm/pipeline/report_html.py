"""The HTML page of a report: one file without scripts, plots as inline SVG, light and dark.

report -> facts, tables (shares as bars), histograms (svg), examples (texts side by side) -> page
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 34  # of the plot in its picture
N_COLOURS = 6
# Characters that a page would swallow or that would turn its text around.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
Bins = Sequence[Sequence[float]]

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


def page(report: Mapping[str, Any]) -> str:
    """The whole page of a report (see `babyllm.pipeline.report`)."""
    title = _text(report["title"])
    facts = "".join(f"<div><dt>{_text(n)}</dt><dd>{_text(shown(v))}</dd></div>" for n, v in report.get("facts", []))
    body = [f"<h1>{title}</h1>", f"<dl>{facts}</dl>"]
    body += [_table(table) for table in report.get("tables", [])]
    if report.get("histograms"):
        figures = "".join(_figure(histogram) for histogram in report["histograms"])
        body.append(f'<h2>Distributions</h2><div class="plots">{figures}</div>')
    body += [_examples(group) for group in report.get("examples", [])]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>{title}</title><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def shown(value: Any, column: str = "") -> str:
    """A value as people read it: 1,234,567, 0.5123, 12.3 % in a column "share", nothing for null."""
    if value is None:
        return ""
    if isinstance(value, (int, float)) and column == "share":
        return f"{value * 100:.1f} %"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _text(value: Any) -> str:
    """Escaped text in which characters that show nothing are spelled out."""
    return escape(INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", str(value)))


def _table(table: Mapping[str, Any]) -> str:
    columns = table["columns"]
    numeric = [any(isinstance(row[i], (int, float)) for row in table["rows"]) for i in range(len(columns))]
    head = "".join(
        f"<th{' class=number' if right and name != 'share' else ''}>{_text(name)}</th>"
        for name, right in zip(columns, numeric, strict=True)
    )
    rows = "".join("<tr>" + "".join(map(_cell, row, columns, numeric)) + "</tr>\n" for row in table["rows"])
    return f'<h2>{_text(table["title"])}</h2>\n<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>'


def _cell(value: Any, column: str, is_number: bool) -> str:
    text = _text(shown(value, column))
    if column == "share" and isinstance(value, (int, float)):
        return f'<td class="share" style="--share: {min(1.0, value) * 100:.2f}%">{text}</td>'
    return f"<td{' class=number' if is_number else ''}>{text}</td>"


def _examples(group: Mapping[str, Any]) -> str:
    items = "".join(
        f'<div class="example"><div class="label">{_text(item["label"])}</div><div class="texts">'
        + "".join(f'<p lang="zh">{_text(text)}</p>' for text in item["texts"])
        + "</div></div>\n"
        for item in group["items"]
    )
    return f"<h2>{_text(group['title'])}</h2>\n{items}"


# ---- plots


def _figure(histogram: Mapping[str, Any]) -> str:
    series: Mapping[str, Bins] = histogram["series"]
    legend = "".join(
        f'<span><i style="background: {_colour(i)}"></i>{_text(name)}</span>' for i, name in enumerate(series)
    )
    return (
        f"<figure><figcaption>{_text(histogram['title'])}</figcaption>"
        f'<div class="legend">{legend}</div>{_svg(series, histogram["unit"], histogram["log"])}</figure>\n'
    )


def _colour(index: int) -> str:
    return f"var(--c{index % N_COLOURS})"


def _svg(series: Mapping[str, Bins], unit: str, is_log: bool) -> str:
    edges = [edge for bins in series.values() for low, high, _ in bins for edge in (low, high)] or [1, 10]
    floor = min((edge for edge in edges if edge > 0), default=1) / 2 if is_log else -math.inf  # where 0 is drawn
    first, last = max(min(edges), floor), max(edges)
    top = max((count for bins in series.values() for _, _, count in bins), default=0) or 1

    def x(value: float) -> float:
        low, high, v = (math.log(max(u, floor)) if is_log else u for u in (first, last, value))
        return LEFT + (v - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - count / top * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for tick in _even_ticks(0, top, 4):
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for i, bins in enumerate(series.values()):
        outline = _outline(bins, x, y)
        parts.append(f'<path class="series" style="stroke: {_colour(i)}; fill: {_colour(i)}" d="{outline}"/>')
    for tick in _log_ticks(first, last) if is_log else _even_ticks(first, last, 6):
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_short(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{_text(unit)}</text></svg>')
    return "".join(parts)


def _outline(bins: Bins, x: Any, y: Any) -> str:
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
    """Round numbers from `first` to `last`, some `about` of them, never a part of one thing."""
    rough = max((last - first) / about, 1e-12)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    step = max(step, 1.0) if last >= about else step
    return [step * k for k in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _log_ticks(first: float, last: float) -> Iterable[float]:
    """Powers of ten, and twice and five times them where there are few powers."""
    powers = range(math.floor(math.log10(first)), math.floor(math.log10(last)) + 1)
    ticks = [m * 10.0**power for power in powers for m in ((1, 2, 5) if last / first < 1e4 else (1,))]
    return [tick for tick in ticks if first <= tick <= last]


def _short(value: float) -> str:
    """A number in a few characters: 1,500, 20k, 3M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if suffix == 'k' else size):g}{suffix}"
    return f"{value:,g}"

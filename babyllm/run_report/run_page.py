"""The report of a run: one HTML file without a network, in Chinese or English, light and dark.

run directory, other runs -> RunRecords -> sections, figures -> Jinja template, style, script -> report.html

Every text of a run is escaped and cut to a bounded length. The page's content security policy allows its own script
alone, whatever a run's texts contain.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.pipeline.html_page import environment
from babyllm.pipeline.report import Cell, Table, shown
from babyllm.run_directory import CONFIG
from babyllm.run_report import sections
from babyllm.run_report.figures import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    draw,
    main_figures,
    other_figures,
)
from babyllm.run_report.metric_curves import Metrics, Point
from babyllm.run_report.run_facts import without_folders
from babyllm.run_report.run_record import RunRecord, read_run_record
from babyllm.run_report.run_texts import NAMES, STEPS, cut
from babyllm.run_report.translation import STAGES, step_text, translated
from babyllm.runtime.machine import Language, preferred_language
from babyllm.training.curves.loss_findings import Finding
from babyllm.training.curves.loss_review import findings_of_run
from babyllm.training.curves.reference_curves import references_of_run
from babyllm.training.recording.records import METRICS_FILE, RUN_REPORT

PAGE = Path(__file__).parent / "page"
EARLIER = 2
"""Number of earlier runs that the report at the end of a run is compared with."""
LOOKED_AT = 20
"""Number of neighbouring directories that are looked at to find them."""
MAX_METRICS = 64 << 20
"""Bytes of a metrics.jsonl above which an earlier run is left out."""
CONFIGURATION = 60_000
"""Characters that are shown of a configuration."""


def write_run_report(
    run: Path,
    others: Sequence[Path] = (),
    *,
    language: Language | None = None,
    out: Path | None = None,
) -> Path:
    """Write the report of a run; returns the path of the file.

    Args:
        run: directory of the run, or of one of its steps.
        others: directories of other runs to compare it with.
        language: language of the page; None takes that of the machine.
        out: file to write; None writes report.html in the directory of the run.

    Raises:
        UserError: a path is not a run, or the file cannot be written.
    """
    record = read_run_record(run)
    of_others = [read_run_record(other) for other in others]
    text = page(record, of_others, language or preferred_language())
    target = out or record.directory / RUN_REPORT
    try:
        write_bytes(target, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); name another file with --out") from error
    return target


def report_at_end(run_dir: Path) -> None:
    """Write the report at the end of a run, compared with the newest runs of its stage in the folder beside it.

    Raises:
        UserError: the file cannot be written.
    """
    write_run_report(run_dir, earlier_runs(run_dir))


def earlier_runs(run_dir: Path) -> list[Path]:
    """The newest runs beside a run that have the same sections of settings, so that they are of its stage."""
    names = _names(run_dir)
    beside = [path for path in run_dir.resolve().parent.iterdir() if (path / METRICS_FILE).is_file()]
    beside = [path for path in beside if path != run_dir.resolve()]
    sizes = {path: (path / METRICS_FILE).stat() for path in beside}
    newest = sorted(beside, key=lambda path: (-sizes[path].st_mtime, path.name))[:LOOKED_AT]
    fitting = (path for path in newest if sizes[path].st_size <= MAX_METRICS and names and _names(path) == names)
    return [path for path, _ in zip(fitting, range(EARLIER), strict=False)]


def _names(run_dir: Path) -> set[str]:
    """The names at the beginning of the lines of a configuration, which tell the stages apart."""
    path = run_dir / CONFIG
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {line.partition(":")[0] for line in lines if line[:1].isalpha()}


def page(run: RunRecord, others: Sequence[RunRecord], language: Language) -> str:
    """The whole HTML page."""
    references = run.part("curves of reference", partial(_references, run, language), dict[str, list[Series]]())
    findings = run.part("findings on the loss", partial(findings_of_run, run.directory, language), list[Finding]())
    label = partial(translated, language=language)
    stage = STAGES.get(run.stage, run.stage) if language == "zh" else run.stage
    made, script = environment(label), _read("run.js")
    made.filters |= {"cell": _cell, "fact": partial(_fact, label=label), "step": partial(step_text, language=language)}
    made.globals |= {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP}
    made.globals |= {"bottom": HEIGHT - BOTTOM, "script": script, "script_hash": _hash(script)}
    made.globals |= {
        "own_style": _read("run.css"),
        "step_limit": STEPS,
        "name_limit": NAMES,
        "language": _tag(language),
    }
    return made.from_string(_read("run.html")).render(
        run=run,
        subtitle=_subtitle(run, language),
        headline=[(name, stage if name == "stage" else value) for name, value in sections.headline(run)],
        findings=findings,
        figures=[draw(figure, label) for figure in main_figures(run.metrics, _named(others), references)],
        more_figures=[draw(figure, label) for figure in other_figures(run.metrics)],
        held_out=sections.held_out(run),
        comparison=[_labelled(table, label) for table in sections.comparison(run, others)] if others else [],
        data=sections.data(run),
        has_licences=any(one.licence for one in run.data_sets),
        data_steps=sections.data_steps(run),
        skipped=sections.skipped(run),
        cost=sections.cost(run),
        command=cut(run.command, CONFIGURATION).text,
        configuration=_configuration(run),
        environment=sections.environment(run),
    )


def _references(run: RunRecord, language: Language) -> dict[str, list[Series]]:
    """The curves that the run is compared with, by the metric that they are of."""
    found: dict[str, list[Series]] = {}
    for one in references_of_run(run.directory, language=language):
        name = one.label + (f" ({one.note})" if one.note else "")
        points = [Point(step, value, value, value) for step, value in zip(one.steps, one.values, strict=True)]
        if points:
            found.setdefault(one.metric, []).append(Series(name, points, "reference"))
    return found


def _labelled(table: Table, label: Callable[[str], str]) -> Table:
    """A table whose texts are translated where they are words of ours."""
    return replace(table, rows=[[label(one) if isinstance(one, str) else one for one in row] for row in table.rows])


def _subtitle(run: RunRecord, language: Language) -> str:
    """The last step, the number of steps and the day."""
    of = f" / {run.messages.total_steps:,}" if run.messages.total_steps else ""
    ended = run.metrics.last.get("time")
    # A time that cannot be a date costs the date alone.
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)) if ended is not None and 0 < ended < 4e9 else ""
    version = run.environment.get("babyllm")
    parts = [f"{step_text(run.metrics.step, language)}{of}", day, f"babyllm {version}" if version else ""]
    return " · ".join(filter(None, parts))


def _named(others: Sequence[RunRecord]) -> dict[str, Metrics]:
    """The metrics of other runs, by names that tell them apart."""
    named: dict[str, Metrics] = {}
    for number, other in enumerate(others, 1):
        named[other.name if other.name not in named else f"{other.name} ({number})"] = other.metrics
    return named


def _configuration(run: RunRecord) -> str:
    if not run.config:
        return ""
    text = yaml.safe_dump(without_folders(run.config), sort_keys=False, allow_unicode=True)
    short = cut(text, CONFIGURATION)
    return short.text + (f"\n... (+{short.left_out:,})" if short.left_out else "")


def _cell(text: str) -> str:
    """A text of at most as many characters as a cell has."""
    short = cut(str(text), sections.CELL)
    return f"{short.text} ... (+{short.left_out:,})" if short.left_out else short.text


def _fact(value: Cell, name: str, label: Callable[[str], str]) -> str:
    """The value of a fact, translated where it is a word of ours."""
    return label(value) if isinstance(value, str) else shown(value, name)


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _tag(language: Language) -> str:
    return {"zh": "zh-CN", "en": "en"}[language]

"""Harvest stored sessions: conversations to train on, bad cases, preference pairs, and held-out questions.

sessions -> no personal data -> rules, labels -> good, bad, neither -> no near-duplicates -> sft.jsonl, bad.jsonl,
                                                                                             pairs.jsonl, held_out.jsonl
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from babyllm.config.values import check
from babyllm.documents import is_held_out
from babyllm.endpoint.config import EndpointConfig
from babyllm.endpoint.spending import Spending
from babyllm.files import fsync, write_bytes, write_json
from babyllm.flywheel.anonymous import Anonymous
from babyllm.flywheel.harvest_config import HarvestConfig
from babyllm.flywheel.harvest_report import harvest_report
from babyllm.flywheel.harvested import UNSAFE, Asked, Json, Judged, after_unsafe, bad_case, conversations, judge_answer
from babyllm.flywheel.labels.labelling import Labelling, counted
from babyllm.flywheel.labels.record_labels import Labels, labels_by_rules
from babyllm.pipeline.output import MADE, discard_work, is_done, made_with, publish, require_apart, work_directory
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import write_report
from babyllm.pipeline.report_markdown import as_markdown
from babyllm.store.sessions.session_reader import LoggedAnswer, SessionReader, said_digest
from babyllm.text.dedup.online.online import Online

SFT, BAD, PAIRS, HELD_OUT = "sft.jsonl", "bad.jsonl", "pairs.jsonl", "held_out.jsonl"
SETTINGS, COMMIT = "harvest.json", "report.json"
FILES = (SFT, BAD, PAIRS, HELD_OUT, SETTINGS, "report.md", "report.html", COMMIT)
CACHE = "cache"
_AT_ONCE = 256  # sessions that are labelled together


def harvest(directory: Path, out: Path, config: HarvestConfig) -> Report | None:
    """Write what the sessions of a log are worth training on into `out`.

    Args:
        directory: log of sessions, as `babyllm serve --log` stores it.
        out: directory of the result. After a kill, the same call asks the judge for nothing twice.
        config: settings.

    Returns:
        The report; None if `out` had been made before, of the same sessions with the same settings.

    Raises:
        UserError: there are no sessions, a setting is wrong, or `out` holds something else.
    """
    check(config, "")
    config.check()
    require_apart(out, [directory])
    reader = SessionReader(directory)
    judges = config.judges()
    others = ("endpoint", "endpoints", "classifiers")
    deciding = {name: value for name, value in asdict(config).items() if name not in others}
    about = {"inputs": {str(directory): reader.digest}, "settings": deciding}
    about["judges"] = {
        name: {key: getattr(one, key) for key in ("url", "model", "temperature", "seed", "body")}
        for name, one in judges.items()
    }
    about["classifiers"] = config.classifiers
    wanted: dict[str, Any] = json.loads(json.dumps(about))
    if is_done(out, made_with(out, SETTINGS, COMMIT), wanted):
        return None
    with work_directory(out) as work:
        made = work / MADE
        with _labelling(judges, config, work / CACHE) as (labelling, spendings):
            gathered = _gather(reader, config, labelling, made)
        spent = [(f"{title} {name}".strip(), n) for name, one in spendings.items() for title, n in one.facts()]
        report = harvest_report(directory, reader.n, gathered.tallies, spent)
        write_report(made, report)
        write_bytes(made / "report.md", as_markdown(report).encode("utf-8", "backslashreplace"))
        write_json(made / SETTINGS, wanted)
        publish(out, FILES)
    discard_work(out)
    return report


@contextmanager
def _labelling(
    judges: Mapping[str, EndpointConfig], config: HarvestConfig, cache: Path
) -> Iterator[tuple[Labelling, dict[str, Spending]]]:
    """Labels of answers, and what the judges have cost."""
    if not judges:
        yield Labelling(config, None), {}
        return
    from babyllm.endpoint.client import Client

    with Client(judges, cache, shows_progress=False) as client:
        yield Labelling(config, client.replies), client.spendings


def _labels(answers: Sequence[LoggedAnswer], labelling: Labelling) -> Iterator[Labels]:
    """The labels of answers; an empty one has those of rules, since nobody could train on it."""
    items = [(one.messages, one.text) for one in answers]
    others = iter(labelling.labels([item for item in items if item[1].strip()]))
    for item in items:
        yield next(others) if item[1].strip() else labels_by_rules(*item)


# ---- sessions


@dataclass
class Tallies:
    """What was counted.

    Attributes:
        verdicts: number of answers by verdict and reason.
        labels: number of answers by label and value.
        personal: number of replacements by kind of personal data.
        written: number of records by file.
        repeated: number of records left out as near-duplicates, by file.
        questions: number of answers whose question is not used, by reason.
    """

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)


class _Gathered:
    """Writes the records as they come; only rated and held-out questions stay in memory."""

    def __init__(self, config: HarvestConfig, made: Path, opened: ExitStack) -> None:
        self.tallies, self._config = Tallies(), config
        self._files = {name: opened.enter_context((made / name).open("wb")) for name in (SFT, BAD, PAIRS, HELD_OUT)}
        self._unique = {name: opened.enter_context(Online(threshold=config.near)) for name in ("good", "bad")}
        self._rated: dict[bytes, Asked] = {}
        self._held_out: dict[bytes, Asked] = {}

    def add(self, session: Sequence[Judged], is_held_out: bool) -> None:
        """Add the answers of a session."""
        tallies = self.tallies
        for one in session:
            tallies.verdicts[one.verdict, one.reason] += 1
            tallies.labels.update(counted(one.labels).items())
            of_question = self._held_out if is_held_out else self._rated
            if one.reason != UNSAFE and (one.logged.is_rated or is_held_out):
                key = said_digest(one.logged.messages)
                of_question.setdefault(key, Asked(one.logged.messages, one)).add(one)
        if is_held_out:
            return
        for record in conversations(session):
            self._put(SFT, record, "good", _said(record))
        for one in session:
            if one.verdict == "bad" and one.logged.text.strip():
                record = bad_case(one)
                self._put(BAD, record, "bad", _said(record))

    def finish(self) -> None:
        """Write the pairs and the held-out questions."""
        for asked in self._rated.values():
            for pair in asked.pairs():
                self._put(PAIRS, pair)
        for asked in self._held_out.values():
            record = asked.question()
            self._put(HELD_OUT, record, "good", _said(record))
        for file in self._files.values():
            file.flush()

    def _put(self, name: str, record: Json, kept: str | None = None, text: str = "") -> None:
        if kept and self._unique[kept].add(str(record["id"]), text) is not None:
            self.tallies.repeated[name] += 1
            return
        self._files[name].write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        self.tallies.written[name] += 1


def _gather(reader: SessionReader, config: HarvestConfig, labelling: Labelling, made: Path) -> _Gathered:
    anonymous = Anonymous(config.personal)
    with ExitStack() as opened:
        gathered = _Gathered(config, made, opened)
        sessions = reader.sessions()
        while some := list(islice(sessions, _AT_ONCE)):
            clean = [[anonymous.answer(one) for one in session] for session in some]
            usable = [list(_usable(session, config, gathered.tallies)) for session in clean]
            flat = [one for session in usable for one in session]
            labels = _labels(flat, labelling)
            for session in usable:
                found = after_unsafe([_judged(one, next(labels), config) for one in session])
                if found:
                    gathered.add(found, _is_held_out(found[0].logged, config))
        gathered.finish()
        gathered.tallies.personal = anonymous.n
    for name in (SFT, BAD, PAIRS, HELD_OUT):
        fsync(made / name)
    return gathered


def _usable(session: Sequence[LoggedAnswer], config: HarvestConfig, tallies: Tallies) -> Iterator[LoggedAnswer]:
    for one in session:
        if reason := config.rules.against_question(one.messages):
            tallies.questions[reason] += 1
        else:
            yield one


def _judged(one: LoggedAnswer, labels: Labels, config: HarvestConfig) -> Judged:
    return judge_answer(one, labels, config.rules.against_answer(one.messages, one.answer, one.finish), config)


def _is_held_out(first: LoggedAnswer, config: HarvestConfig) -> bool:
    """Whether a session is held out: its first question decides, so that equal ones are on the same side."""
    asked = next((str(one.get("content")) for one in first.messages if one.get("role") == "user"), "")
    return is_held_out(f"{config.seed}\n{asked.strip()}", config.held_out)


def _said(record: Mapping[str, Any]) -> str:
    return "\n".join(str(one.get("content") or "") for one in record["messages"] if one.get("role") != "system")

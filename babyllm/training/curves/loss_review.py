"""The review of a run's curve as its records come: each finding once, as a line of the run's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from babyllm.runtime.machine import Language
from babyllm.training.curves.curve_facts import Curve, RunFacts, facts_of_run
from babyllm.training.curves.loss_findings import Finding, findings
from babyllm.training.recording.records import read_metrics

_SHARE = 16  # a review comes after each 1 / 16 more records, so all reviews together take time linear in the records


def findings_of_run(run_dir: Path, language: Language = "en") -> list[Finding]:
    """What is unusual about the loss of a run, as its log said: warnings first, then notes.

    Args:
        run_dir: directory of the run.
        language: language of the texts and pages.

    Raises:
        UserError: its metrics.jsonl is missing or damaged.
    """
    return sorted(_reviewed(run_dir, language), key=lambda one: one.severity != "warning")


def _reviewed(run_dir: Path, language: Language) -> list[Finding]:
    return LossReview(facts_of_run(run_dir), read_metrics(run_dir), language).found


class LossReview:
    """Looks at a run's records as they come.

    Args:
        facts: what the run is.
        past: records from before a resume, whose findings were reported then.
        language: language of texts and pages.

    Attributes:
        found: findings so far, in the order in which they came; one of each kind.
    """

    def __init__(self, facts: RunFacts, past: Sequence[Mapping[str, Any]] = (), language: Language = "en") -> None:
        self._facts, self._curve, self._language = facts, Curve(), language
        self.found: list[Finding] = []
        self._due = 1
        for record in past:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> list[str]:
        """Take in the record of a step, or a fuller one of the same step; returns the lines that are new.

        The first record is reviewed, then each sixteenth part more, and every evaluation.
        """
        self._curve.add(record)
        if len(self._curve) < self._due and "val/all/loss" not in record:
            return []
        self._due = len(self._curve) + max(4, len(self._curve) // _SHARE)
        known = {one.kind for one in self.found}
        new = [one for one in findings(self._curve, self._facts, self._language) if one.kind not in known]
        self.found += new
        see = "；见 " if self._language == "zh" else "; see "
        return [f"{one.severity}: {one.text}{see}{one.page}" for one in new]

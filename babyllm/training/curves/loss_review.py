"""The review of a run's curve while it trains: each finding once, as a line of the run's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from babyllm.training.curves.curve_facts import Curve, RunFacts
from babyllm.training.curves.loss_findings import findings

_SHARE = 16  # a review comes after each 1 / 16 more records, so all reviews together take time linear in the records


class LossReview:
    """Looks at a run's records as they come.

    Args:
        facts: what the run is.
        past: records from before a resume, whose findings were reported then.
    """

    def __init__(self, facts: RunFacts, past: Sequence[Mapping[str, Any]] = ()) -> None:
        self._facts, self._curve = facts, Curve(list(past))
        self._reported = {one.kind for one in findings(self._curve, facts)} if past else set[str]()
        self._due = len(self._curve) + 1

    def add(self, record: Mapping[str, Any]) -> list[str]:
        """Take in the record of a step, or a fuller one of the same step; returns the lines that are new.

        The first record is reviewed, then each sixteenth part more, and every evaluation.
        """
        self._curve.add(record)
        if len(self._curve) < self._due and "val/all/loss" not in record:
            return []
        self._due = len(self._curve) + max(4, len(self._curve) // _SHARE)
        new = [one for one in findings(self._curve, self._facts) if one.kind not in self._reported]
        self._reported |= {one.kind for one in new}
        return [f"{one.severity}: {one.text}; see {one.page}" for one in new]

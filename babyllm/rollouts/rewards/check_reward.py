"""A reward that is a check of `babyllm.verification`: arithmetic, JSON by a schema, or a program that passes tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from babyllm.prediction.sample_rules import Turns
from babyllm.verification.verifier import Verifier
from babyllm.verification.verify_config import VerifyConfig


class CheckReward:
    """1 for an answer that passes a check of `babyllm.verification`, else 0; None if the record has nothing for it."""

    def __init__(self, kind: str, config: VerifyConfig) -> None:
        self._kind, self._verifier = kind, Verifier(config)

    def __call__(
        self, prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """The rewards of answers."""
        return [self._score(*pair) for pair in zip(answers, records, strict=True)]

    def _score(self, answer: str, record: Mapping[str, Any]) -> float | None:
        verdict = self._verifier.verify(self._kind, record, answer)
        return None if verdict.is_fault else float(verdict.passed)

    def close(self) -> None:
        """End the processes that check."""
        self._verifier.close()

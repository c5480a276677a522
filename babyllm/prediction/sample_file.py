"""Several answers to each record, scored by a reward and chosen by a rule: pairs, answers to train on, or all of them.

    source  -> Answering  -> OUT.answers.jsonl     what `babyllm predict` writes
            -> Rewarding  -> OUT.rewards.jsonl     the same with a field `rewards`; only with a reward
            -> Choosing   -> OUT.jsonl             pairs (prompt, chosen, rejected), messages, or all answers

Each file is written window by window, so a killed process goes on in the file that it was at. Other rules on the same
answers need no new ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.errors import UserError
from babyllm.prediction.answering import ERROR, Answering, Lines, as_line
from babyllm.prediction.predict_file import Work, predict_file
from babyllm.prediction.sample_rules import (
    REWARDS,
    WINDOW,
    Choosing,
    Turns,
    answers_of,
    asked_record,
    line_of,
    prompt_of,
    turns,
)
from babyllm.runtime import Runtime
from babyllm.text.readers import Rejected

Reward = Callable[[Sequence[Turns], Sequence[str], Sequence[Mapping[str, Any]]], Sequence[float | None]]
"""Prompts, answers and records -> a reward for each answer; None where there is none."""


@dataclass(frozen=True)
class Rewarding:
    """Adds the field `rewards` to lines of answers; null stands for an empty answer, and for no finite number.

    Attributes:
        reward: function of prompts, answers and records.
        name: name of the reward in errors.
        settings: JSON values that the rewards depend on.
        format: settings for reading records as conversations.
        window: number of records whose answers are scored in one call.
    """

    reward: Reward
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: FormatConfig = field(default_factory=FormatConfig)
    window: int = WINDOW

    def lines(self, records: Sequence[Mapping[str, Any] | Rejected], first: int) -> Lines:
        """The lines of a window of records, each with the rewards of its answers.

        Args:
            records: lines of answers.
            first: number of the first of them in the file, from 0.

        Raises:
            UserError: the reward does not give one number for each answer.
        """
        found = [line_of(record) for record in records]
        asked = [
            (number, place, answer.text)
            for number, record in enumerate(found)
            for place, answer in enumerate(answers_of(record))
            if answer.text.strip()
        ]
        prompts = {number: turns(prompt_of(found[number], self.format)) for number, _, _ in asked}
        originals = [asked_record(record) for record in found]
        given = self._given(
            [prompts[number] for number, _, _ in asked],
            [text for _, _, text in asked],
            [originals[number] for number, _, _ in asked],
        )
        rows: list[list[float | None]] = [[None] * len(answers_of(record)) for record in found]
        for (number, place, _), value in zip(asked, given, strict=True):
            rows[number][place] = self._number(value)
        lines = [
            as_line(record if ERROR in record else {**record, REWARDS: row})
            for record, row in zip(found, rows, strict=True)
        ]
        return Lines(b"".join(lines), 0)

    def _given(
        self, prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        if not answers:
            return []
        try:
            given = list(self.reward(prompts, answers, records))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"reward {self.name}: raised {type(error).__name__}: {error}; correct it") from error
        if len(given) != len(answers):
            raise UserError(
                f"reward {self.name}: gave {len(given)} rewards for {len(answers)} answers; give one for each"
            )
        return given

    def _number(self, value: Any) -> float | None:
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise UserError(f"reward {self.name}: gave {value!r} for an answer; give a number or None") from None
        return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Sampled:
    """The files of a command.

    Attributes:
        out: file with what was chosen.
        answers: file with all answers; None puts it beside `out`.
    """

    out: Path
    answers: Path | None = None

    @property
    def answers_file(self) -> Path:
        """The file with all answers."""
        return self.answers or self.out.with_name(f"{self.out.stem}.answers.jsonl")

    @property
    def rewards_file(self) -> Path:
        """The file with all answers and their rewards."""
        return self.out.with_name(f"{self.out.stem}.rewards.jsonl")

    @property
    def replies(self) -> Path:
        """The directory with the replies of a judge."""
        return self.out.with_name(f"{self.out.stem}.judge")

    def last(self, has_rewards: bool) -> Path:
        """The file that the rule reads."""
        return self.rewards_file if has_rewards else self.answers_file


def sample_file(
    answering: Answering,
    rewarding: Rewarding | None,
    choosing: Choosing,
    source: Path,
    files: Sampled,
    runtime: Runtime,
    settings: Mapping[str, Any],
    note: Callable[[str], None] = lambda text: None,
) -> Work:
    """Answer each record of a file several times, reward the answers, and write what the rule makes of them.

    A process that is killed is continued by the next one with the same arguments. Every rank must call it.

    Args:
        answering: how the records are answered.
        rewarding: how answers are rewarded; None leaves them without rewards.
        choosing: how records are made of answers.
        source: file or folder of records.
        files: files to write.
        runtime: ranks, which share the records.
        settings: JSON values that the answers depend on.
        note: function that takes lines about the progress on rank 0.

    Returns:
        What was drawn.

    Raises:
        UserError: a file cannot be read or written or was begun with other settings, or the reward fails.
    """
    work = predict_file(answering, source, files.answers_file, runtime, settings, note)
    if rewarding is not None:
        rewarded_by = {"reward": rewarding.name, **rewarding.settings, "format": asdict(rewarding.format)}
        predict_file(rewarding, files.answers_file, files.rewards_file, runtime, rewarded_by, note)
    chosen_by = {**asdict(choosing.rule), "format": asdict(choosing.format)}
    predict_file(choosing, files.last(rewarding is not None), files.out, runtime, chosen_by, note)
    return work

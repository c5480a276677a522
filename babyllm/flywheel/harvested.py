"""Answers with their labels, sorted: good ones, bad ones, others, each with a reason; and the records they become.

LoggedAnswer, Labels -> Judged -> conversations (SFT), bad cases (`babyllm synth repair`), pairs, held-out questions
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from babyllm.flywheel.answer_rules import REFUSAL
from babyllm.flywheel.harvest_config import HarvestConfig
from babyllm.flywheel.labels.record_labels import Labels
from babyllm.store.sessions.session_reader import LoggedAnswer, said_digest

Verdict = Literal["good", "bad", "none"]
Json = dict[str, Any]
RATED_GOOD, RATED_BAD, CORRECTED = "rated good", "rated bad", "corrected"
JUDGED_GOOD, JUDGED_BAD, UNSAFE, UNRATED = "judged good", "judged bad", "unsafe", "not rated"


@dataclass(frozen=True)
class Judged:
    """An answer, and what is made of it.

    Attributes:
        logged: the answer, without personal data.
        labels: its labels.
        verdict: whether it is a good answer, a bad one, or neither is known.
        reason: why.
    """

    logged: LoggedAnswer
    labels: Labels
    verdict: Verdict
    reason: str

    @property
    def is_corrected(self) -> bool:
        """Whether a person says what the answer should have been."""
        return self.reason == CORRECTED

    @property
    def right_answer(self) -> str | None:
        """The answer that is trained on; None without one."""
        if self.is_corrected:
            return self.logged.correction
        return self.logged.text if self.verdict == "good" else None


def judge_answer(logged: LoggedAnswer, labels: Labels, fault: str | None, config: HarvestConfig) -> Judged:
    """What is made of an answer.

    Args:
        logged: the answer.
        labels: its labels.
        fault: what the rules say against it; None for nothing.
        config: settings of the harvest.
    """
    if labels.safety == "unsafe":
        return Judged(logged, labels, "none", UNSAFE)
    if logged.correction.strip():
        return Judged(logged, labels, "bad", CORRECTED)
    if logged.rating < 0:
        return Judged(logged, labels, "bad", RATED_BAD)
    if fault and fault != REFUSAL:
        return Judged(logged, labels, "none" if logged.rating > 0 else "bad", fault)
    if logged.rating > 0:
        return Judged(logged, labels, "good", RATED_GOOD)
    if fault:
        return Judged(logged, labels, "bad", fault)
    return Judged(logged, labels, *_unrated(labels, config))


def _unrated(labels: Labels, config: HarvestConfig) -> tuple[Verdict, str]:
    if labels.quality is not None and labels.quality <= config.max_bad_quality:
        return "bad", JUDGED_BAD
    if config.unrated == "keep":
        return "good", UNRATED
    if config.unrated == "judged" and labels.quality is not None and labels.quality >= config.min_quality:
        return "good", JUDGED_GOOD
    return "none", UNRATED


def after_unsafe(session: Sequence[Judged]) -> list[Judged]:
    """The answers of a session; those that go on from an unsafe one count as unsafe too."""
    unsafe = {_end(one) for one in session if one.reason == UNSAFE}
    return [
        replace(one, verdict="none", reason=UNSAFE) if unsafe and not unsafe.isdisjoint(_ends_before(one)) else one
        for one in session
    ]


def _ends_before(one: Judged) -> Iterator[bytes]:
    for i, message in enumerate(one.logged.messages, 1):
        if message.get("role") == "assistant":
            yield said_digest(one.logged.messages[:i])


# ---- records


def conversations(session: Sequence[Judged]) -> Iterator[Json]:
    """The conversations of a session that are trained on; each good answer is trained on in one of them.

    Answers that are not good have weight 0. What comes after the last good answer is left out.
    """
    by_end = {_end(one): one for one in session}
    trained: set[str] = set()
    for one in reversed(session):  # the longest conversations come first
        right = one.right_answer
        if right is None or one.logged.id in trained:
            continue
        earlier = {
            i: by_end.get(said_digest([*one.logged.messages[: i + 1]]))
            for i, message in enumerate(one.logged.messages)
            if message.get("role") == "assistant"
        }
        messages = _unweighted(one.logged.messages)
        for i, before in earlier.items():
            if before is not None and before.verdict == "good" and before.logged.id not in trained:
                trained.add(before.logged.id)
            else:
                messages[i]["weight"] = 0
        trained.add(one.logged.id)
        answer = {"role": "assistant", "content": right} if one.is_corrected else dict(one.logged.answer)
        yield {**_head(one), "messages": [*messages, answer], **_about(one)}


def bad_case(one: Judged) -> Json:
    """A bad answer as a conversation with a reason, which readers of conversations skip."""
    messages = [*_unweighted(one.logged.messages), dict(one.logged.answer)]
    correction = {"correction": one.logged.correction} if one.is_corrected else {}
    return {**_head(one), "messages": messages, "label": False, **correction, **_about(one)}


@dataclass
class Asked:
    """The answers to the same messages, in all sessions.

    Attributes:
        messages: the messages.
        good: texts of good answers, with what they come from.
        bad: texts of bad answers, with what they come from.
        first: the first answer.
    """

    messages: Sequence[Mapping[str, Any]]
    first: Judged
    good: dict[str, Judged] = field(default_factory=dict)
    bad: dict[str, Judged] = field(default_factory=dict)
    votes: dict[str, int] = field(default_factory=dict)

    def add(self, one: Judged) -> None:
        """Add an answer; texts that are rated both ways count by the sum of their ratings."""
        text = one.logged.text
        if one.logged.rating:
            self.votes[text] = self.votes.get(text, 0) + one.logged.rating
        if (right := one.right_answer) is not None:
            self.good.setdefault(right, one)
        if one.verdict == "bad":
            self.bad.setdefault(text, one)

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The good and the bad texts; none of them is both."""
        both = self.good.keys() & self.bad.keys()
        good = [text for text in self.good if text not in both or self.votes.get(text, 0) > 0]
        return good, [text for text in self.bad if text not in both or self.votes.get(text, 0) < 0]

    def pairs(self) -> Iterator[Json]:
        """A preference pair for each bad answer that a person rated, with the good answers in turn."""
        good, bad = self.sides
        good = [text for text in good if self.good[text].reason in (RATED_GOOD, CORRECTED)]
        rated = [text for text in bad if self.bad[text].reason in (RATED_BAD, CORRECTED) and text.strip()]
        for i, text in enumerate(rated if good else ()):
            chosen = good[i % len(good)]
            head, about = _head(self.bad[text]), _about(self.bad[text])
            reason = f"{self.good[chosen].reason}, {self.bad[text].reason}"
            sides = {"chosen": chosen, "rejected": text}
            yield {**head, "messages": _unweighted(self.messages), **sides, **about, "reason": reason}

    def question(self) -> Json:
        """The messages as a question with right answers and answers to avoid, for comparisons."""
        good, bad = self.sides
        sides = {name: texts for name, texts in (("references", good), ("avoid", bad)) if texts}
        return {**_head(self.first), "messages": _unweighted(self.messages), **sides, **_about(self.first)}


def _head(one: Judged) -> Json:
    return {"id": one.logged.id, "task": one.labels.task}


def _about(one: Judged) -> Json:
    logged = one.logged
    about: Json = {"reason": one.reason, "rating": logged.rating} if one.verdict != "none" else {"reason": one.reason}
    about |= {"tools": list(logged.tools)} if logged.tools else {}
    about["labels"] = one.labels.to_json()
    about["source"] = {"session": logged.session, "answer": logged.id, "model": logged.model, "time": logged.time}
    return about


def _unweighted(messages: Sequence[Mapping[str, Any]]) -> list[Json]:
    return [dict(message) for message in messages]


def _end(one: Judged) -> bytes:
    return said_digest([*one.logged.messages, one.logged.answer])

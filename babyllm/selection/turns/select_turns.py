"""`babyllm turns`: conversations whose turns follow from each other, apart from those put together of others.

IN... --pairs -> train.jsonl, heldout.jsonl: pairs for train_classifier.py
IN... -> a probability for each turn after the first -> kept, or joined ones of which a share is kept
      -> conversations.jsonl, rejected.jsonl, report.json, report.html
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import find_conversation_partitions
from babyllm.chat_corpus.chat_records import ChatRecord, read_records
from babyllm.documents import is_held_out
from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.pipeline.output import MADE, REJECTED, WORK, discard_work, publish, work_directory
from babyllm.pipeline.report import Report, Table
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.selection.turns.overlap_baseline import best_overlap
from babyllm.selection.turns.rarity import Rarity
from babyllm.selection.turns.turn_config import PairConfig, TurnConfig
from babyllm.selection.turns.turn_pairs import TurnPair, turn_pairs
from babyllm.selection.turns.turn_scorers import Turn, TurnScorer
from babyllm.selection.turns.turn_texts import Exchange, exchanges_of, pair_texts
from babyllm.text.readers import Rejected

TRAIN, HELD_OUT, KEPT, REPLIES = "train.jsonl", "heldout.jsonl", "conversations.jsonl", "replies"
FIELD = "turns_follow"
"""The field of a written record with the probability of each turn after the first."""
_AT_ONCE = 256


def make_pairs(inputs: Sequence[Path], out: Path, config: PairConfig) -> Report:
    """Write pairs of the conversations of files, split by conversation; returns what a simple rule reaches on them.

    Raises:
        UserError: a file cannot be read, or has no conversations of several turns on one of the sides.
    """
    sides = dict(zip((TRAIN, HELD_OUT), read_sides(inputs, config.held_out), strict=True))
    pairs = {
        TRAIN: list(turn_pairs(sides[TRAIN], config.seed, max(1, config.per_turn))),
        HELD_OUT: list(turn_pairs(sides[HELD_OUT], config.seed + 1)),
    }
    for name, found_pairs in pairs.items():
        if not found_pairs:
            raise UserError(f"{name}: there is no turn to make a pair of; give more conversations of several turns")
    rule = best_overlap(pairs[TRAIN], pairs[HELD_OUT])
    rows = [(name, len(sides[name]), len(found_pairs)) for name, found_pairs in pairs.items()]
    report = Report(
        "Pairs of turns",
        [("overlap of characters", str(rule)), ("its accuracy on held-out pairs", round(rule.accuracy, 4))],
        [Table("Pairs", ("file", "conversations", "pairs"), rows)],
    )
    with _written(out, [TRAIN, HELD_OUT, *REPORT_FILES]) as made:
        for name, found_pairs in pairs.items():
            rarity = Rarity(texts_of(sides[name]))
            write_bytes(made / name, b"".join(_pair_line(pair, rarity) for pair in found_pairs))
        write_report(made, report)
    return report


def read_sides(inputs: Sequence[Path], held_out: float) -> tuple[list[list[Exchange]], list[list[Exchange]]]:
    """The exchanges of the conversations of files, to train on and held out, by a hash of the first question.

    Raises:
        UserError: a file cannot be read.
    """
    sides: tuple[list[list[Exchange]], list[list[Exchange]]] = ([], [])
    for record in _records(inputs):
        if isinstance(record, ChatRecord) and (found := exchanges(record.conversation)):
            sides[is_held_out(found[0].question, held_out)].append(found)
    return sides


def select_turns(inputs: Sequence[Path], out: Path, config: TurnConfig, scorer: TurnScorer) -> Report:
    """Score the turns of conversations and write those that are kept; returns the report.

    Raises:
        UserError: a file cannot be read, or nothing is kept.
    """
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    counts = dict.fromkeys(_OUTCOMES, 0)
    with _written(out, [KEPT, REJECTED, *REPORT_FILES], [REPLIES]) as made:
        for record, scores in _scored(inputs, scorer):
            outcome, fields = _outcome(record, scores, config)
            counts[outcome] += 1
            (rejected if fields is None else kept).append(
                {"reason": outcome, **_plain(record, scores)} if fields is None else fields
            )
        if not kept:
            raise UserError(f"{out}: no conversation is left; lower --threshold or raise --share")
        write_bytes(made / KEPT, b"".join(map(_line, kept)))
        write_bytes(made / REJECTED, b"".join(map(_line, rejected)))
        total = max(1, sum(counts.values()))
        rows = [(name, n, n / total) for name, n in counts.items()]
        report = Report("Turns", [("kept", len(kept))], [Table("Conversations", ("outcome", "number", "share"), rows)])
        write_report(made, report)
    return report


_SINGLE, _TRUE, _MIXED, _JOINED = "of one turn", "turns follow", "joined, kept by --share", "joined"
_NONE_TRUE, _NO_SCORE, _NO_CHAT = "no turn follows", "no score", "not a conversation"
_OUTCOMES = (_SINGLE, _TRUE, _MIXED, _JOINED, _NONE_TRUE, _NO_SCORE, _NO_CHAT)


def _outcome(
    record: ChatRecord | Rejected, scores: Sequence[float | None], config: TurnConfig
) -> tuple[str, dict[str, Any] | None]:
    """What becomes of a record, and the fields that are written; None if it is left out."""
    if isinstance(record, Rejected):
        return _NO_CHAT, None
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return _NO_SCORE, None
    if config.last_true:
        last = max((k for k, score in enumerate(known, 1) if score >= config.threshold), default=None)
        return (_NONE_TRUE, None) if last is None else (_TRUE, _cut(record.conversation, last, known))
    if not known:
        return _SINGLE, record.fields
    fields = _plain(record, scores)
    if sum(known) / len(known) >= config.threshold:
        return _TRUE, fields
    text = "\n".join(message.content for message in record.conversation.messages)
    return (_MIXED, fields) if is_held_out(text, config.share) else (_JOINED, None)


def _cut(conversation: Conversation, last: int, scores: Sequence[float]) -> dict[str, Any]:
    """The conversation up to the exchange with this number, of which the last answer alone is trained on."""
    said = exchanges(conversation)[: last + 1]
    messages: list[dict[str, Any]] = [
        {"role": message.role, "content": message.content}
        for message in conversation.messages[:1]
        if message.role == "system"
    ]
    for k, one in enumerate(said):
        messages.append({"role": "user", "content": one.question})
        messages.append({"role": "assistant", "content": one.answer} | ({} if k == last else {"weight": 0}))
    return {"messages": messages, FIELD: [round(score, 4) for score in scores]}


def rarity_in(inputs: Sequence[Path]) -> Rarity:
    """How rare runs of words are among the messages of files.

    Raises:
        UserError: a file cannot be read.
    """
    return Rarity(
        texts_of(exchanges(record.conversation) for record in _records(inputs) if isinstance(record, ChatRecord))
    )


def texts_of(conversations: Iterable[Sequence[Exchange]]) -> Iterator[str]:
    """The messages of conversations."""
    return (text for said in conversations for one in said for text in one)


def exchanges(conversation: Conversation) -> list[Exchange]:
    """The exchanges of a conversation."""
    return exchanges_of([(message.role, message.content) for message in conversation.messages])


def _scored(inputs: Sequence[Path], scorer: TurnScorer) -> Iterator[tuple[ChatRecord | Rejected, list[float | None]]]:
    """The records with the scores of their turns after the first, which are computed many at a time."""
    held: list[tuple[ChatRecord | Rejected, list[Turn]]] = []
    for record in _records(inputs):
        said = exchanges(record.conversation) if isinstance(record, ChatRecord) else []
        held.append((record, [(said[:k], said[k].question) for k in range(1, len(said))]))
        if sum(len(turns) for _, turns in held) >= _AT_ONCE:
            yield from _scores_of(held, scorer)
            held = []
    yield from _scores_of(held, scorer)


def _scores_of(
    held: Sequence[tuple[ChatRecord | Rejected, list[Turn]]], scorer: TurnScorer
) -> Iterator[tuple[ChatRecord | Rejected, list[float | None]]]:
    found = iter(scorer([turn for _, turns in held for turn in turns]))
    for record, turns in held:
        yield record, [next(found) for _ in turns]


def _records(inputs: Sequence[Path]) -> Iterator[ChatRecord | Rejected]:
    for partition in find_conversation_partitions(inputs, sys.maxsize):
        yield from read_records(partition, FormatConfig())


def _plain(record: ChatRecord | Rejected, scores: Sequence[float | None]) -> dict[str, Any]:
    """The fields of a record, with the probabilities of its turns."""
    fields = dict(record.fields) if isinstance(record, ChatRecord) else {"problem": str(record.reason)}
    return fields | {FIELD: [None if score is None else round(score, 4) for score in scores]}


def _pair_line(pair: TurnPair, rarity: Rarity) -> bytes:
    first, second = pair_texts(pair.before, pair.turn, rarity)
    return _line({"text1": first, "text2": second, "label": pair.label})


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


@contextmanager
def _written(out: Path, names: Sequence[str], beside: Sequence[str] = ()) -> Iterator[Path]:
    """A folder whose files replace those of an earlier call in OUT, if the body succeeds."""
    with work_directory(out, [*names, *beside]):
        yield out / WORK / MADE
        publish(out, names, [name for name in reversed(names) if (out / name).exists()])
    discard_work(out)

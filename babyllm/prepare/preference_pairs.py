"""Files of preferences rendered into a store of pairs or of answers, with the outcome of every record.

partition -> read, choose the split by the prompt, limit, render -> blocks of pairs --+
          -> single answers with a verdict -> all partitions -> pairs with one prompt -+-> `rendered.rendered_store`

Pairs whose sides are identical, and those with a side above `seq_len`, are dropped and counted. No prompt is in both
splits: its hash decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from math import nan
from pathlib import Path
from typing import Any, Literal, NamedTuple

from babyllm.chat.formats import FormatConfig
from babyllm.chat.limits import MessageLimits, limited
from babyllm.chat.load import ChatTemplate, Rendered, Supervise
from babyllm.chat.messages import Conversation, Message, Unusable
from babyllm.chat.preferences import Preference, PreferencePair, RatedAnswer, read_preference_partition
from babyllm.chat.registry.data_set import DataSet
from babyllm.pipeline.output import REJECTED
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.prepare.conversations_report import Key, Result, Tally, require_training
from babyllm.prepare.held_out import contents_of, identity_of, is_apart
from babyllm.prepare.rendered.chat_blocks import Block, Labels, kinds_of, write_blocks
from babyllm.prepare.rendered.pair_report import pairs_report
from babyllm.prepare.rendered.render_settings import Record, RenderSettings, records_of
from babyllm.prepare.rendered.rendered_store import Job, Outcome, render_store
from babyllm.prepare.rendered.unused import left
from babyllm.store.pair_store import ANSWER, ANSWERS, PAIR, PAIRS, Kind
from babyllm.text.readers import Partition, Rejected
from babyllm.text.readers.records import rejected

READING = 1  # version of how records become preferences; a store of another version is rebuilt
RATED = "rated.jsonl"  # the single answers of a partition, which other partitions may hold partners of
ALONE = "a rating without a partner: no answer to the same prompt has the other rating"
IDENTICAL = "chosen and rejected are the same"
_LAST = Supervise("last")


@dataclass(frozen=True, kw_only=True)
class _Settings(RenderSettings):
    """The settings that, with the files, decide the result; sent to worker processes."""

    kind: Kind


def prepare_pairs(
    paths: Sequence[Path | DataSet],
    directory: Path,
    template: ChatTemplate,
    format: FormatConfig,
    *,
    seq_len: int,
    kind: Kind = "pairs",
    limits: MessageLimits = MessageLimits(),  # noqa: B008  # frozen
    held_out: float = 0.02,
    held_out_paths: Sequence[Path | DataSet] = (),
    repetitions: Literal["drop", "keep"] = "keep",
    work: WorkConfig | None = None,
) -> Report | None:
    """Render preferences into a store, on all cores, and return the report; None if the same store exists already.

    Single answers with a verdict, such as the ratings of `babyllm serve`, become pairs where answers to one prompt have
    both verdicts: each is in at least one pair. In a store of answers, a pair is a good answer and a bad one.

    If a call is interrupted, the same call continues with the partitions that are left. A store of other settings or
    files is replaced.

    Args:
        paths: files, folders and data sets of preferences.
        directory: directory of the store; created if absent.
        template: chat template that renders them; it and its tokenizer are saved in the directory.
        format: rules by which records become preferences; `PreferenceFormat` also names the answers.
        seq_len: largest number of inputs of a side.
        kind: "pairs", or "answers" for losses of single answers.
        limits: largest lengths of messages.
        held_out: share of the records in the "val" split or, as an integer, their number; a hash of the prompt decides.
        held_out_paths: files, folders and data sets whose preferences are all in the "val" split.
        repetitions: whether preferences that repeat another one exactly are dropped, whatever their numbers say. Of
            equal ones the first stays; one of `held_out_paths` stays before any of the others.
        work: number of processes, and bytes of a partition.

    Raises:
        UserError: a setting is not valid, an input cannot be read, nothing is left to train on, or the directory
            cannot be written.
    """
    settings = _Settings(
        format=format, seq_len=seq_len, limits=limits, held_out=held_out, repetitions=repetitions, kind=kind
    )
    return render_store(paths, held_out_paths, directory, template, settings, work or WorkConfig(), _JOBS[kind])


def _contents(preference: Preference) -> str:
    return contents_of(preference.prompt)


def _identity(preference: Preference) -> str:
    if isinstance(preference, PreferencePair):
        return identity_of(preference.prompt, preference.chosen, preference.rejected)
    return f"{preference.is_desirable} {identity_of(preference.messages)}"


# ---- one partition


class _Rated(NamedTuple):
    """A single answer that waits for a partner, its data set, and whether its file is held out."""

    answer: RatedAnswer
    is_held: bool
    data_index: int = 0

    def to_json(self) -> str:
        """The line of a file that `of` reads."""
        return json.dumps([asdict(self.answer), self.is_held, self.data_index], ensure_ascii=False) + "\n"

    @classmethod
    def of(cls, line: str) -> _Rated:
        """The answer whose `to_json` returned this line."""
        values, *where = json.loads(line)
        messages = tuple(Message(**message) for message in values.pop("messages"))
        return cls(RatedAnswer(messages, **values), *where)


def _prepare_piece(partition: Partition, folder: Path, settings: _Settings) -> dict[str, Any]:
    """Render the preferences of a partition into one file, one split and task after the other."""
    result = Result()
    with (folder / RATED).open("w", encoding="utf-8") as rated:

        def found() -> Iterator[Record]:
            for record in records_of(partition, settings, read_preference_partition, _identity):
                result.of_data(record.data_index).records += 1
                if record.is_read and isinstance(record.item, RatedAnswer) and settings.kind == "pairs":
                    rated.write(_Rated(record.item, record.is_held, record.data_index).to_json())
                else:
                    yield record

        return _write_piece(folder, found(), settings, result).to_json()


def _write_piece(folder: Path, found: Iterator[Record], settings: _Settings, result: Result) -> Result:
    """Render preferences into a folder, and count them in `result`, which is returned."""
    template = settings.loaded()
    kinds = kinds_of(template.tokenizer.vocab_size, settings.seq_len)
    blocks: dict[Key, Block] = {}
    with (folder / REJECTED).open("w", encoding="utf-8") as unused:

        def refuse(item: Rejected | None) -> None:
            if item:
                unused.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")

        for record in found:
            item, of_data = record.item, result.of_data(record.data_index)
            if isinstance(item, Rejected):
                result.rejected[item.reason] += 1
                of_data.unused += 1
                refuse(item)
                continue
            key = _key_of(record, settings)
            tally = result.tallies.setdefault(key, Tally())
            if not record.is_read:
                tally.conversations += 1
                refuse(left(record, tally, of_data, item.prompt[-1].content))
                continue
            is_used = False
            for one in _samples(item, settings.data[record.data_index], settings.kind):
                tally.conversations += 1
                try:
                    sides = _rendered(one, settings, template, result)
                except Unusable as error:
                    tally.count("skipped", 0)
                    result.skipped[str(error)] += 1
                    refuse(rejected(one.id, str(error), one.prompt[-1].content))
                    continue
                tally.count("whole", 0)
                is_used = True
                block = blocks.setdefault(key, Block())
                for side in sides:
                    block.add(side, kinds)
                block.labels.append(_labels(one))
            of_data.use(*key, is_used)
    result.groups = write_blocks(folder, blocks, _JOBS[settings.kind].labels)
    return result


def _key_of(record: Record, settings: _Settings) -> Key:
    """The split and the task of a preference."""
    contents = _contents(record.item)
    is_val = record.is_held or is_apart(contents, settings.held_out, settings.first_kept)
    return "val" if is_val else "train", settings.data[record.data_index].task or record.item.task


def _samples(item: Preference, data_set: DataSet, kind: Kind) -> Sequence[Preference]:
    """A preference as it is trained on: with a system message of its data set, and as two answers where these count."""
    contents = _contents(item)
    if isinstance(item, RatedAnswer):
        return [replace(item, messages=data_set.with_system(item.messages, contents))]
    pair = replace(item, prompt=data_set.with_system(item.prompt, contents))
    return pair.rated() if kind == "answers" else [pair]


def _labels(item: Preference) -> tuple[float, ...]:
    if isinstance(item, RatedAnswer):
        return (float(item.is_desirable),)
    return tuple(nan if number is None else number for number in (item.margin, item.difficulty))


def _rendered(item: Preference, settings: _Settings, template: ChatTemplate, result: Result) -> list[Rendered]:
    """The sides of a pair, or the one of an answer, as ids; `result` counts the messages that were cut.

    Raises:
        Unusable: it is too long, its sides are the same, or the template refuses it.
    """
    if isinstance(item, PreferencePair) and item.is_identical:
        raise Unusable(IDENTICAL)
    answers = [item.chosen, item.rejected] if isinstance(item, PreferencePair) else [item.messages[-1:]]
    (prompt, *sides), cuts = _limited([item.prompt, *answers], settings.limits, template)
    found = [template.render([*prompt, *side], _LAST) for side in sides]
    if max(len(side.ids) - 1 for side in found) > settings.seq_len:
        raise Unusable(f"longer than seq_len {settings.seq_len}")
    if not all(side.turns[1:].any() for side in found):
        raise Unusable("nothing in it is trained on")
    if len(found) == 2 and found[0].ids.tolist() == found[1].ids.tolist():
        raise Unusable(f"{IDENTICAL} after the cut" if cuts else IDENTICAL)
    result.cut.update(cuts)
    return found


def _limited(
    parts: Sequence[Sequence[Message]], limits: MessageLimits, template: ChatTemplate
) -> tuple[list[tuple[Message, ...]], list[str]]:
    done = [limited(Conversation(tuple(part)), limits, template.tokenizer) for part in parts]
    return [part.conversation.messages for part in done], list(chain.from_iterable(part.cuts for part in done))


# ---- single answers of all partitions


def _pair_ratings(folders: Sequence[Path], folder: Path, settings: _Settings) -> Result:
    """Render the pairs that single answers make, in the order of their prompts, and count those without a partner."""
    by_prompt: dict[str, dict[bool, list[_Rated]]] = {}
    for piece in folders:
        with (piece / RATED).open(encoding="utf-8") as lines:
            for rated in map(_Rated.of, lines):
                answers = by_prompt.setdefault(contents_of(rated.answer.prompt), {True: [], False: []})
                answers[rated.answer.is_desirable].append(rated)

    def found() -> Iterator[Record]:
        for answers in by_prompt.values():
            yield from _paired(answers)

    return _write_piece(folder, found(), settings, Result())


def _paired(answers: Mapping[bool, Sequence[_Rated]]) -> Iterator[Record]:
    """The pairs of the answers to one prompt by verdict: each answer is in one, those of the fewer in several."""
    good, bad = answers[True], answers[False]
    if not good or not bad:
        for rated in (*good, *bad):
            answer = rated.answer
            yield Record(rejected(answer.id, ALONE, answer.messages[-1].content), rated.data_index, rated.is_held)
        return
    for i in range(max(len(good), len(bad))):
        one, other = good[i % len(good)], bad[i % len(bad)]
        chosen, worse = one.answer, other.answer
        sides = (chosen.messages[-1:], worse.messages[-1:])
        pair = PreferencePair(chosen.prompt, *sides, task=chosen.task, id=chosen.id)
        yield Record(pair, one.data_index, any(rated.is_held for rated in (*good, *bad)))


# ---- all partitions together


def _require(outcome: Outcome) -> None:
    advice = "a larger data.seq_len, data.max_prompt, data.max_answer or another data.template"
    require_training(outcome.directory, outcome.tallies, outcome.result, "preference", advice)


def _report_of_pairs(outcome: Outcome) -> Report:
    return pairs_report(outcome, 2)


def _report_of_answers(outcome: Outcome) -> Report:
    return pairs_report(outcome, 1)


_JOBS: dict[Kind, Job[_Settings]] = {
    "pairs": Job(
        *("pairs", {"reading of preferences": READING}, _prepare_piece, read_preference_partition, _contents),
        *(_identity, _require, _report_of_pairs),
        labels=Labels(PAIRS, PAIR, 2),
        more=_pair_ratings,
    ),
    "answers": Job(
        *("answers", {"reading of preferences": READING}, _prepare_piece, read_preference_partition, _contents),
        *(_identity, _require, _report_of_answers),
        labels=Labels(ANSWERS, ANSWER),
    ),
}

"""Prompts of files: rendered for the model, with the record that rewards look at.

files -> records -> messages before the last answer -> ids -> short enough? -> training or held-out prompts
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from babyllm.chat.formats import to_question
from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import Message, Unusable
from babyllm.chat.registry.data_set import DataSet
from babyllm.data.prompt_config import PromptConfig
from babyllm.documents import held_out_flags
from babyllm.errors import UserError
from babyllm.prediction.questions import REFERENCE, find_records, read_records, references
from babyllm.prediction.sample_rules import Turns, turns
from babyllm.prepare.held_out import contents_of
from babyllm.store.data_sets import DataRecord
from babyllm.text.readers import Rejected

TOO_LONG = "longer than data.max_prompt"


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        ids: ids that the model reads, up to where its answer begins.
        messages: messages that the ids render.
        record: record of the file. Its last answer is the field `reference`, if the record names no right answer.
    """

    ids: list[int]
    messages: list[Message]
    record: dict[str, Any]

    @property
    def turns(self) -> Turns:
        """The messages as dictionaries with `role` and `content`."""
        return turns(self.messages)

    @property
    def text(self) -> str:
        """The content of the messages, for people to read and to tell prompts apart."""
        return "\n".join(message.content for message in self.messages)


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run.

    Attributes:
        train: prompts that are trained on.
        held_out: prompts that are evaluated on.
        left_out: number of records that cannot be prompts, by reason.
    """

    train: list[Prompt]
    held_out: list[Prompt]
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """One line for people: how many there are, and what was left out."""
        reasons = "".join(f"; {n:,} left out: {reason}" for reason, n in self.left_out.most_common(3) if n)
        return f"{len(self.train):,} prompts, {len(self.held_out):,} held out{reasons}"

    def described(self, data: Sequence[DataSet]) -> DataRecord:
        """The record of the data sets and paths that these prompts were read from, as one."""
        n_left_out = self.left_out.total()
        return DataRecord(
            ", ".join(one.name for one in data if one.name),
            [path.as_posix() for one in data for path in one.paths],
            records=len(self.train) + len(self.held_out) + n_left_out,
            train={"prompts": len(self.train)},
            val={"prompts": len(self.held_out)},
            unused=n_left_out,
            licence=", ".join(dict.fromkeys(one.licence for one in data if one.licence)),
            source=", ".join(dict.fromkeys(one.source for one in data if one.source)),
        )


def read_prompts(config: PromptConfig, template: ChatTemplate) -> Prompts:
    """The prompts that a configuration names; the same on every rank.

    Raises:
        UserError: a file is missing, or no prompt is left to train on.
    """
    if not config.paths:
        raise UserError("data.path: names no prompts; give --data.path=prompts.jsonl")
    if config.is_mixed:
        raise UserError("data.mix, data.interleave, data.concat and data.stages are not for prompts; leave them out")
    limit, left_out = config.prompt_limit, Counter[str]()
    read, apart = config.data_sets()
    _require_whole([*read, *apart])
    found = [prompt for one in read for prompt in _read(one, config, template, limit, left_out)]
    train, held_out = _split(found, config.held_out)
    for one in apart:
        held_out += _read(one, config, template, limit, left_out)
    if config.held_out_path:
        texts = {prompt.text for prompt in held_out}
        left_out["held out too"] += sum(prompt.text in texts for prompt in train)
        train = [prompt for prompt in train if prompt.text not in texts]
    if not train:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.most_common(3)) or "there are no records"
        raise UserError(
            f"data.path={config.path}: no prompt is left to train on ({reasons}); give other files or limits"
        )
    return Prompts(train, held_out, left_out)


def _require_whole(data: Sequence[DataSet]) -> None:
    """Refuse what a registry says of conversations only."""
    for one in data:
        if one.is_sampled or one.weight != 1:
            raise UserError(
                f"data set {one.name}: its limit, share and weight are not for prompts; leave them out there"
            )


def _read(
    data_set: DataSet, config: PromptConfig, template: ChatTemplate, limit: int, left_out: Counter[str]
) -> list[Prompt]:
    found, format = [], data_set.reading(config.format)
    for record in (one for path in data_set.paths for one in read_records(find_records(path))):
        if isinstance(record, Rejected):
            left_out[record.reason] += 1
            continue
        try:
            asked, answer = to_question(record, format)
            messages = list(data_set.with_system(asked, contents_of(asked)))
            ids = template.prompt(messages)
        except (Unusable, UserError) as error:
            left_out[str(error)] += 1
            continue
        if len(ids) > limit:
            left_out[TOO_LONG] += 1
            continue
        if answer is not None and not references(record):
            record = {**record, REFERENCE: answer}
        found.append(Prompt(list(ids), messages, record))
    return found


def _split(prompts: Sequence[Prompt], held_out: float) -> tuple[list[Prompt], list[Prompt]]:
    """Training and held-out prompts, each in the order of the files."""
    flags = held_out_flags([prompt.text for prompt in prompts], held_out)
    train = [prompt for prompt, flag in zip(prompts, flags, strict=True) if not flag]
    return train, [prompt for prompt, flag in zip(prompts, flags, strict=True) if flag]

"""The data of a classifier: texts with labels, read into memory, and the loader over them.

files -> records -> text, label -> split by a hash of the text -> ids -> Labelled -> in length buckets -> Loader
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from babyllm.chat.reading import find_conversation_partitions, read_partition
from babyllm.config.json_fields import kind_of
from babyllm.config.values import check
from babyllm.data.labelling.label_config import LabelConfig
from babyllm.data.labelling.labelled import Labelled
from babyllm.data.loader import Loader
from babyllm.data.order.length_buckets import ByLength
from babyllm.data.order.shuffle import Shuffled
from babyllm.data.row_config import share_of
from babyllm.documents import held_out_flags
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.text.readers import Rejected
from babyllm.text.readers.records import BadRecord
from babyllm.tokenizer import Tokenizer

TEXTS, SECONDS = ("text", "text1", "sentence1"), ("text2", "sentence2")


@dataclass(frozen=True)
class LabelData:
    """Texts with labels, as ids.

    Attributes:
        labels: names of the labels, in the order of the classifier's outputs.
        train: rows to train on.
        val: held-out rows.
        rejected: number of records that were left out, by reason.
        n_cut: number of texts that were longer than a row.
        fingerprint: hash of everything that decides the data.
    """

    labels: tuple[str, ...]
    train: Labelled
    val: Labelled
    rejected: Counter[str]
    n_cut: int
    fingerprint: str


class _Text(NamedTuple):
    texts: tuple[str, ...]
    label: str


def ids_of_texts(texts: Sequence[str], tokenizer: Tokenizer, seq_len: int) -> list[int]:
    """The ids of a text, or of a pair of them, as a classifier reads them.

    The id that begins texts comes first. Every text ends with <eos>; a row that is too long is cut before the last one.
    """
    ids = [tokenizer.begin_id]
    for text in texts:
        ids += [*tokenizer.encode(text), tokenizer.eos_id]
    return _cut(ids, seq_len)


def _cut(ids: list[int], seq_len: int) -> list[int]:
    """At most `seq_len` ids, of which the last one stays."""
    return ids if len(ids) <= seq_len else [*ids[: seq_len - 1], ids[-1]]


def read_label_data(config: LabelConfig, tokenizer: Tokenizer) -> LabelData:
    """The texts that the configuration names.

    Raises:
        UserError: no file is named or can be read, there are fewer than two labels to train on, nothing is held out,
            or a held-out label is not among those.
    """
    check(config, "data.")
    if not config.paths:
        raise UserError("--data.path: name the files of texts with labels, such as --data.path=reviews.csv")
    rejected: Counter[str] = Counter()
    found = list(_read(config.paths, config, rejected))
    apart = list(_read(config.held_out_path, config, rejected)) if config.held_out_path else []
    held = held_out_flags(["\0".join(item.texts) for item in found], config.held_out)
    train, val = (
        [item for item, is_held in zip(found, held, strict=True) if is_held == side] for side in (False, True)
    )
    val += apart
    labels = tuple(sorted({item.label for item in train}, key=_by_number))
    _require(config, train, val, labels, rejected)
    rows, n_cut = [], 0
    for items in (train, val):
        ids = [ids_of_texts(item.texts, tokenizer, sys.maxsize) for item in items]
        n_cut += sum(len(row) > config.seq_len for row in ids)
        cut = [_cut(row, config.seq_len) for row in ids]
        numbers = [labels.index(item.label) for item in items]
        rows.append(Labelled(cut, numbers, config.seq_len, tokenizer.eos_id))
    made_of = [labels, train, val, config.seq_len, tokenizer.sha256]
    fingerprint = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    return LabelData(labels, rows[0], rows[1], rejected, n_cut, fingerprint)


def make_label_loader(
    config: LabelConfig, data: LabelData, model: ModelConfig, runtime: Runtime, plan: Plan
) -> tuple[Loader, Plan]:
    """The loader of this rank, and the plan with its number of steps.

    Raises:
        UserError: a setting is out of range, or `global_batch` or `micro_batch` does not divide evenly.
    """
    if config.is_mixed:
        raise UserError("data.mix, interleave, concat and stages: a classifier reads all its data; leave them out")
    share = share_of(config, model, runtime)
    plan = plan.with_steps(len(data.train), config.global_batch)
    order = ByLength(Shuffled(data.train, config.seed), config.global_batch, config.seed)
    return Loader(order, share, config.seed, data.fingerprint, pin_memory=runtime.device.type == "cuda"), plan


def _by_number(label: str) -> tuple[bool, int, str]:
    """Whole numbers in their order, then names in theirs."""
    is_number = label.isascii() and label.isdigit() and len(label) < 10
    return (not is_number, int(label) if is_number else 0, label)


def _require(
    config: LabelConfig, train: Sequence[_Text], val: Sequence[_Text], labels: Sequence[str], rejected: Counter[str]
) -> None:
    """Refuse data from which nothing can be learned, or on which nothing can be measured."""
    where = ", ".join(config.paths)
    if not train:
        reason = f": {rejected.most_common(1)[0][0]}" if rejected else ""
        raise UserError(f"{where}: no texts with labels to train on{reason}; see --data.text and --data.label")
    if len(labels) < 2:
        raise UserError(f"{where}: all texts to train on have the label {labels[0]!r}; a classifier needs two or more")
    if not val:
        raise UserError(f"{where}: no text is held out; give --data.held_out or --data.held_out_path")
    if unknown := sorted({item.label for item in val} - set(labels)):
        raise UserError(
            f"{where}: the label {unknown[0]!r} is held out only; hold out fewer texts, or add some with it"
        )


def _read(paths: Sequence[str], config: LabelConfig, rejected: Counter[str]) -> Iterator[_Text]:
    """The texts of files, in order; what is left out is counted."""
    for partition in find_conversation_partitions([Path(path) for path in paths], sys.maxsize):
        for item in read_partition(partition, lambda source: _Maker(config)):
            if isinstance(item, Rejected):
                rejected[str(item.reason)] += 1
            else:
                yield item


class _Maker:
    """Makes texts with labels of records."""

    def __init__(self, config: LabelConfig) -> None:
        self._config = config

    def document(self, record: Any, place: str) -> _Text:
        """The text and the label in a record.

        Raises:
            BadRecord: a field is missing or of another type.
        """
        if not isinstance(record, dict):
            raise BadRecord(f"not an object with fields but {kind_of(record)}")
        config = self._config
        first = [config.text] if config.text else [name for name in TEXTS if name in record][:1]
        if not first:
            raise BadRecord(f"no field {', '.join(TEXTS)}; name it with --data.text")
        second = [config.second] if config.second else [name for name in SECONDS if name in record][:1]
        texts = tuple(_text(record, name) for name in (*first, *second))
        if not any(text.strip() for text in texts):
            raise BadRecord("an empty text")
        return _Text(texts, _label(record, config.label))

    def columns(self, names: Sequence[str]) -> list[str]:
        """All columns of a table."""
        return list(names)


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise BadRecord(f"no text in field {name!r}")
    return value


def _label(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRecord(f"no label in field {name!r}: a word or a whole number")
    return str(value)

"""Rows of conversations: weights that add up to the units, packing, tasks."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversations_fixtures import SEQ_LEN, prepare

from babyllm.chat.load import ChatTemplate
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.conversations import Conversations, PackedConversations
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.conversations import ConversationStore

# ---- rows


def rows_of(store: ConversationStore, kind: Any, normalisation: Any = "token", **options: Any) -> RowArrays:
    data = kind(store, "train", None, SEQ_LEN, normalisation, **options)
    rows: RowArrays = data.rows(np.arange(len(data)))
    assert (data.lengths(np.arange(len(data))) == rows.lengths).all()
    return rows


@pytest.mark.parametrize("kind", [Conversations, PackedConversations])
@pytest.mark.parametrize("normalisation", ["token", "turn", "conversation"])
def test_weights_add_up_to_units(store: ConversationStore, kind: Any, normalisation: str) -> None:
    """Row by row, the weights of the targets add up to how many of the unit there are, and nothing else has weight."""
    rows = rows_of(store, kind, normalisation)
    is_target = rows["targets"] != IGNORE
    units = is_target.sum(axis=1) if normalisation == "token" else rows.units[normalisation]
    assert rows["weights"].dtype == np.float32
    assert rows["weights"].sum(axis=1, dtype=float) == pytest.approx(units, rel=1e-6)
    assert ((rows["weights"] > 0) == is_target).all()
    train = store.groups("train")
    assert rows.units["turn"].sum() == sum(group.turns for group in train)
    assert rows.units["conversation"].sum() == sum(group.conversations for group in train)


def test_each_turn_weighs_as_a_sample_of_its_own(tmp_path: Path, files: Path, template: ChatTemplate) -> None:
    """Normalised by turn, whole conversations weigh their targets as answers that are samples of their own do."""
    found = []
    for is_split in (False, True):
        prepare(files, tmp_path, template, is_split=is_split, seq_len=600, too_long="skip")
        store = ConversationStore.open(tmp_path)
        rows = Conversations(store, "train", None, 600, "turn")
        arrays = rows.rows(np.arange(len(rows)))
        is_target = arrays["targets"] != IGNORE
        found.append(Counter(zip(arrays["targets"][is_target], arrays["weights"][is_target], strict=True)))
        assert store.groups("train")[0].turns == sum(arrays.units["turn"][: store.groups("train")[0].conversations])
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [Conversations, PackedConversations])
def test_rows_hold_whole_conversations(store: ConversationStore, kind: Any) -> None:
    """A document of a row is a conversation: inputs without its last id, targets without its first, down to the end."""
    rows = rows_of(store, kind)
    found: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for tokens, targets, positions, documents, channels, length in zip(
        *(rows[name] for name in ("tokens", "targets", "positions", "documents", "channels")),
        rows.lengths,
        strict=True,
    ):
        assert (documents[:length] >= 0).all() and (np.diff(documents[:length]) >= 0).all()
        assert (documents[length:] == -1).all() and (targets[length:] == IGNORE).all()
        for document in range(documents.max() + 1):
            here = documents == document
            assert positions[here].tolist() == list(range(here.sum()))
            (channel,) = set(channels[here].tolist())
            found[tuple(tokens[here].tolist()), tuple(targets[here].tolist()), (channel,)] += 1
    expected: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for number in store.span("train"):
        ids, turns = store.conversation(number)
        targets = np.where(turns[1:] > 0, ids[1:], IGNORE)
        channel = int(store.channels(np.array([number]))[0])
        expected[tuple(ids[:-1].tolist()), tuple(targets.tolist()), (channel,)] += 1
    assert found == expected


@pytest.mark.parametrize("normalisation", ["token", "turn", "conversation"])
def test_packing_moves_and_changes_nothing(store: ConversationStore, normalisation: str) -> None:
    """Packed rows hold the same inputs with the same targets, weights and channels, in fewer rows."""
    found, n_rows = [], []
    for kind in (Conversations, PackedConversations):
        rows = rows_of(store, kind, normalisation)
        here = rows["documents"] >= 0
        names = ("tokens", "targets", "weights", "channels", "positions")
        found.append(Counter(zip(*(rows[name][here].tolist() for name in names), strict=True)))
        n_rows.append(len(here))
    assert found[0] == found[1]
    assert n_rows[1] < 0.8 * n_rows[0]


def test_the_last_token_is_a_target(store: ConversationStore) -> None:
    """The last target of a row is the end token of the last answer, where a row ends with an answer."""
    rows = rows_of(store, Conversations, "turn")
    last = rows["targets"][np.arange(len(rows.lengths)), rows.lengths - 2]
    newline = rows["tokens"][np.arange(len(rows.lengths)), rows.lengths - 1]
    supervised = last[last != IGNORE]
    assert len(supervised) > 0.7 * len(last) and len(set(supervised.tolist())) == 1
    assert (newline[last != IGNORE] == supervised[0]).all()  # ChatML puts a line break after it


def test_one_over_long_conversation_blocks_nothing(tmp_path: Path, files: Path, template: ChatTemplate) -> None:
    """It is left out when the data is prepared; the packed rows hold all others, and none is empty."""
    prepare(files, tmp_path, template, too_long="skip")
    store = ConversationStore.open(tmp_path)
    rows = rows_of(store, PackedConversations, "turn")
    assert (rows.units["conversation"] > 0).all() and (rows.units["turn"] > 0).all()
    assert rows.units["conversation"].sum() == len(store.span("train"))


@pytest.mark.parametrize("kind", [Conversations, PackedConversations])
def test_rows_that_cannot_be_are_refused(store: ConversationStore, kind: Any) -> None:
    """Rows too short for a conversation, and a task that is not there, are errors of one line."""
    longest = int(store.lengths("train").max())
    with pytest.raises(UserError, match=rf"data\.seq_len={longest - 1}: .* conversations of up to {longest} tokens"):
        kind(store, "train", None, longest - 1)
    with pytest.raises(UserError, match=r"no conversation of task 'question' .*: did you mean 'questions'"):
        kind(store, "train", "question", SEQ_LEN)
    assert len(kind(store, "train", None, longest)) > 0


def test_one_task(store: ConversationStore) -> None:
    """The rows of a task are its conversations alone."""
    for channel, task in enumerate(store.tasks):
        rows = Conversations(store, "val", task, SEQ_LEN)
        arrays = rows.rows(np.arange(len(rows)))
        (group,) = store.groups("val", task)
        assert len(rows) == group.conversations
        assert set(arrays["channels"][arrays["documents"] == 0].tolist()) == {channel}


@pytest.mark.slow
def test_real_conversations(tmp_path: Path, template: ChatTemplate) -> None:
    """Every record of four real sets is used or accounted for, and packed rows are more than 95 % full."""
    if not os.environ.get("BABYLLM_DATA"):
        pytest.skip("BABYLLM_DATA names no folder of real data")
    folder = Path(os.environ["BABYLLM_DATA"]) / "sft"
    n_records = 0
    for file in folder.iterdir():
        raw = file.read_text(encoding="utf-8")
        n_records += len(raw.splitlines()) if file.suffix == ".jsonl" else len(json.loads(raw))
    report = prepare(folder, tmp_path, template, seq_len=2048, too_long="truncate", held_out=0.1, work=WorkConfig())
    assert report is not None
    facts: dict[str, Any] = dict(report.facts)
    lines = (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    store = ConversationStore.open(tmp_path)
    assert facts["records"] == n_records == len(store.index) + len(lines)
    assert store.tasks == ["alpaca_en_demo", "alpaca_zh_demo", "identity", "sharegpt_zh_1k"]
    packed = PackedConversations(store, "train", None, 2048)
    assert packed.lengths(np.arange(len(packed))).sum() > 0.95 * 2048 * len(packed)


@pytest.mark.parametrize("damaged", [b"", bytes(200), b"\0{"], ids=["cut", "zeroed", "flipped"])
def test_a_store_with_a_damaged_mark_is_made_again(
    tmp_path: Path, files: Path, template: ChatTemplate, damaged: bytes
) -> None:
    """Beside its other files it is still a store: reading it says what to do, and preparing makes it again."""
    assert prepare(files, tmp_path, template) is not None
    whole = (tmp_path / "conversations.json").read_bytes()
    (tmp_path / "conversations.json").write_bytes(damaged)
    with pytest.raises(UserError, match=r"no finished store .*; move .* away"):
        ConversationStore.open(tmp_path)
    assert prepare(files, tmp_path, template) is not None
    assert (tmp_path / "conversations.json").read_bytes() == whole

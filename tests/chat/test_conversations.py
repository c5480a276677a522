"""Conversations on disk and the rows made of them: nothing lost, nothing twice, weights that add up to the units."""

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, Supervise, fit, load_template, split_turns
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import read_conversations
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.conversations import Conversations, PackedConversations
from babyllm.documents import is_held_out
from babyllm.errors import UserError
from babyllm.integrity import MEMORY
from babyllm.model.cross_entropy import IGNORE
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.store.conversations import IDS, INDEX, MANIFEST, TURNS, ConversationStore
from babyllm.store.shards import Split
from babyllm.tokenizer import Tokenizer

SEQ_LEN, HELD_OUT = 96, 0.2
ONE = WorkConfig(workers=1)
SPLITS: tuple[Split, ...] = ("train", "val")
FILES = (IDS, TURNS, INDEX)


def text(rng: random.Random) -> str:
    return "".join(rng.choices("今天气很好我们去公园看书 the model 123<|im_end|>\n", k=rng.randint(1, 25))) + "。"


def chats(n: int, seed: int) -> list[dict[str, Any]]:
    """Records of one to four turns, some of them too long for `SEQ_LEN`."""
    rng = random.Random(seed)
    records = []
    for i in range(n):
        messages = [{"role": "system", "content": text(rng)}] if rng.random() < 0.3 else []
        for _ in range(rng.randint(1, 4)):
            messages.append({"role": "user", "content": text(rng)})
            messages.append({"role": "assistant", "content": text(rng)})
        if rng.random() < 0.2:
            messages[-1]["weight"] = 0 if len(messages) > 3 else 1  # type: ignore[assignment]
        records.append({"messages": messages, "task": rng.choice(["闲聊", "questions"]), "number": i})
    return records


def write_jsonl(file: Path, records: Sequence[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chats, a line that is not JSON, a record without an answer, one far too long, and instructions."""
    folder = tmp_path_factory.mktemp("files")
    records = [*chats(60, 1), '{"messages": ', {"messages": [{"role": "user", "content": "在吗"}]}, *chats(20, 2)]
    endless = [{"role": "user", "content": "书"}, {"role": "assistant", "content": "好" * 5 * SEQ_LEN}]
    write_jsonl(folder / "chats.jsonl", [*records, {"messages": endless, "task": "闲聊"}, *chats(20, 3)])
    rng = random.Random(4)
    alpaca = [{"instruction": text(rng), "input": "", "output": text(rng)} for _ in range(30)]
    (folder / "alpaca.json").write_text(json.dumps(alpaca, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


def prepare(files: Path, directory: Path, template: ChatTemplate, **options: Any) -> dict[str, Any] | None:
    settings: dict[str, Any] = {"seq_len": SEQ_LEN, "supervise": Supervise(), "held_out": HELD_OUT, "work": ONE}
    return prepare_conversations([files], directory, template, FormatConfig(), **settings | options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, files: Path, template: ChatTemplate) -> ConversationStore:
    directory = tmp_path_factory.mktemp("store")
    assert prepare(files, directory, template) is not None
    return ConversationStore.open(directory)


def contents(directory: Path) -> dict[str, Any]:
    """Everything that must not depend on how the work was divided."""
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["manifest"]
    names = (*FILES, "rejected.jsonl", "report.json")
    found: dict[str, Any] = {name: (directory / name).read_bytes() for name in names}
    found["report.json"] = found["report.json"].replace(str(directory).encode(), b"")
    return found | {"manifest": manifest}


def split_of(conversation: Conversation) -> Split:
    key = "".join(f"{message.role}\0{message.content}\0" for message in conversation.messages)
    return "val" if is_held_out(key, HELD_OUT) else "train"


def usable(files: Path) -> list[Conversation]:
    found = [
        item for name in ("alpaca.json", "chats.jsonl") for item in read_conversations(files / name, FormatConfig())
    ]
    return [item for item in found if isinstance(item, Conversation)]


# ---- the store


@pytest.mark.parametrize("too_long", ["drop_oldest", "truncate", "skip"])
@pytest.mark.parametrize("is_split", [False, True])
def test_the_store_equals_rendering(
    tmp_path: Path, files: Path, template: ChatTemplate, too_long: Any, is_split: bool
) -> None:
    """Each conversation is stored as `fit` renders it, by split and task, in the order of the files."""
    prepare(files, tmp_path, template, too_long=too_long, is_split=is_split)
    store = ConversationStore.open(tmp_path)
    assert store.tasks == ["alpaca", "questions", "闲聊"]
    n = 0
    for split in SPLITS:
        for channel, task in enumerate(store.tasks):
            mine = [c for c in usable(files) if (split_of(c), c.task) == (split, task)]
            samples = [sample for c in mine for sample in (split_turns(c) if is_split else [c])]
            fitted = [fit(template, sample, Supervise(), SEQ_LEN, too_long).rendered for sample in samples]
            expected = [rendered for rendered in fitted if rendered is not None]
            span = store.span(split, task)
            assert len(span) == len(expected) > 0
            assert (store.channels(np.array(span)) == channel).all()
            for number, rendered in zip(span, expected, strict=True):
                ids, turns = store.conversation(number)
                assert (ids == rendered.ids).all() and (turns == rendered.turns).all()
            assert store.lengths(split, task).tolist() == [len(rendered.ids) - 1 for rendered in expected]
            n += len(expected)
    assert n == len(store.index)


@pytest.mark.parametrize("work", [WorkConfig(1, 4000), WorkConfig(2, 9000)])
def test_workers_and_pieces_change_nothing(
    tmp_path: Path, files: Path, template: ChatTemplate, store: ConversationStore, work: WorkConfig
) -> None:
    """Another number of processes, or pieces of another size, give the same files bit for bit."""
    prepare(files, tmp_path, template, work=work)
    assert contents(tmp_path) == contents(store.directory)
    names = [sorted(p.name for p in place.iterdir() if p.name != MEMORY) for place in (tmp_path, store.directory)]
    assert names[0] == names[1]


def test_what_is_not_used_is_told(files: Path, store: ConversationStore) -> None:
    """Each record that is not used is in rejected.jsonl with file, line and reason."""
    lines = (store.directory / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    found = {record["line"]: record for record in map(json.loads, lines)}
    assert all(record["place"].startswith(f"{files.name}/chats.jsonl:") for record in found.values())
    assert found[61]["reason"].startswith("not JSON")
    assert found[62]["reason"] == "no message of the assistant"
    assert found[83]["reason"] == f"longer than seq_len {SEQ_LEN}" and found[83]["excerpt"] == "书"


@pytest.mark.parametrize("too_long", ["drop_oldest", "truncate", "skip"])
@pytest.mark.parametrize("is_split", [False, True])
def test_the_report_accounts_for_every_record(
    tmp_path: Path, files: Path, template: ChatTemplate, too_long: Any, is_split: bool
) -> None:
    """Records are conversations or rejected, each sample has one outcome, and supervised turns are kept or lost."""
    report = prepare(files, tmp_path, template, too_long=too_long, is_split=is_split)
    assert report is not None
    facts: dict[str, Any] = dict(report.facts)
    used, became = (
        {tuple(row[:2]): dict(zip(table.columns, row, strict=True)) for row in table.rows} for table in report.tables
    )
    rejected = sum(count for name, count in facts.items() if name.startswith("rejected: "))
    skipped = sum(count for name, count in facts.items() if name.startswith("skipped: "))
    conversations = usable(files)
    assert rejected == 2 and facts["records"] == len(conversations) + 2
    assert facts["conversations"] == sum(row["conversations"] for row in became.values()) == len(conversations)
    assert skipped == sum(row["skipped"] for row in became.values())
    for (split, task), row in became.items():
        mine = [c for c in conversations if (split_of(c), c.task) == (split, task)]
        samples = [sample for c in mine for sample in (split_turns(c) or [c] if is_split else [c])]
        assert row["whole"] + row["dropped"] + row["truncated"] + row["skipped"] == len(samples)
        assert row["whole"] + row["dropped"] + row["truncated"] == used[split, task]["samples"]
        asked = sum(m.role == "assistant" and m.weight != 0 for sample in samples for m in sample.messages)
        assert used[split, task]["turns"] + row["turns lost"] == asked
    store = ConversationStore.open(tmp_path)
    for (split, task), row in used.items():
        numbers = np.array(store.span(split, task))
        targets = [store.conversation(number)[1][1:] for number in numbers]
        assert row["supervised"] == sum(np.count_nonzero(turns) for turns in targets)
        assert row["tokens"] == sum(len(turns) + 1 for turns in targets)
    assert sum(row["share"] for row in used.values()) == pytest.approx(1)


def test_finished_pieces_are_kept(
    tmp_path: Path, files: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before an interruption is not done again, and a store counts as made only when it is complete."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    work = WorkConfig(1, 9000)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be written"):
        patch.setattr("babyllm.prepare.conversations.write_report", full)
        prepare(files, tmp_path, template, work=work)
    with pytest.raises(UserError, match="no finished store"):
        ConversationStore.open(tmp_path)
    done = sorted((tmp_path / ".work").glob("*/done.json"))
    assert len(done) > 3
    result = json.loads(done[0].read_text(encoding="utf-8"))
    (group, *_) = result["result"]["groups"]
    piece, at = done[0].with_name("conversations.bin"), group["conversations"] * 20
    content = bytearray(piece.read_bytes())
    content[at : at + 2 * group["tokens"]] = np.full(group["tokens"], 7, "<u2").tobytes()
    piece.write_bytes(content)
    assert prepare(files, tmp_path, template, work=work) is not None
    store = ConversationStore.open(tmp_path)
    begin = store.span(group["split"], group["task"]).start
    assert (store.conversation(begin)[0] == 7).all()
    assert not (tmp_path / ".work").exists()


def test_called_again(tmp_path: Path, files: Path, template: ChatTemplate, store: ConversationStore) -> None:
    """The same settings and files leave a store as it is; others replace it, also where its files are still mapped."""
    folder = tmp_path / "files"
    folder.mkdir()
    write_jsonl(folder / "chats.jsonl", chats(40, 1))
    out = tmp_path / "out"
    assert prepare(folder, out, template) is not None
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(folder, out, template, work=WorkConfig(2, 5000)) is None
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    old = ConversationStore.open(out)
    first = old.ids[:50].tolist()
    for change in ({"seq_len": 200}, {"held_out": 0.5}, {"supervise": Supervise("last")}, {"too_long": "skip"}):
        assert prepare(folder, out, template, **change) is not None
        assert ConversationStore.open(out).fingerprint != old.fingerprint
    assert old.ids[:50].tolist() == first
    assert prepare(folder, out, load_template("plain", template.tokenizer)) is not None
    write_jsonl(folder / "chats.jsonl", chats(41, 1))
    assert prepare(folder, out, template) is not None
    assert ConversationStore.open(out).fingerprint != old.fingerprint


def test_held_out_files(tmp_path: Path, files: Path, template: ChatTemplate) -> None:
    """All conversations of a file that is held out go to the other split, also if it lies in a folder that is read."""
    write_jsonl(tmp_path / "test.jsonl", [r | {"task": "test"} for r in chats(20, 9)])
    prepare(files, tmp_path / "store", template, held_out=0.0, held_out_paths=[tmp_path / "test.jsonl"])
    store = ConversationStore.open(tmp_path / "store")
    assert store.tasks_of("val") == ["test"] and store.tasks_of("train") == ["alpaca", "questions", "闲聊"]
    with pytest.raises(UserError, match="given twice"):
        prepare(files, tmp_path / "store", template, held_out_paths=[files / "alpaca.json"])


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        (chats(5, 1), {"held_out": 1.0}, r"data\.held_out: all 5 conversations are held out"),
        (chats(5, 1), {"seq_len": 4}, r"none of its \d conversations can be used; most often: longer than seq_len 4"),
        (
            chats(5, 1),
            {"supervise": Supervise(weights={"assistant": 0}), "held_out": 0.0},
            "nothing in it is trained on",
        ),
        (["{", "["], {}, r"none of its 2 records is a conversation; most often: not JSON"),
        (chats(5, 1), {"held_out": -1.0}, r"held_out=-1: must be a share"),
    ],
)
def test_nothing_to_train_on(
    tmp_path: Path, template: ChatTemplate, records: list[Any], options: dict[str, Any], message: str
) -> None:
    """Where no conversation is left, one line says why and what to do, and no store is left that looks finished."""
    for record in records:
        if isinstance(record, dict):
            record["messages"][-1].pop("weight", None)
    folder = tmp_path / "files"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", records)
    with pytest.raises(UserError, match=message) as error:
        prepare(folder, tmp_path / "out", template, **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_damaged_store_is_refused(tmp_path: Path, files: Path, template: ChatTemplate) -> None:
    """A file of another size or other bytes than it was written with is named, and how to make it again."""
    prepare(files, tmp_path, template)
    ConversationStore.open(tmp_path, verify=True)
    content = (tmp_path / TURNS).read_bytes()
    (tmp_path / TURNS).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(UserError, match=r"turns\.bin: is damaged, .*makes the same one again"):
        ConversationStore.open(tmp_path)
    ConversationStore.open(tmp_path, check=False)
    (tmp_path / TURNS).write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"turns\.bin: is not as long as conversations\.json says"):
        ConversationStore.open(tmp_path, check=False)


def test_ids_beyond_16_bits(tmp_path: Path, files: Path, tokenizer: Tokenizer) -> None:
    """Ids above 65,535 come back as they are: a large vocabulary is stored in 32 bits."""
    small = Tokenizer.train(["今天 the model"], 280, model_type="byte_bpe")
    small.save(tmp_path / "small")
    raw = json.loads((tmp_path / "small" / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, shift = raw["model"]["vocab"], 70_000
    special = {token["content"] for token in raw["added_tokens"]}
    raw["model"]["vocab"] = {name: i + shift * (name not in special) for name, i in vocabulary.items()}
    raw["model"]["vocab"] |= {f"unused {i}": i for i in range(max(vocabulary.values()) + 1, shift)}
    large = Tokenizer(json.dumps(raw).encode(), "json", {"eos": "</s>" if "</s>" in special else None})
    assert large.vocab_size > 65_536
    template = load_template("chatml", large)
    prepare(files, tmp_path / "store", template, seq_len=400)
    store = ConversationStore.open(tmp_path / "store")
    assert store.ids.dtype == np.dtype("<u4") and int(store.ids.max()) > 65_536
    first = next(c for c in usable(files) if (split_of(c), c.task) == ("train", "alpaca"))
    assert store.conversation(0)[0].tolist() == template.render(first.messages).ids.tolist()


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

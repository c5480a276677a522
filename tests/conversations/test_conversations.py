"""Conversations on disk: nothing lost, nothing twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conversations_fixtures import HELD_OUT, SEQ_LEN, chats, prepare, write_jsonl

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, Supervise, fit, load_template, split_turns
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import read_conversations
from babyllm.documents import is_held_out
from babyllm.errors import UserError
from babyllm.integrity import MEMORY
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.conversations import IDS, INDEX, MANIFEST, TURNS, ConversationStore
from babyllm.store.shards import Split
from babyllm.tokenizer import Tokenizer

SPLITS: tuple[Split, ...] = ("train", "val")


FILES = (IDS, TURNS, INDEX)


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
        patch.setattr("babyllm.prepare.rendered.rendered_store.write_report", full)
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
    with pytest.raises(UserError, match=r"turns\.bin: is damaged, .*makes the same store again"):
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

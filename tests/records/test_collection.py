"""Records of files: what is chosen, what is changed and never lost, and the file that results."""

import json
from pathlib import Path
from typing import Any

import pytest

from babyllm.errors import UserError
from babyllm.records.collection import BadChange, Collection, Filters, opened, write_result

RECORDS: list[dict[str, Any]] = [
    {"task": "write", "score": 2, "messages": [{"role": "user", "content": "请写一条好评。"}]},
    {"task": "write", "reward": 7.5, "text": "Speak about Foo"},
    {"score": True, "text": "3 + 4", "n": 12345678901234567890, "odd": "\ud800\u0000\u202e<b>"},
    {
        "recipe": "sql",
        "score": 10**400,
        "instruction": "List all shops that are open on Sundays",
        "output": ["a", {"b": None}],
    },
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with records, an empty line, and a line that is not JSON."""
    path = tmp_path / "records.jsonl"
    lines = [json.dumps(record) for record in RECORDS]
    path.write_text("\n".join([*lines[:2], "", "not <json>", *lines[2:]]) + "\n")
    return path


def version(collection: Collection, id: int) -> str:
    found: str = collection.shown(id)["version"]
    return found


def test_filters_choose_by_what_records_say(file: Path) -> None:
    """Task, score, language, status and text choose records, alone and together, and lines of another kind."""
    with opened([file]) as collection:
        assert len(collection) == 5
        for filters, expected in (
            (Filters(), [0, 1, 2, 3, 4]),
            (Filters(task="write"), [0, 1]),
            (Filters(task="sql"), [4]),
            (Filters(task=""), [2, 3]),
            (Filters(language="zh"), [0]),
            (Filters(language="en", low=7), [1]),
            (Filters(high=7.4), [0]),
            (Filters(text="foo"), [1]),
            (Filters(text="好评"), [0]),
            (Filters(text="<JSON>"), [2]),
            (Filters(text="user"), [0]),
            (Filters(text="content"), []),
        ):
            assert collection.chosen(filters) == expected, filters
        summary = collection.summary()
        assert summary["scores"] == [2, 7.5] and dict(summary["tasks"]) == {"write": 2, "": 2, "sql": 1}
        assert [collection.row(id)["title"] for id in (1, 2)] == ["Speak about Foo", "not <json>"]


def test_edits_are_lines_that_survive(file: Path, tmp_path: Path) -> None:
    """Marks and edits are there when files are opened again, each is a line, and the files are unchanged."""
    before = file.read_bytes()
    with opened([file]) as collection:
        collection.change(0, version(collection, 0), {"status": "keep"})
        collection.change(1, version(collection, 1), {"status": "reject"})
        leaf = {"path": ["messages", 0, "content"], "text": "请写一条\r\n差评。"}
        shown = collection.change(0, version(collection, 0), {"leaves": [leaf]})
        assert (
            shown["leaves"][-1]["text"] == "请写一条\r\n差评。" and shown["n_edits"] == 2 and shown["status"] == "keep"
        )
        collection.change(2, version(collection, 2), {"text": '{"task": "new", "text": "now a record"}'})
        assert collection.chosen(Filters(task="new")) == [2] == collection.chosen(Filters(status="edited", text="now"))
        assert collection.chosen(Filters(status="open")) == [2, 3, 4]
        assert collection.progress() == {"keep": 1, "reject": 1, "edited": 2}
    edits = file.with_name(file.name + ".edits.jsonl")
    assert len(edits.read_text().splitlines()) == 4 and file.read_bytes() == before
    with edits.open("a") as torn:  # a crash in the middle of a line
        torn.write('{"line": 4, "dig')
    with opened([file]) as collection:
        assert collection.progress() == {"keep": 1, "reject": 1, "edited": 2}
        collection.change(3, version(collection, 3), {"status": "keep"})
        collection.change(1, version(collection, 1), {"status": ""})
    with opened([file]) as collection:
        assert collection.progress() == {"keep": 2, "reject": 0, "edited": 2}
        collection.change(1, version(collection, 1), {"status": "reject"})
        assert write_result(collection, tmp_path / "all.jsonl", only_kept=False) == 4
        assert write_result(collection, tmp_path / "kept.jsonl", only_kept=True) == 2
        with pytest.raises(UserError, match=r"all\.jsonl: exists"):
            write_result(collection, tmp_path / "all.jsonl", only_kept=False)
    lines = (tmp_path / "all.jsonl").read_bytes().splitlines()
    assert lines[2:] == before.splitlines()[4:] and json.loads(lines[1]) == {"task": "new", "text": "now a record"}
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_bytes().splitlines()]
    assert kept[1] == RECORDS[2] and kept[0]["messages"][0]["content"] == "请写一条\r\n差评。"


def test_numbers_and_odd_characters_come_through_an_edit(file: Path) -> None:
    """Large numbers, halves of characters and control characters of other fields are the same after an edit."""
    with opened([file]) as collection:
        collection.change(3, version(collection, 3), {"leaves": [{"path": ["text"], "text": "\udfff!"}]})
    with opened([file]) as collection:
        leaves = {tuple(leaf["path"]): leaf["text"] for leaf in collection.shown(3)["leaves"]}
        assert leaves["text",] == "\udfff!" and leaves["odd",] == RECORDS[2]["odd"]
        assert leaves["n",] == "12345678901234567890"


def test_changes_that_cannot_be_made_are_refused(file: Path) -> None:
    """A change of an older version, of a number or of no field, and text of another kind, are refused."""
    with opened([file]) as collection:
        for change in (
            {},
            {"status": "best"},
            {"text": "[1]"},
            {"text": "{"},
            {"leaves": []},
            {"leaves": [{"path": ["score"], "text": "9"}]},
            {"leaves": [{"path": ["none"], "text": "9"}]},
            {"leaves": [{"path": [], "text": "9"}]},
            {"leaves": [{"path": ["task"], "text": 9}]},
            {"leaves": "task"},
        ):
            with pytest.raises(BadChange):
                collection.change(0, version(collection, 0), change)
        with pytest.raises(BadChange, match="changed meanwhile"):
            collection.change(0, "older", {"status": "keep"})
        for id in (-1, 5, 10**30):
            with pytest.raises(BadChange, match="no such record"):
                collection.shown(id)
    assert not file.with_name(file.name + ".edits.jsonl").exists()


def test_files_that_cannot_be_edited_are_named(file: Path, tmp_path: Path) -> None:
    """A file that is open elsewhere, given twice, changed, missing or of another kind is an error with its name."""
    with opened([file]) as collection:
        with pytest.raises(UserError, match="another babyllm records has it open"), opened([file]):
            pass
        collection.change(0, version(collection, 0), {"status": "keep"})
    with pytest.raises(UserError, match="given twice"), opened([file, tmp_path / "." / file.name]):
        pass
    file.write_text('{"task": "another"}\n', encoding="utf-8")
    with (
        pytest.raises(UserError, match=r"edits\.jsonl, line 1: is not an edit of records\.jsonl as it is now"),
        opened([file]),
    ):
        pass
    with pytest.raises(UserError, match="cannot be read"), opened([tmp_path / "none.jsonl"]):
        pass
    (tmp_path / "text.txt").write_text("words\n" * 200)
    with pytest.raises(UserError, match="not JSON lines"), opened([tmp_path / "text.txt"]):
        pass


def test_long_and_wide_records_are_shown_in_part(tmp_path: Path) -> None:
    """A text of a million characters and a thousand fields come in part, and whole when they are asked for."""
    path = tmp_path / "long.jsonl"
    path.write_text(
        json.dumps({"text": "长" * 10**6} | {f"f{i}": i for i in range(1000)}) + "\n" + '{"a": ' * 500 + "1" + "}" * 500
    )
    with opened([path]) as collection:
        shown, whole = collection.shown(0), collection.shown(0, whole=True)
        assert len(json.dumps(shown)) < 300_000 and shown["leaves"][0]["length"] == 10**6 and shown["more"] == 601
        assert len(whole["leaves"]) == 1001 and len(whole["leaves"][0]["text"]) == 10**6 and whole["more"] == 0
        assert len(collection.shown(1)["leaves"][0]["path"]) == 500

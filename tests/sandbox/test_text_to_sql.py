"""The sample set for text-to-SQL: the same files for the same seed, answerable questions, and nothing on both sides."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import read_conversations
from babyllm.errors import UserError
from babyllm.recipes.text_to_sql.making import make, prompt
from babyllm.sandbox import Sandbox, score_predictions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set with one question of each template about each database."""
    folder = tmp_path_factory.mktemp("made") / "set"
    make(folder, seed=3, per_template=1)
    return folder


@pytest.fixture(scope="module")
def sides(made: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of both files."""
    texts = {name: (made / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("train", "test")}
    return {name: [json.loads(line) for line in text.splitlines()] for name, text in texts.items()}


def test_one_seed_makes_one_set(made: Path, tmp_path: Path) -> None:
    """The script makes the same bytes of JSON in another process with another hash seed; another seed makes others."""
    command = [sys.executable, str(ROOT / "data" / "text_to_sql.py"), str(tmp_path / "again"), "--per_template=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "5"}
    for seed, is_same in ((3, True), (4, False)):
        done = subprocess.run([*command, f"--seed={seed}"], env=environment, capture_output=True, text=True, check=True)
        assert "train.jsonl" in done.stdout and done.stderr == ""
        for name in ("train.jsonl", "test.jsonl"):
            assert ((tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()) == is_same
        (tmp_path / "again").rename(tmp_path / f"seed {seed}")
    with pytest.raises(UserError, match="already exists"):
        make(made)


def test_databases_and_templates_are_held_out(sides: dict[str, list[dict[str, Any]]]) -> None:
    """The training set has eight of ten databases and none of the held-out templates; each test record says why."""
    assert 200 < len(sides["train"]) < 400 and len(sides["test"]) > 80
    databases = {side: {record["database"] for record in records} for side, records in sides.items()}
    assert len(databases["train"]) == 8 and len(databases["test"]) == 10
    templates = {record["template"] for record in sides["train"]}
    for record in sides["test"]:
        reason = record["held_out"]
        assert (record["database"] in databases["train"]) == (reason in ("template", "question"))
        assert (record["template"] in templates) == (reason in ("database", "question"))
    asked = {side: {(record["database"], record["sql"]) for record in records} for side, records in sides.items()}
    assert not asked["train"] & asked["test"]
    assert len(asked["train"]) == len(sides["train"]) and len(asked["test"]) == len(sides["test"])
    for records in sides.values():
        assert {record["language"] for record in records} == {"en", "zh"}


def test_every_query_has_rows(made: Path, sides: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Each query returns rows and no template's braces are left; the queries as predictions are all right."""
    records = sides["train"] + sides["test"]
    with Sandbox() as sandbox:
        for record in records:
            assert sandbox.query(made / "databases" / f"{record['database']}.sqlite", record["sql"]).rows
            assert not set("{}") & set(record["sql"] + record["input"]) and record["output"] == record["sql"]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps({**record, "prediction": record["output"]}) + "\n" for record in records))
    scores = score_predictions(path, made / "databases")
    assert (scores.accuracy, scores.exact, len(scores.items)) == (1, 1, len(records)) and not scores.left_out


def test_records_are_read_for_fine_tuning(made: Path, sides: dict[str, list[dict[str, Any]]]) -> None:
    """Every record is a conversation whose question has tables, keys and question, and whose answer is the query."""
    items = list(read_conversations(made / "train.jsonl", FormatConfig()))
    for item, record in zip(items, sides["train"], strict=True):
        assert isinstance(item, Conversation) and item.task == "text_to_sql"
        asked, answered = item.messages
        assert record["instruction"] in asked.content and asked.input == record["input"]
        assert answered.content == record["sql"]


def test_the_prompt_names_tables_and_keys(made: Path, tmp_path: Path) -> None:
    """A prompt has a line for each table with its columns, primary key and foreign keys; another file is refused."""
    text = prompt(made / "databases" / "cinema.sqlite")
    assert "about the database cinema." in text.splitlines()[0]
    expected = (
        "film(id, title, director_id, genre, minutes, rating), primary key id, foreign key director_id = director.id"
    )
    assert expected in text.splitlines() and len(text.splitlines()) == 5
    (tmp_path / "no.sqlite").write_text("text")
    with pytest.raises(UserError, match="cannot be read as an SQLite file"):
        prompt(tmp_path / "no.sqlite")

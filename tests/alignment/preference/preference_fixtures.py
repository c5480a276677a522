"""What tests of preferences share."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.preferences import PreferenceFormat
from babyllm.data.pair_data import PairData
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.prepare.preference_pairs import prepare_pairs
from babyllm.store.pair_store import PairStore
from babyllm.tokenizer import Tokenizer

SEQ_LEN = 96
ONE = WorkConfig(workers=1)


def said(rng: random.Random, most: int = 12) -> str:
    return "".join(rng.choices("今天气很好我们去公园看书 the model 123\n", k=rng.randint(1, most))) + "。"


def pairs(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records of different pairs, some after an earlier exchange; no two have the same margin or difficulty."""
    rng = random.Random(seed)
    records = []
    for i in range(n):
        messages = [{"role": "user", "content": f"{i} {said(rng)}"}]
        if rng.random() < 0.3:
            messages = [{"role": "user", "content": said(rng, 4)}, {"role": "assistant", "content": "好。"}, *messages]
        sides = {"chosen": f"a{said(rng)}", "rejected": f"b{said(rng)}"}
        task = {"task": rng.choice(["写作", "questions"])}
        records.append({"prompt": messages, **sides, **task, "margin": i / n, "difficulty": 1 - (i * 7 % n) / n})
    return records


def write(file: Path, records: list[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def prepare(file: Path, directory: Path, template: ChatTemplate, **options: Any) -> Report | None:
    settings: dict[str, Any] = {"seq_len": SEQ_LEN, "held_out": 0.2, "work": ONE}
    return prepare_pairs([file], directory, template, PreferenceFormat(), **settings | options)


def facts(report: Report | None) -> dict[str, Any]:
    assert report is not None
    return dict(report.facts)


def store_of(directory: Path, records: list[Any], tokenizer: Tokenizer, **options: Any) -> PairStore:
    """A store of records in a new directory."""
    directory.mkdir(exist_ok=True)
    file = write(directory / "records.jsonl", records)
    assert prepare(file, directory / "store", load_template("chatml", tokenizer), **options)
    return PairStore.open(directory / "store", options.get("kind", "pairs"))


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> PairData:
    """Ninety pairs of two tasks, some of them held out."""
    return PairData(store_of(tmp_path_factory.mktemp("pairs"), pairs(90), tokenizer), SEQ_LEN)

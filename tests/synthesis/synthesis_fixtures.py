"""Inputs of recipes, and running them."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint
from scripted_model import saying

from babyllm.__main__ import run
from babyllm.endpoint.config import EndpointConfig

SOURCES = {"prompts": "chats.jsonl", "documents": "documents.jsonl", "topics": "documents.jsonl"}


def write_inputs(folder: Path) -> Path:
    """A folder with conversations and documents in each language."""
    for language in ("en", "zh"):
        (folder / language).mkdir()
        chats = [
            {"id": f"c{i}", "prompt": saying(f"ask {i}", language), "answer": saying(f"bad {i}", language)}
            for i in range(12)
        ]
        documents = [{"text": "\n".join(saying(f"{i} {j}", language, 30) for j in range(4))} for i in range(8)]
        for name, records in (("chats", chats), ("documents", documents)):
            lines = [json.dumps(record, ensure_ascii=False) for record in records]
            (folder / language / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def flags_of(server: FakeEndpoint | None, inputs: Path, source: str, language: str) -> list[str]:
    """The flags of a recipe that starts from the inputs of its kind."""
    url = server.url if server else "http://127.0.0.1:9/v1"
    flags = [f"--endpoint.url={url}", "--endpoint.model=m", f"--language={language}", "--endpoint.backoff_s=0.001"]
    flags += ["--endpoint.price_in=10", "--endpoint.price_out=20", "--endpoint.retries=2", "--endpoint.max_tokens=500"]
    flags += ["--endpoint.seed=0"]
    return flags + ([f"--inputs={inputs / language / SOURCES[source]}"] if source in SOURCES else [])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def rows_of(report: dict[str, Any], title: str) -> list[dict[str, Any]]:
    """The rows of a table of a report, by the names of its columns."""
    table = next(table for table in report["tables"] if table["title"] == title)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def made_by(out: Path, *arguments: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """The records, the rejected ones and the report of `babyllm synth`."""
    recipe, *flags = arguments
    run(["synth", recipe, str(out), *flags])
    report = json.loads((out / "report.json").read_text())
    return lines_of(out / "records.jsonl"), lines_of(out / "rejected.jsonl"), report


def check_accounts(
    records: list[dict[str, Any]], rejected: list[dict[str, Any]], report: dict[str, Any], model: str = "m"
) -> None:
    """Each request was answered or failed, each item came out or was rejected, and the costs add up."""
    steps, facts = rows_of(report, "Steps"), dict(report["facts"])
    assert all(step["requests"] == step["answered"] + step["failed"] for step in steps)
    assert facts["records"] == len(records) == steps[-1]["out"] and facts["rejected"] == len(rejected)
    assert sum(step["rejected"] for step in steps) == len(rejected)
    assert sum(line["cost"] for line in [*records, *rejected]) == pytest.approx(facts["cost"])
    assert all(line["reason"] and line["parents"] for line in rejected)
    ids = [record["id"] for record in records]
    assert len(set(ids)) == len(ids)
    assert all(set(record["model"].split(", ")) == {model} for record in records)
    assert all(record["parents"] and record["recipe"] for record in records)


def config_of(server: FakeEndpoint, **settings: Any) -> EndpointConfig:
    """The settings of an endpoint that is asked without patience."""
    return EndpointConfig(**({"url": server.url, "model": "m", "backoff_s": 0.001, "retries": 1} | settings))

"""Every recipe with SmolLM2-135M-Instruct, which `babyllm serve` serves in bfloat16; most of what it says is refused.

The inputs are records of `BABYLLM_DATA`. `-s` prints a row for each recipe: requests, records, refusals, seconds.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from real_models import smollm2_file
from synthesis_fixtures import check_accounts, lines_of, rows_of
from test_recipes import check_readable, skip_without_isolation

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.synthesis.recipe import BUILT_IN, read_recipe

pytestmark = pytest.mark.campaign
NAME, N, MAX_TOKENS = "smollm2", 2, 96
DATA = Path(os.environ.get("BABYLLM_DATA", "")) / "sft"
WAYS = {"plain": ["--language=en"], "structured": ["--language=en", "--structured"], "chinese": ["--language=zh"]}
LESS = {  # so that a recipe asks a few times
    "self_instruct": "{wanted: 2}",
    "evolve": "{rounds: 1}",
    "topics": "{wanted: 2}",
    "turns": "{turns: 1}",
    "long_prompts": "{characters: 800, passage: 500}",
    "document_qa": "{passage: 500}",
    "code": "{wanted: 2}",
    "pairs": "{samples: 2}",
    "triples": "{passage: 500}",
}
OUTPUTS = ("records.jsonl", "rejected.jsonl", "report.json", "report.md", "report.html")


class Served(NamedTuple):
    """A server in a process of its own.

    Attributes:
        url: its address.
        log: its log of requests.
    """

    url: str
    log: Path

    @property
    def n_answered(self) -> int:
        """Number of chats that it answered; the log's thread may be a moment late."""
        time.sleep(0.5)
        lines = lines_of(self.log)
        return sum(line["status"] == 200 for line in lines if line["path"] == "/v1/chat/completions")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    file, folder = smollm2_file(), tmp_path_factory.mktemp("served")
    if not DATA.is_dir():
        pytest.skip("needs BABYLLM_DATA")
    run(["import", str(file), str(folder / "model"), "--dtype=bfloat16"])
    log = folder / "requests.jsonl"
    argv = [sys.executable, "-m", "babyllm", "serve", str(folder / "model"), f"--name={NAME}", "--port=0"]
    argv += [f"--request_log={log}", "--runtime.dtype=bfloat16", "--runtime.threads=1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+?:\d+", process.stdout.readline())
        assert found
        try:
            while httpx.get(f"{found[0]}/health", timeout=60).status_code != 200:
                time.sleep(1)
            yield Served(found[0], log)
        finally:
            process.terminate()


def write_inputs(folder: Path, language: str) -> None:
    """Questions with their answers, and long answers as documents."""
    records = json.loads((DATA / f"alpaca_{language}_demo.json").read_text("utf-8"))
    short = [one for one in records if not one["input"] and len(one["output"]) < 300][:N]
    long = [one for one in records if len(one["output"]) > 400][: 2 * N]
    chats = [{"prompt": one["instruction"], "answer": one["output"]} for one in short]
    for name, lines in (("prompts", chats), ("documents", [{"text": one["output"]} for one in long])):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")


def flags_for(name: str, way: str, served: Served, folder: Path) -> list[str]:
    source = read_recipe(name)[0].source
    file = {"prompts": "prompts", "documents": "documents", "topics": "documents"}.get(source)
    flags = [*WAYS[way], f"--n={N}", f"--endpoint.url={served.url}/v1", f"--endpoint.model={NAME}"]
    flags += [f"--endpoint.max_tokens={MAX_TOKENS}", "--endpoint.timeout_s=900", "--endpoint.seed=1"]
    flags += ["--endpoint.price_in=1", "--endpoint.price_out=2"]
    flags += [f"--inputs={folder / file}.jsonl"] if file else []
    return flags + ([f"--set={LESS[name]}"] if name in LESS else [])


def row_of(name: str, report: dict[str, Any], seconds: float) -> str:
    """What became of a recipe, as a row of a table."""
    n = sum(step["requests"] for step in rows_of(report, "Steps"))
    has_reasons = any(table["title"] == "Rejections" for table in report["tables"])
    reasons = rows_of(report, "Rejections") if has_reasons else []
    said = ", ".join(f"{one['step']}: {one['reason']} {one['number']}" for one in reasons)
    return f"| `{name}` | {n} | {dict(report['facts'])['records']} | {said} | {seconds:.0f} |"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_request_to_the_own_server_is_accounted_for(name: str, way: str, served: Served, tmp_path: Path) -> None:
    """Each request is answered and stored once and ends as a record or with a reason; made again, nothing is asked."""
    skip_without_isolation(name)
    language, out = WAYS[way][0][-2:], tmp_path / "out"
    write_inputs(tmp_path, language)
    flags, before, began = flags_for(name, way, served, tmp_path), served.n_answered, time.perf_counter()
    with suppress(UserError):  # no record was kept; the report says why
        run(["synth", name, str(out), *flags])
    seconds, asked = time.perf_counter() - began, served.n_answered - before
    report = json.loads((out / "report.json").read_text())
    records, rejected = lines_of(out / "records.jsonl"), lines_of(out / "rejected.jsonl")
    print(row_of(name, report, seconds))
    check_accounts(records, rejected, report, NAME)
    check_readable(records, name, language)
    steps = rows_of(report, "Steps")
    answered = sum(step["answered"] for step in steps)
    assert answered and not any(step["failed"] for step in steps)
    assert len(lines_of(out / "cache" / "replies.jsonl")) == asked <= answered
    assert records or rejected
    made = {file: (out / file).read_bytes() for file in OUTPUTS}
    with suppress(UserError):
        run(["synth", name, str(out), *flags])
    assert served.n_answered == before + asked
    assert {file: (out / file).read_bytes() for file in OUTPUTS} == made

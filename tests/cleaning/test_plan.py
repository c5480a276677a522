"""What cleaning costs: the times at the end of a report, and the plan before it."""

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from babyllm.commands.corpus import clean as command
from babyllm.commands.corpus import tokenize
from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.pipeline.estimate import Sample, Work, estimate, estimates_report
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import print_report
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.plan import draw_sample, plan_clean
from babyllm.text.clean.stage import clean
from babyllm.text.readers import ReadConfig, read_partition
from babyllm.tokenizer import Tokenizer

ONE = WorkConfig(workers=1)


def write_lines(path: Path, n: int) -> Path:
    rng = random.Random(1)
    lines = [
        json.dumps({"text": "".join(rng.choices("天地玄黄宇宙洪荒。", k=60))}, ensure_ascii=False) for _ in range(n)
    ]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_a_report_ends_with_times_that_no_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed report names seconds, rates and the slowest partition of each step; the stored one has no times."""
    raw = write_lines(tmp_path / "raw.jsonl", 300)
    report = clean([raw], tmp_path / "out", CleanConfig(), work=replace(ONE, partition_bytes=20_000))
    assert report is not None
    times = report.times
    assert times and times.title.startswith("Time by step")
    (row,) = (dict(zip(times.columns, row, strict=True)) for row in times.rows)
    assert (row["step"], row["partitions"]) == ("clean", 3) and "raw.jsonl" in str(row["slowest partition"])
    assert 1 / 3 <= float(row["its share"] or 0) <= 1 and float(row["documents/s"] or 0) > 0
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_json())) and "Time by step" not in json.dumps(stored)
    print_report(report)
    assert "Time by step" in capsys.readouterr().out


def test_a_plan_writes_nothing(tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    """`--plan` prints time, memory and disk, and leaves OUT alone; its disk is that of the result."""
    raw, out = write_lines(tmp_path / "raw.jsonl", 2000), tmp_path / "out"
    command.run(parse(command.Flags, ["--work.workers=1", "--plan=true"], prog=""), str(raw), str(out))
    assert "Plan of cleaning" in capsys.readouterr().out and not out.exists()
    tokenizer.save(tmp_path / "tokenizer")
    flags = parse(tokenize.Flags, [f"--tokenizer={tmp_path / 'tokenizer'}", "--work.workers=1", "--plan=true"], prog="")
    tokenize.run(flags, str(raw), str(out))
    assert "Plan of tokenizing" in capsys.readouterr().out and not out.exists()
    report = plan_clean([raw], CleanConfig(), work=ONE)
    (row,) = (dict(zip(report.tables[0].columns, row, strict=True)) for row in report.tables[0].rows)
    clean([raw], out, CleanConfig(), work=ONE)
    number, unit = str(row["of which result"]).split()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert row["workers"] == 1 and unit == "KB" and 0.5 < float(number) * 1000 / size < 2
    with pytest.raises(UserError, match="--plan: is for documents"):
        conversations = parse(command.Flags, ["--plan=true", "--kind=conversations"], prog="")
        command.run(conversations, str(raw), str(out))


@pytest.mark.parametrize("name", ["raw.jsonl", "raw.jsonl.gz"])
def test_samples_come_from_all_over_the_input(tmp_path: Path, name: str) -> None:
    """Samples of about the wanted size come from equal distances; of a file that cannot be cut, from its beginning."""
    raw = write_lines(tmp_path / name, 3000)
    (tmp_path / "samples").mkdir()
    sample = draw_sample([raw], ReadConfig(), 3, raw.stat().st_size // 10, tmp_path / "samples")
    assert len(sample.items) == (3 if name == "raw.jsonl" else 1)
    assert sample.size_bytes == pytest.approx(len(sample.items) * raw.stat().st_size / 10, rel=0.3)
    found = [item for partition in sample.items for item in read_partition(partition, ReadConfig())]
    assert len(found) == pytest.approx(300 * len(sample.items), rel=0.3)
    assert all(isinstance(item, Document) for item in found)


def test_an_estimate_follows_from_runs_on_samples(tmp_path: Path) -> None:
    """Disk grows with the input, and workers without a partition are reported."""

    def stage(items: object, out: Path, work: WorkConfig) -> None:
        assert work.workers == 1 and isinstance(items, list)
        out.mkdir()
        (out / "result").write_bytes(bytes(len(items) * 10))

    what = Work(stage, lambda n, size: Sample([0] * n, n * 50.0), [500, 500, 1000], 0.5)
    (found,) = estimate(what, ONE)
    assert found.result_bytes == found.disk_bytes == 400 and found.seconds > 0.5 and found.memory_bytes > 0
    facts = dict(estimates_report("Plan", what, [found], WorkConfig(workers=5)).facts)
    assert facts["partitions"] == 3 and str(facts["idle workers"]).startswith("2;")

"""`babyllm dedup --soft.power`: of a large cluster more than one document stays, by a draw that ids decide."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import open_corpus
from babyllm.text.dedup.dedup_config import DedupConfig, SoftConfig
from babyllm.text.dedup.stage import dedup
from babyllm.text.dedup.substrings.substrings_config import SubstringsConfig
from tests.support.disk_fixtures import corpus_of

SIZES = {"一": 100, "二": 25, "三": 1}  # texts by first character, and how many times each occurs
CONFIG = DedupConfig(near=[], soft=SoftConfig(power=0.5), work=WorkConfig(1, 2_000))


def texts() -> list[str]:
    """Clusters of equal texts of many sizes: 40 of each size, mixed."""
    rows = [(i, f"{name}的第{k}篇文章") for k in range(40) for name, n in SIZES.items() for i in range(n)]
    return [text for _, text in sorted(rows)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("soft") / "corpus", texts(), n_parts=4)


def test_a_power_of_the_size_stays(corpus: Path, tmp_path: Path) -> None:
    """Of n equal documents, the root of n stay on average with power 0.5, the survivor always; the report says so."""
    dedup([corpus], tmp_path / "out", CONFIG)
    left = [document.text for document in open_corpus(tmp_path / "out").documents()]
    assert set(left) == set(texts())
    for name, n in SIZES.items():
        assert sum(text.startswith(name) for text in left) / 40 == pytest.approx(n**0.5, rel=0.15)
    table = pq.read_table(tmp_path / "out" / "clusters.parquet").to_pylist()
    removed = {row["id"] for row in table if row["removed"]}
    assert len(left) == len(texts()) - len(removed) and not removed & {row["cluster"] for row in table}
    facts = dict(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["facts"])
    assert facts["repetitions that stay by chance"] == len(left) - len(set(texts()))


def test_ids_and_the_seed_decide(corpus: Path, tmp_path: Path) -> None:
    """Partitions and workers change no byte; another seed keeps others, and a larger power keeps all of a smaller."""

    def kept(name: str, config: DedupConfig) -> list[str]:
        dedup([corpus], tmp_path / name, config)
        return [document.id for document in open_corpus(tmp_path / name).documents()]

    first = kept("first", CONFIG)
    kept("second", replace(CONFIG, work=WorkConfig(2, 64 << 20)))
    for file in tmp_path.glob("first/*.parquet"):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()
    assert kept("other", replace(CONFIG, soft=SoftConfig(power=0.5, seed=2))) != first
    assert set(first) < set(kept("more", replace(CONFIG, soft=SoftConfig(power=0.8))))
    hard = kept("hard", replace(CONFIG, soft=SoftConfig()))
    assert len(hard) == len(set(texts())) and set(hard) < set(first)


@pytest.mark.parametrize("more", [{"index": "index"}, {"substrings": SubstringsConfig(min_characters=50)}])
def test_what_removes_all_repetitions_is_refused(corpus: Path, tmp_path: Path, more: dict[str, str]) -> None:
    """An index and the removal of repeated spans contradict repetitions that stay."""
    with pytest.raises(UserError, match=r"--soft\.power=0\.5: keeps repetitions, which --"):
        dedup([corpus], tmp_path / "out", replace(CONFIG, **more))  # type: ignore[arg-type]

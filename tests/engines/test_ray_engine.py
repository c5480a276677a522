"""The engine of a Ray cluster: the same bytes as on one machine, and errors of one line."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from engine_jobs import dies, full
from engines_fixtures import made, run_stages

from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.tokenizer import Tokenizer

ray = pytest.importorskip("ray")
RAY = WorkConfig(workers=2, engine="ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One cluster for all tests, which the first of them starts."""
    yield
    ray.shutdown()


def test_a_cluster_makes_the_same_bytes(local: Path, raw: Path, tokenizer: Tokenizer) -> None:
    """Clean, dedup and tokenize write the same files on Ray."""
    run_stages(raw, tokenizer, "ray", 2)
    assert made(raw) == made(local)


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """Work whose worker dies is repeated; if it dies each time, or the disk is full, one line says what to do."""
    (marks := tmp_path / "marks").mkdir()
    work, job = tmp_path / "work", partial(dies, marks=marks, times=1)
    assert run_partitions(range(4), job, work / "once", key="a", work=RAY) == list(range(4))
    with pytest.raises(UserError, match=r"^a worker of the Ray cluster died 4 times.*--work\.partition_bytes"):
        run_partitions(range(4), partial(dies, marks=marks, times=99), work / "always", key="a", work=RAY)
    job = partial(full, mark=tmp_path / "mark")
    with pytest.raises(UserError, match=r"^\S*out.txt: cannot be written \(No space left on device\); free some space"):
        run_partitions(range(5), job, work / "full", key="a", work=RAY)
    (tmp_path / "mark").touch()
    assert run_partitions(range(5), job, work / "full", key="a", work=RAY) == list(range(5))

"""Direct clusters of `babyllm dedup`: each removed document is similar to one that stays."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import open_corpus
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.near import verify
from babyllm.text.dedup.near.linking import Steps, find_links
from babyllm.text.dedup.near.minhash import MinHashConfig
from babyllm.text.dedup.normal import normal_form
from babyllm.text.dedup.slices import cut, files_of
from babyllm.text.dedup.stage import dedup
from babyllm.text.dedup.steps import Setting
from tests.support.disk_fixtures import corpus_of

ONE = WorkConfig(workers=1)
# The recall is so high that all pairs at the threshold share a key.
DIRECT = DedupConfig(clusters="direct", threshold=0.6, minhash=MinHashConfig(recall=0.9999999), work=ONE)


def families(sizes: Sequence[int], seed: int = 1) -> list[str]:
    """Texts that change step by step: each is similar to some of its family, and shares keys with many."""
    rng = random.Random(seed)
    texts: list[str] = []
    for size in sizes:
        family = ["".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(160))]
        while len(family) < size:
            letters = list(rng.choice(family[-6:]))
            for _ in range(rng.randrange(3)):
                letters[rng.randrange(len(letters))] = chr(rng.randrange(0x4E00, 0x9FA0))
            family.append("".join(letters) + "，" * rng.randrange(3))
        texts += family
    rng.shuffle(texts)
    return texts


def with_one_letter(text: str, n: int) -> list[str]:
    """Texts that differ from this one in one character each, and share nearly all keys with it."""
    return [text[:place] + chr(0x3400 + place) + text[place + 1 :] for place in range(60, 60 + 7 * n, 7)]


def similarities(texts: Sequence[str]) -> list[list[float]]:
    """The Jaccard similarity of any two texts, as a matrix."""
    normal = [normal_form(text) for text in texts]
    sets = [{text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in normal]
    return [[len(a & b) / len(a | b) for b in sets] for a in sets]


def members(out: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(out / "clusters.parquet").to_pylist()}


def ids(out: Path) -> list[str]:
    return sorted(document.id for document in open_corpus(out).documents())


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return families([1, 3, 5, 30, 100])


@pytest.fixture(scope="module")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("families") / "in", texts)


@pytest.fixture(scope="module")
def straight(corpus: Path) -> Path:
    dedup([corpus], corpus.parent / "straight", DIRECT)
    return corpus.parent / "straight"


def test_a_document_stays_unless_it_is_similar_to_a_longer_one_that_stays(texts: list[str], straight: Path) -> None:
    """The documents left are those of a plain comparison of each with all that stay, preferred ones first."""
    alike = similarities(texts)
    kept: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i)):
        if all(alike[i][j] < DIRECT.threshold for j in kept):
            kept.append(i)
    assert ids(straight) == [f"{i:03d}" for i in sorted(kept)]
    removed = {name: row for name, row in members(straight).items() if row["removed"]}
    assert len(removed) == len(texts) - len(kept) and len(kept) > 10
    for name, row in removed.items():
        assert row["cluster"] == row["neighbour"] and int(row["cluster"]) in kept
        assert row["similarity"] == alike[int(name)][int(row["cluster"])] >= DIRECT.threshold


@pytest.mark.parametrize(("workers", "partition_bytes"), [(1, 20_000), (2, 60_000)])
def test_workers_and_partitions_change_nothing(
    corpus: Path, straight: Path, tmp_path: Path, workers: int, partition_bytes: int
) -> None:
    """The corpus and the clusters are the same, byte for byte."""
    dedup([corpus], tmp_path / "out", replace(DIRECT, work=WorkConfig(workers, partition_bytes)))
    for name in ("clusters.parquet", "report.json", "corpus.json", *(f"{i}.parquet" for i in range(3))):
        assert (tmp_path / "out" / name).read_bytes() == (straight / name).read_bytes()


def test_the_end_of_a_chain_is_removed_only_if_clusters_are_chains(tmp_path: Path) -> None:
    """If A is similar to B and B to C, but C is not similar to A, then B is removed, and C only in a chain."""
    letters = [chr(0x4E00 + i) for i in range(200)]
    a = "".join(letters) + "！！"
    b = "".join([*letters[:20], "甲乙丙丁戊己庚辛", *letters[28:]]) + "！"
    c = "".join([*letters[:20], "甲乙丙丁戊己庚辛", *letters[28:150], "一二三四五六七八九十", *letters[160:]])
    alike = similarities([a, b, c])
    assert alike[0][1] > 0.85 and alike[1][2] > 0.85 > alike[0][2]
    corpus = corpus_of(tmp_path / "in", [a, b, c], 1)
    dedup([corpus], tmp_path / "chains", DedupConfig(work=ONE))
    assert ids(tmp_path / "chains") == ["000"]
    dedup([corpus], tmp_path / "direct", DedupConfig(clusters="direct", work=ONE))
    assert ids(tmp_path / "direct") == ["000", "002"]
    assert [(name, row["cluster"], row["neighbour"]) for name, row in members(tmp_path / "direct").items()] == [
        ("000", "000", "000"),
        ("001", "000", "000"),
    ]


def test_older_corpora_count_as_made_with_chains(corpus: Path, tmp_path: Path) -> None:
    """The stored settings name clusters only if they are direct, and direct clusters are other settings."""
    chained = DedupConfig(near=[], work=ONE)
    dedup([corpus], tmp_path / "out", chained)
    assert "clusters" not in open_corpus(tmp_path / "out").about["config"]
    with pytest.raises(UserError, match="was made with other config"):
        dedup([corpus], tmp_path / "out", replace(chained, clusters="direct"))


def test_all_documents_of_against_stay_even_similar_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document similar to one of --against is removed, even if others there are similar to that one and preferred."""
    letters = [chr(0x4E00 + i) for i in range(400)]
    one, other = "".join(letters), "".join([*letters[40:], *letters[:40][::-1]])
    preferred = [text + "！" for text in with_one_letter(one, 30)]
    alike = similarities([other, one, *preferred])
    assert alike[0][1] > max(alike[0][2:]) and min(alike[1]) > 0.7
    monkeypatch.setattr(verify, "_BLOCK", 1)  # as in a group too large for memory
    old, new = corpus_of(tmp_path / "old", [one, *preferred]), corpus_of(tmp_path / "new", [other, "别的文字"], 1)
    dedup([new], tmp_path / "out", replace(DIRECT, threshold=alike[0][1], against=[str(old)]))
    assert ids(tmp_path / "out") == ["new/001"]


def test_equal_documents_have_the_neighbour_of_their_representative(tmp_path: Path) -> None:
    """A copy of a document similar to a longer one names the longer one; a copy of the longer one names it, too."""
    base = "".join(chr(0x4E00 + i) for i in range(100))
    dedup(
        [corpus_of(tmp_path / "in", [base, base + "。", base + "！！！末", base + "！！！末", base])],
        tmp_path / "out",
        DedupConfig(clusters="direct", work=ONE),
    )
    rows = members(tmp_path / "out")
    assert ids(tmp_path / "out") == ["002"]
    assert {name: (row["neighbour"], row["method"]) for name, row in rows.items()} == {
        "000": ("002", "minhash"),
        "001": ("002", "minhash"),
        "002": ("002", None),
        "003": ("002", "exact"),
        "004": ("002", "minhash"),
    }


def test_comparisons_of_other_partitions_are_not_reused(tmp_path: Path) -> None:
    """Links of an earlier run with other ranges of keys are computed again."""
    corpus = corpus_of(tmp_path / "in", with_one_letter("".join(chr(0x4E00 + i) for i in range(500)), 60))
    (slices,) = cut(files_of([open_corpus(corpus)]), 1 << 20)

    def links(tables_at_once: int) -> list[int]:
        config = DedupConfig(work=WorkConfig(1, partition_bytes=tables_at_once * 60 * 16))
        run = Steps(Setting(config, 60, tmp_path / "work"), "key")
        return sorted(find_links(run, [(piece, False) for piece in slices]).pairs.tolist())

    fresh = links(5)  # ten tables are divided into two folders: five and five, then seven and three
    for folder in sorted((tmp_path / "work" / "minhash-links").glob("[0-9]*")):
        np.save(folder / "pairs.npy", np.empty(0, np.uint64))
        np.save(folder / "similarity.npy", np.empty(0))
    assert len(fresh) >= 59 and links(7) == fresh

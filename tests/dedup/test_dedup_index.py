"""`babyllm dedup --index`: new documents against generations of kept ones."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from babyllm.commands.corpus import index as index_command
from babyllm.errors import UserError
from babyllm.files import locked
from babyllm.pipeline.partitions import WorkConfig
from babyllm.ragged import Ragged
from babyllm.store.corpus import open_corpus
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.index.kept_index import INDEX, open_index
from babyllm.text.dedup.index.merging import merge_generations
from babyllm.text.dedup.index.sorted_tables import KEYS, between, rows_at, sets_in, write_sets, write_sorted
from babyllm.text.dedup.near.shingles import ShingleConfig
from babyllm.text.dedup.stage import dedup
from babyllm.text.dedup.substrings.substrings_config import SubstringsConfig
from babyllm.text.takedowns import take_down
from tests.support.disk_fixtures import corpus_of

CONFIG = DedupConfig(clusters="direct", keep="first", work=WorkConfig(1, 20_000))
N_CRAWLS = 3
# Runs the stage and kills itself as soon as it is about to put the generation in place, or the index.
KILLED = """
import os, signal, sys
from pathlib import Path
from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.index import kept_index
from babyllm.text.dedup.stage import dedup
crawl, out, index, moment = sys.argv[1:]
def kill(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "commit":
    kept_index.write_sealed_json = kill
else:
    import babyllm.text.dedup.stage as stage
    stage.publish = kill
dedup([Path(crawl)], Path(out), DedupConfig(clusters="direct", keep="first", index=index, work=WorkConfig(1, 20_000)))
"""


def crawl_texts(seed: int = 1) -> list[str]:
    """Families of similar texts of many sizes, some larger than a run of candidates, and single texts."""
    rng = random.Random(seed)
    texts: list[str] = []
    for size in [1] * 60 + [2, 3, 4, 5] * 6 + [20, 40, 25]:
        family = ["".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(120))]
        while len(family) < size:
            letters = list(rng.choice(family[-6:]))
            for _ in range(rng.randrange(4)):
                letters[rng.randrange(len(letters))] = chr(rng.randrange(0x4E00, 0x9FA0))
            family.append("".join(letters) + "，" * rng.randrange(3))
        texts += family
    rng.shuffle(texts)
    return texts


def texts_of(out: Path) -> list[str]:
    return [document.text for document in open_corpus(out).documents()]


def contents(directory: Path) -> dict[str, bytes]:
    """The files of an index by name, without its lock."""
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def crawls(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Corpora that follow each other and repeat documents of the earlier ones."""
    root, texts = tmp_path_factory.mktemp("crawls"), crawl_texts()
    edges = [len(texts) * i // N_CRAWLS for i in range(N_CRAWLS + 1)]
    return [corpus_of(root / f"crawl{i}", texts[edges[i] : edges[i + 1]]) for i in range(N_CRAWLS)]


@pytest.fixture(scope="module")
def grown(crawls: Sequence[Path]) -> Path:
    """A directory with the index of all crawls but the last, and their survivors `kept0` and so on."""
    root = crawls[0].parent
    for number, crawl in enumerate(crawls[:-1]):
        dedup([crawl], root / f"kept{number}", replace(CONFIG, index=str(root / "index")))
    return root


@pytest.fixture
def index(grown: Path, tmp_path: Path) -> Path:
    """A copy of the index that a test may change."""
    return shutil.copytree(grown / "index", tmp_path / "index")


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, clusters="chains", near=[]), replace(CONFIG, clusters="chains")]
)
def test_generation_after_generation_keeps_what_a_run_with_all_earlier_ones_keeps(
    crawls: Sequence[Path], tmp_path: Path, config: DedupConfig
) -> None:
    """The survivors of each crawl are those of `--against` with all kept before, for any way of comparing."""
    kept: list[str] = []
    for number, crawl in enumerate(crawls):
        grown, joint = tmp_path / f"grown{number}", tmp_path / f"joint{number}"
        report = dedup([crawl], grown, replace(config, index=str(tmp_path / "index")))
        dedup([crawl], joint, replace(config, against=kept))
        assert report is not None and texts_of(grown) == texts_of(joint)
        assert len(texts_of(grown)) < len(texts_of(crawl))
        kept.append(str(joint))
    assert [g.documents() for g in open_index(tmp_path / "index").generations] == [len(texts_of(Path(k))) for k in kept]


def test_a_finished_run_is_repeated_without_work_or_elsewhere_with_the_same_result(
    crawls: Sequence[Path], grown: Path, index: Path, tmp_path: Path
) -> None:
    """The same command does nothing; with another OUT it compares with the generations before its own."""
    before = contents(index)
    config = replace(CONFIG, index=str(index))
    assert dedup([crawls[1]], grown / "kept1", config) is None
    dedup([crawls[1]], tmp_path / "again", config)
    assert texts_of(tmp_path / "again") == texts_of(grown / "kept1") and contents(index) == before


def test_a_merge_changes_no_answer(crawls: Sequence[Path], index: Path, tmp_path: Path) -> None:
    """One generation made of several, in several files of keys, answers as they do; merged again it is the same."""
    other = shutil.copytree(index, tmp_path / "other" / "index")
    merged, n_removed = merge_generations(index, entries_at_once=300)
    (generation,) = merged.generations
    assert n_removed == 0 and generation.n_keys > 3 and len(generation.made) == N_CRAWLS - 1
    assert merge_generations(index)[0] == merged == open_index(index)
    assert sorted(path.name for path in index.iterdir() if path.is_dir()) == [generation.name]
    for place in (index, other):
        dedup([crawls[-1]], place.parent / "out", replace(CONFIG, index=str(place)))
    assert texts_of(tmp_path / "out") == texts_of(tmp_path / "other" / "out")
    with pytest.raises(UserError, match="merged with earlier ones"):
        dedup([crawls[1]], tmp_path / "again", replace(CONFIG, index=str(index)))


@pytest.mark.parametrize("moment", ["commit", "publish"])
def test_a_killed_run_goes_on(crawls: Sequence[Path], index: Path, tmp_path: Path, moment: str) -> None:
    """Killed before its commit mark, a run leaves the index as it was; the same command completes both."""
    straight = shutil.copytree(index, tmp_path / "straight" / "index")
    dedup([crawls[-1]], tmp_path / "straight" / "out", replace(CONFIG, index=str(straight)))
    before = open_index(index)
    command = [sys.executable, "-c", KILLED, str(crawls[-1]), str(tmp_path / "out"), str(index), moment]
    assert subprocess.run(command, capture_output=True, check=False, env=dict(os.environ)).returncode < 0
    assert (open_index(index) == before) == (moment != "publish") and not (tmp_path / "out" / "corpus.json").exists()
    assert dedup([crawls[-1]], tmp_path / "out", replace(CONFIG, index=str(index))) is not None
    assert texts_of(tmp_path / "out") == texts_of(tmp_path / "straight" / "out")
    assert contents(index) == contents(straight)


def test_another_process_other_settings_and_damage_are_refused(
    crawls: Sequence[Path], index: Path, tmp_path: Path
) -> None:
    """One line names the index, the setting or the file."""
    config = replace(CONFIG, index=str(index))
    out = tmp_path / "out"
    with locked(index / ".lock", 0) as is_free:
        assert is_free
        with pytest.raises(UserError, match="another process is using it"):
            dedup([crawls[-1]], out, config)
    for changed, flag in (
        (replace(config, threshold=0.8), "--threshold=0.8: the index .* was made with 0.85"),
        (replace(config, shingles=ShingleConfig(n=3)), "--shingles.n=3"),
        (replace(config, fold=["case"]), "--fold="),
        (replace(config, near=["simhash"]), "--near: an index holds the keys of minhash"),
        (replace(config, index=str(crawls[0])), "holds .* and no index.json"),
    ):
        with pytest.raises(UserError, match=flag):
            dedup([crawls[-1]], out, changed)
    keys = index / "000001" / "keys-00000.parquet"
    content = bytearray(keys.read_bytes())
    content[len(content) // 3] ^= 1
    keys.unlink()  # it may be a link to the file of another index
    keys.write_bytes(content)
    with pytest.raises(UserError, match=r"keys-00000.parquet: cannot be read"):
        dedup([crawls[-1]], out, config)
    keys.unlink()
    with pytest.raises(UserError, match=r"keys-00000.parquet: missing"):
        dedup([crawls[-1]], out, config)


def test_a_takedown_is_obeyed_and_stands_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kept document that is taken down is refused when it returns, but no longer removes what is similar to it."""
    rng = random.Random(1)
    first, second, third = ("".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(100)) for _ in range(3))
    similar = first[:50] + "改" + first[51:]
    config = replace(CONFIG, index=str(tmp_path / "index"))
    dedup([corpus_of(tmp_path / "old", [first, second])], tmp_path / "kept", config)
    take_down(tmp_path / "index", [{"text": first, "why": "asked for"}])
    assert first not in (tmp_path / "index" / "takedowns.jsonl").read_text(encoding="utf-8")
    new = corpus_of(tmp_path / "new", [first + " \n", similar, second[:-1] + "末", third])
    merged = shutil.copytree(tmp_path / "index", tmp_path / "merged")
    index_command.run(index_command.Flags(merge=True), str(merged))
    assert "1 documents taken down" in capsys.readouterr().out and open_index(merged).generations[0].documents() == 1
    for number, place in enumerate((tmp_path / "index", merged)):
        report = dedup([new], tmp_path / f"out{number}", replace(CONFIG, index=str(place)))
        assert report is not None and dict(report.facts)["taken down"] == 1
        assert texts_of(tmp_path / f"out{number}") == [similar, third]
    take_down(tmp_path / "index", [{"id": "003"}])
    with pytest.raises(UserError, match="was made with other takedowns"):
        dedup([new], tmp_path / "out0", config)


def test_spans_that_repeat_are_removed_against_this_run_and_what_stands(tmp_path: Path) -> None:
    """The index holds the documents as they were before a cut; spans are compared with --against, but not with it."""
    rng = random.Random(2)
    span, *texts = ("".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(n)) for n in (50, *[100] * 5))
    old, new = [text + span for text in texts[:2]], [text + span for text in texts[1:]]
    config = replace(CONFIG, index=str(tmp_path / "index"), substrings=SubstringsConfig(50))
    kept = tmp_path / "kept"
    dedup([corpus_of(tmp_path / "old", old, 1)], kept, config)
    assert texts_of(kept) == [old[0], texts[1]]
    take_down(kept, [{"id": next(iter(open_corpus(kept).documents())).id}])
    corpus = corpus_of(tmp_path / "new", new, 1)
    cases = {"alone": ([], new[1:2] + texts[3:]), "against": ([str(tmp_path / "old")], texts[2:])}
    cases["taken"] = ([str(kept)], cases["alone"][1])
    for name, (against, expected) in cases.items():
        index = shutil.copytree(tmp_path / "index", tmp_path / name / "index")
        report = dedup([corpus], tmp_path / name / "out", replace(config, index=str(index), against=against))
        assert report is not None and dict(report.facts)["removed"] == 1
        assert texts_of(tmp_path / name / "out") == expected, name
        assert open_index(index).generations[-1].documents() == 3


def test_only_row_groups_with_what_is_looked_for_are_read(tmp_path: Path) -> None:
    """Ranges of keys and rows of documents are found in files of many row groups."""
    keys = np.sort(np.random.default_rng(1).integers(0, 1 << 40, 200_000, dtype=np.uint64))
    write_sorted(tmp_path / "keys", KEYS, [keys, np.arange(len(keys), dtype=np.uint32)])
    low, high = int(keys[70_000]), int(keys[90_000])
    found = list(between(tmp_path / "keys", low, high))
    assert len(found) == 1 and np.array_equal(found[0][0], keys[70_000:90_000])
    assert sum(len(key) for key, _ in between(tmp_path / "keys", 0, 1 << 64)) == len(keys)
    sets = [np.sort(np.random.default_rng(i).integers(0, 1 << 48, 7_000 * (i % 3), dtype=np.uint64)) for i in range(40)]
    offsets = np.cumsum([0, *map(len, sets)])
    write_sets(tmp_path / "sets", Ragged(np.concatenate(sets), offsets))
    rows = np.array([0, 1, 7, 8, 9, 39])
    read = [sets_in(table) for table in rows_at(tmp_path / "sets", rows, ["shingles"])]
    assert np.array_equal(np.concatenate([part.values for part in read]), np.concatenate([sets[i] for i in rows]))
    assert np.concatenate([part.lengths() for part in read]).tolist() == [len(sets[i]) for i in rows]


def test_the_command_shows_the_generations(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`babyllm index` prints documents and settings."""
    index_command.run(index_command.Flags(), str(index))
    shown = capsys.readouterr().out
    generations = json.loads((index / INDEX).read_text(encoding="utf-8"))["generations"]
    assert "threshold" in shown and all(g["name"] in shown and str(g["documents"]) in shown for g in generations)

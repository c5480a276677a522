"""CONTRIBUTING.md, the Makefile and the notes on decisions say what is there."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TASKS = (
    *("optimizer", "learning-rate schedule", "filter", "filter with a resource", "deduplication method", "reader"),
    *("chat template", "loss", "training stage", "evaluation task", "evaluation metric"),
    *("scorer of `select`", "measure of difficulty", "recipe of `synth`", "endpoint", "command"),
)


def rows() -> list[list[str]]:
    """The cells of the table `Where do I add ...?`."""
    table = CONTRIBUTING.partition("## Where do I add ...?")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_each_usual_addition_changes_at_most_two_existing_files() -> None:
    """Every task of the table names at most two files that exist, and a new one or none."""
    assert tuple(cells[0] for cells in rows()) == TASKS
    for task, existing, *_ in rows():
        files = re.findall(r"`([^`]+)`", existing)
        assert len(files) <= 2, task
        assert [file for file in files if not (ROOT / "babyllm" / file).is_file()] == [], task


def test_what_contributing_names_is_there() -> None:
    """Every target of `make` and every page that CONTRIBUTING.md links to exists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", makefile, re.MULTILINE)
    assert set(re.findall(r"make (setup|check|test|docs|site|bench)\b", CONTRIBUTING)) <= set(targets)
    links = re.findall(r"\]\(([^)#:]+)[^)]*\)", CONTRIBUTING)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_every_decision_is_listed_and_has_its_parts() -> None:
    """A note on a decision has context, decision, consequences and alternatives, and stands in the list."""
    folder = ROOT / "docs/en/reference/decisions"
    notes = sorted(folder.glob("[0-9]*.md"))
    listed = re.findall(r"\]\((\d+[^)]*)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert [note.name for note in notes] == listed
    for number, note in enumerate(notes, 1):
        text = note.read_text(encoding="utf-8")
        assert text.startswith(f"# {number:03}: "), note
        headings = re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)
        assert headings[:4] == ["Context", "Decision", "Consequences", "Alternatives"], note


def test_hooks_use_what_is_installed() -> None:
    """The hooks before a commit download nothing: all are local and run installed tools."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {hook["language"] for repo in config["repos"] for hook in repo["hooks"]} == {"system"}


def test_the_version_is_one() -> None:
    """pyproject.toml, the citation and the list of changes name the same version."""
    import babyllm

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == babyllm.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == babyllm.__version__

"""The site is built without a network, without a warning, and without anything that a browser would fetch elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import DOCS, ROOT, in_chinese

pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*rel=\"?(?:stylesheet|preload)[^>]*//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Links, anchors and the navigation are checked: any warning fails the build."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "WARNING" in line)
    return out


def test_every_page_is_in_the_site_in_both_languages(site: Path) -> None:
    for page in (DOCS / "en").rglob("*.md"):
        name = page.relative_to(DOCS / "en").with_suffix("")
        place = name.parent if name.name in ("index", "README") else name
        assert (site / "en" / place / "index.html").is_file(), page
        assert (site / place / "index.html").is_file(), in_chinese(page)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not (found := _FETCHED.search(page.read_text(encoding="utf-8"))), f"{page}: {found and found[0]}"


def test_formulas_and_docstrings_are_in_the_pages(site: Path) -> None:
    assert "<math" in (site / "en/concepts/dpo/index.html").read_text(encoding="utf-8")
    assert 'id="babyllm.notebook.pretrain"' in (site / "en/reference/docstrings/index.html").read_text(encoding="utf-8")


def test_a_broken_link_stops_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in ("docs", "babyllm", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, copy / name)
    page = copy / "docs/en/index.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n[a page](start/no-such-page.md)\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "out")],
        cwd=copy, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode != 0 and "no-such-page.md" in done.stderr

"""The notebooks of examples/, executed in order in one folder, with few steps."""

import re
import warnings
from pathlib import Path

import pytest
from page_commands import ROOT

nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
STEPS = 8


def test_notebooks_have_no_outputs_and_their_order_is_their_name() -> None:
    assert [int(path.name[0]) for path in NOTEBOOKS] == [1, 2, 3, 4, 5, 6, 7]
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None), path


@pytest.mark.campaign
def test_notebooks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's own packages
        from nbclient import NotebookClient

        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        for path in NOTEBOOKS:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                cell.source = re.sub(r"^STEPS = \d+", f"STEPS = {STEPS}", cell.source, flags=re.MULTILINE)
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

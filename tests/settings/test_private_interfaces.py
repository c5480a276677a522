"""Undocumented names of uvicorn and PyTorch: what is relied on is there, guarded and documented."""

import ast
import inspect
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed

pytest.importorskip("uvicorn")

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from babyllm.errors import UserError
from babyllm.serve import server
from babyllm.serve.http import connection
from babyllm.serve.http.uvicorn_interface import PRIVATE_NAMES, check_uvicorn

ROOT = Path(__file__).resolve().parents[2]
OF_TORCH = ("_mkl_reorder_linear_weight", "_mkl_linear", "_weight_int8pack_mm", "_get_sequence_number_for_group")
OF_SACREBLEU = ("_extract_corpus_statistics", "_compute_score_from_stats")


def test_the_installed_version_has_them() -> None:
    """A version of uvicorn that lacks one of the names fails here, before anybody serves with it."""
    check_uvicorn()


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ({("uvicorn.server", "Server"): ("startup", "not_there")}, "Server.not_there"),
        ({("uvicorn.server", "Gone"): ("startup",)}, "uvicorn.server.Gone"),
        ({("uvicorn.gone", "Server"): ("startup",)}, "uvicorn.gone.Server"),
    ],
)
def test_a_missing_name_is_a_clear_error(names: dict[tuple[str, str], tuple[str, ...]], missing: str) -> None:
    """Serving with another version ends with one line that says what is missing and what to install."""
    with pytest.raises(UserError, match=f"lacks {missing}.*pip install"):
        check_uvicorn(names)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(connection.Connection, H11Protocol), (server._Server, Server)], ids=["connection", "server"]
)
def test_methods_are_called_as_before(ours: type, theirs: type) -> None:
    """An overridden method has the parameters of uvicorn's."""
    overridden = [name for name in vars(ours) if name in dir(theirs) and inspect.isfunction(getattr(ours, name))]
    for name in set(overridden) - {"__init__"}:
        signatures = [list(inspect.signature(getattr(owner, name)).parameters) for owner in (ours, theirs)]
        assert signatures[0] == signatures[1], name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(connection.Connection, "H11Protocol"), (server._Server, "Server")],
    ids=["connection", "server"],
)
def test_every_name_that_is_used_is_listed(ours: type, theirs: str) -> None:
    """What a subclass takes from uvicorn stands in the list of private names."""
    tree = ast.parse(inspect.getsource(ours))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    overridden = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    listed = next(set(names) for (_, owner), names in PRIVATE_NAMES.items() if owner == theirs)
    inherited = {name for name in used | overridden if not name.startswith("_")}
    assert inherited <= listed


def test_the_installed_torch_has_its_own() -> None:
    """A version of PyTorch that drops one falls back to something slower, and fails here."""
    assert hasattr(torch, "_weight_int8pack_mm")
    if torch.backends.mkl.is_available():
        assert all(hasattr(torch.ops.mkl, name) for name in ("_mkl_reorder_linear_weight", "_mkl_linear"))
    if torch.distributed.is_available():
        assert hasattr(torch.distributed.ProcessGroup, "_get_sequence_number_for_group")


OF_SACREBLEU = ("_extract_corpus_statistics", "_compute_score_from_stats")


def test_the_installed_sacrebleu_has_its_own() -> None:
    """A version of sacrebleu that drops one fails here, before anybody measures with it."""
    metrics = pytest.importorskip("sacrebleu.metrics")
    assert all(hasattr(metric, name) for metric in (metrics.BLEU, metrics.CHRF) for name in OF_SACREBLEU)


def test_every_name_is_documented() -> None:
    """The design document names each of them."""
    text = (ROOT / "docs/en/reference/design.md").read_text(encoding="utf-8")
    section = text.partition("## Private interfaces")[2].partition("\n## ")[0]
    assert [
        name for name in (*chain(*PRIVATE_NAMES.values()), *OF_TORCH, *OF_SACREBLEU) if f"`{name}`" not in section
    ] == []

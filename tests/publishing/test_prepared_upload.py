"""What is uploaded, and what is refused before anything is sent."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from babyllm.__main__ import run
from babyllm.config.json_fields import read_json
from babyllm.errors import UserError
from babyllm.publishing.card import CardOptions
from babyllm.publishing.upload import prepared

OF_A_STEP = {
    *("README.md", "curve.png", "config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
}


def test_only_the_files_of_a_model_are_listed(written_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run lists name and size of what belongs to the model: no optimizer, no resume.json, nothing hidden."""
    before = sorted(written_run.rglob("*"))
    run(["upload", str(written_run), "me/model", "--dry_run"])
    *lines, last = capsys.readouterr().out.splitlines()
    sizes = {name: int(size.replace(",", "")) for size, name in map(str.split, lines)}
    assert sizes.keys() == OF_A_STEP
    assert sizes["model.safetensors"] == next(written_run.glob("step_*/model.safetensors")).stat().st_size
    assert last == f"{len(sizes)} files, {sum(sizes.values()):,} bytes; nothing was uploaded"
    assert sorted(written_run.rglob("*")) == before


def test_an_export_is_uploaded_with_its_own_card(tmp_path: Path) -> None:
    """GGUF files, Modelfile and license are taken; a README.md that is there is not written again, nor changed."""
    for name in ("a.gguf", "Modelfile", "LICENSE", "README.md", "train.log", ".secret.gguf"):
        (tmp_path / name).write_text(f"contents of {name}")
    with prepared(tmp_path, "me/model", "huggingface", CardOptions()) as folder:
        assert {file.name: file.read_text() for file in folder.iterdir()} == {
            name: f"contents of {name}" for name in ("a.gguf", "Modelfile", "LICENSE", "README.md")
        }
    with pytest.raises(UserError, match=r"README\.md: is there already"):
        run(["upload", str(tmp_path), "me/model", "--dry_run", "--card.license=mit"])


def adapter(directory: Path, base: str) -> Path:
    """A directory with an adapter of `base`; its tensors are those of another file."""
    shutil.move(directory / "model.safetensors", directory / "adapter_model.safetensors")
    (directory / "config.json").unlink()
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 8}))
    return directory


def test_an_adapter_names_its_base_on_the_hub(foreign: Path) -> None:
    """The folder of an adapter's base is replaced by a name on the hub, in its configuration and its card."""
    source = adapter(foreign, "/home/me/runs/base")
    with pytest.raises(UserError, match=r"nobody else has; .* --card\.base_model=OWNER/NAME"):
        run(["upload", str(source), "me/model", "--dry_run"])
    with prepared(source, "me/model", "huggingface", CardOptions(base_model="me/base")) as folder:
        assert read_json(folder / "adapter_config.json") == {"base_model_name_or_path": "me/base", "r": 8}
        assert "base_model: me/base\n" in (folder / "README.md").read_text(encoding="utf-8")
        assert "library_name: peft\n" in (folder / "README.md").read_text(encoding="utf-8")
    assert read_json(source / "adapter_config.json")["base_model_name_or_path"] == "/home/me/runs/base"


def test_damaged_and_incomplete_models_are_refused(run_copy: Path, foreign: Path, tmp_path: Path) -> None:
    """A file that changed since it was saved, a part that is missing, and a folder without weights are named."""
    weights = next(run_copy.glob("step_*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=r"model\.safetensors: is missing or not as it was saved"):
        run(["upload", str(run_copy), "me/model", "--dry_run"])
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (foreign / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: is missing"):
        run(["upload", str(foreign), "me/model", "--dry_run"])
    (foreign / "model.safetensors.index.json").unlink()
    (foreign / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        run(["upload", str(foreign), "me/model", "--dry_run"])
    (foreign / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        run(["upload", str(foreign), "me/model", "--dry_run"])
    with pytest.raises(UserError, match="neither a model"):
        run(["upload", str(tmp_path), "me/model", "--dry_run"])


@pytest.mark.parametrize(
    "name", ["model", "me/", "me/model/x", "me/m--x", "../model", "me/模型", "me/model.git", "me/-a"]
)
def test_names_that_no_hub_has_are_refused(name: str, tmp_path: Path) -> None:
    """The name is checked before the source is read."""
    with pytest.raises(UserError, match="is not a name on a hub"):
        run(["upload", str(tmp_path / "missing"), name])


@pytest.mark.parametrize(
    ("hub", "library", "token"),
    [
        ("huggingface", "huggingface_hub", "HF_TOKEN"),
        ("modelscope", "modelscope_hub", "MODELSCOPE_API_TOKEN"),
    ],
)
def test_a_missing_library_and_a_missing_token_are_named(
    hub: str, library: str, token: str, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install, or which variable to set."""
    argv = ["upload", str(foreign), "me/model", f"--to={hub}", "--card.license=mit"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, library, None)  # as if it were not installed
        with pytest.raises(UserError, match=r'pip install "babyllm\[upload\]"'):
            run(argv)
    pytest.importorskip(library)
    monkeypatch.setenv(token, " ")
    with pytest.raises(UserError, match=f"{token} is not set"):
        run(argv)


def test_modelscope_asks_for_a_license(foreign: Path) -> None:
    """Its library would choose one by itself."""
    with pytest.raises(UserError, match=r"--card\.license: ModelScope asks for one"):
        run(["upload", str(foreign), "me/model", "--to=modelscope", "--dry_run"])

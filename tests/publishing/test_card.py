"""The model card: what it says about a run, and about a model without one."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from babyllm.config import parse, to_dict
from babyllm.errors import UserError
from babyllm.publishing.card import CardOptions, write_card
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.stages.preference.classifier_config import ClassifierConfig
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.preference.reward_config import RewardConfig


def card(target: Path) -> tuple[dict[str, Any], str]:
    """The header of a folder's card, and its text."""
    _, header, text = (target / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), text


def test_a_card_reports_what_the_files_of_a_run_say(written_run: Path, tmp_path: Path, token_dir: Path) -> None:
    """Header, data, shape, figures up to the step, command, machine and curve come from files, without folders."""
    write_card(tmp_path, written_run, CardOptions(license="mit", tags=["tiny"]), name="me/model")
    header, text = card(tmp_path)
    assert header == {
        "license": "mit",
        "language": ["zh"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["babyllm", "tiny"],
    }
    shards = json.loads((token_dir / "manifest.json").read_text())["shards"]
    tokens = sum(s["tokens"] for s in shards if (s["domain"], s["split"]) == ("news", "train"))
    assert "| news | train | " in text and f"| {tokens:,} |" in text
    assert "| news | 2.8000 |  |" in text and "| all | 2.5000 | 5.5000 |" in text
    assert "| training loss (nats per token) | 4.0000 |" in text
    assert "| tokens | 5,000 |" in text and "| time in training steps | 50 s |" in text
    assert "babyllm pretrain \\\n" in text and "  --plan.steps=40" in text
    assert r"| processor | A processor \| of ours |" in text and "GPUs" not in text and "| system | odd ? |" in text
    assert "| layers | 2 |" in text and "中文简介" in text and "hf download me/model --local-dir model" in text
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert str(written_run.parent) not in text and str(token_dir) not in text


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("sft", FineTuneConfig),
        ("reward", RewardConfig),
        ("classifier", ClassifierConfig),
        ("dpo", DpoConfig),
        ("ppo", PpoConfig),
        ("grpo", GrpoConfig),
    ],
)
def test_a_card_names_the_command_of_every_stage(run_copy: Path, tmp_path: Path, command: str, kind: type) -> None:
    """With the values that differ from its defaults."""
    (run_copy / "config.yaml").write_text(yaml.safe_dump(to_dict(parse(kind, ["--plan.steps=7"], prog="test"))))
    write_card(tmp_path, run_copy)
    assert f"babyllm {command} \\\n  --plan.steps=7\n" in card(tmp_path)[1]


def test_a_model_without_a_run_has_a_card_without_the_sections_of_one(foreign: Path) -> None:
    """The card of a directory from elsewhere has its shape and how to load it, and no curve; ModelScope's keys too."""
    write_card(foreign, foreign, hub="modelscope", name="me/model")
    header, text = card(foreign)
    assert "license" not in header and "language" not in header
    assert header["tasks"] == ["text-generation"] and header["frameworks"] == ["Pytorch"]
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Use", "## Shape"] and not (foreign / "curve.png").exists()
    assert "modelscope download --model me/model" in text and "AutoModelForCausalLM" in text


def test_a_card_explains_the_files_it_lies_beside(written_run: Path, tmp_path: Path) -> None:
    """In a folder of GGUF files the card names llama.cpp, and ollama where there is a Modelfile, not transformers."""
    (tmp_path / "model-q8_0.gguf").write_bytes(b"GGUF")
    write_card(tmp_path, written_run)
    header, text = card(tmp_path)
    assert header["library_name"] == "gguf" and "gguf" in header["tags"]
    assert "llama-cli -m " in text and "ollama" not in text and "AutoModel" not in text
    assert "## Results" in text
    (tmp_path / "Modelfile").write_text("FROM ./model-q8_0.gguf\n")
    write_card(tmp_path, written_run)
    assert "ollama create " in card(tmp_path)[1]


@pytest.mark.parametrize("name", ["environment.json", "config.yaml", "metrics.jsonl"])
def test_a_card_leaves_out_what_is_missing_and_names_what_is_damaged(run_copy: Path, tmp_path: Path, name: str) -> None:
    """A file of the run that is missing costs its section; one that cannot be read is an error with its name."""
    (run_copy / name).write_text("[not\nwhat it was\n")
    with pytest.raises(UserError, match=name):
        write_card(tmp_path, run_copy)
    assert not (tmp_path / "README.md").exists()
    (run_copy / name).unlink()
    write_card(tmp_path, run_copy)
    assert "## Shape" in card(tmp_path)[1]

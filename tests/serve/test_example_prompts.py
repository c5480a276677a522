"""Examples of what a model can be asked, from the conversations that its run held out."""

import json
from pathlib import Path

from model_fixtures import Tiny
from serve_fixtures import serving, talkative

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.interop.huggingface import save_model
from babyllm.prepare.conversations import prepare_conversations
from babyllm.serve.example_prompts import MAX_CHARACTERS
from babyllm.serve.served_model import load_served_model

TASKS = {"sum": ["2 + 3 = ?", "5 + 1 = ?"], "say": ["写一条好评。", "long " * MAX_CHARACTERS]}


def run_of(run_dir: Path, model_config: object, template: ChatTemplate, held_out: bool = True) -> Path:
    """A run directory with a model of that shape, and conversations of which some are held out."""
    step = run_dir / "step_00000001"
    step.mkdir(parents=True)
    save_model(step, talkative(model_config), template.tokenizer)  # type: ignore[arg-type]
    template.tokenizer.save(step, chat_template=template.source)
    files = {}
    for name in ("train", "held_out"):
        files[name] = run_dir / f"{name}.jsonl"
        records = [
            {"task": task, "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}] * 2}
            for task, texts in TASKS.items()
            for text in (texts if name == "held_out" else ["trained on"])
        ]
        files[name].write_text("".join(f"{json.dumps(one)}\n" for one in records), encoding="utf-8")
    prepare_conversations(
        [files["train"]],
        run_dir / "conversations",
        template,
        FormatConfig(),
        seq_len=2048,
        supervise=Supervise(),
        held_out=0.0,
        held_out_paths=[files["held_out"]] if held_out else [],
    )
    return run_dir


def examples(directory: Path) -> tuple[str, ...]:
    return load_served_model(str(directory), None, None)[1].examples


def test_examples_are_held_out_first_messages(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """They are whole and short, evenly of all tasks, the same each time, and part of /v1/models."""
    run_dir = run_of(tmp_path / "sft", tiny(), template)
    found = examples(run_dir)
    assert set(found) == {"2 + 3 = ?", "5 + 1 = ?", "写一条好评。"}
    assert "写一条好评。" in found[:2] and examples(run_dir / "step_00000001") == found
    with serving(lambda: load_served_model(str(run_dir), None, None)) as server:
        assert server.get("/v1/models").json()["babyllm"]["examples"] == list(found)


def test_a_later_stage_has_the_examples_of_the_run_it_began_with(
    tmp_path: Path, tiny: Tiny, template: ChatTemplate
) -> None:
    """A run without conversations names the run it began with, which is found where the tree of runs lies now."""
    run_of(tmp_path / "sft", tiny(), template)
    later = run_of(tmp_path / "grpo", tiny(), template, held_out=False)
    assert examples(later) == ()
    (later / "config.yaml").write_text("run_dir: runs/grpo\ninit_from: /elsewhere/runs/sft\n", encoding="utf-8")
    assert "写一条好评。" in examples(later)
    (later / "config.yaml").write_text("run_dir: runs/grpo\ninit_from: grpo\n", encoding="utf-8")
    assert examples(later) == ()


def test_a_model_is_served_without_examples(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """Without whole conversations of the model's tokenizer a model is served all the same."""
    run_dir = run_of(tmp_path / "sft", tiny(), template)
    manifest = run_dir / "conversations" / "conversations.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("tokenizer_sha256", "tokenizer"), encoding="utf-8")
    assert examples(run_dir) == ()
    (run_dir / "conversations" / "ids.bin").unlink()
    assert examples(run_dir) == ()

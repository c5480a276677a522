"""Stages after pretraining whose model is divided: steps, held-out results and exact resuming."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from policy_run_fixtures import PATTERN, write_prompts
from training_fixtures import Worker

from babyllm.data.rows.references import MARK
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer
from tests.parallel.stage_jobs import MIDDLE, N_STEPS

DEVICE = ("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--plan.peak_lr=0.003")
PAIRS = ("--data.path={pairs}", "--data.held_out=0.2", "--data.template=plain", "--data.work.workers=1")
POLICY = (
    *("--data.path={prompts}", "--data.template=chatml", "--data.max_new_tokens=6", "--data.max_prompt=26"),
    *("--data.held_out=4", "--rollout.epochs=2", "--reward.functions={format: 1}", f"--reward.pattern={PATTERN}"),
)
PTX = ("--ptx.path={tokens}", "--ptx.weight=0.5", "--ptx.rows=8", "--ptx.seq_len=24")
RUNS: dict[str, tuple[str, ...]] = {
    "sft": ("sft", "--data.path={chats}", "--data.held_out=4", "--data.template=plain", "--data.work.workers=1"),
    "reward model": ("reward", *PAIRS),
    "classifier": ("classifier", "--data.path={labels}", "--data.held_out=8"),
    "dpo": ("dpo", *PAIRS),
    "dpo, adapter off": ("dpo", *PAIRS, "--lora.rank=3", "--reference=adapter_off"),
    "kto": ("dpo", *PAIRS, "--loss.name=kto"),
    "grpo": (
        *("grpo", *POLICY, "--rollout.group=4", "--loss.kl.coefficient=0.01", "--loss.kl.place=loss"),
        "--parallel.reading=layers",
    ),
    "grpo, ptx": ("grpo", *POLICY, *PTX, "--rollout.group=4"),
    "ppo, two models": ("ppo", *POLICY, *PTX, "--critic.of=own"),
    "ppo, one trunk": ("ppo", *POLICY, *PTX, "--critic.of=trunk", "--lora.rank=3", "--parallel.reading=layers"),
}


def write(file: Path, records: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def runs(
    worker: Worker,
    tokenizer: Tokenizer,
    tiny: Callable[..., ModelConfig],
    token_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[int, Path]:
    """The folder of each number of ranks, with all runs."""
    root = tmp_path_factory.mktemp("stages")
    (root / "base").mkdir()
    torch.manual_seed(1)
    model = Transformer(tiny(max_seq_len=64))
    with torch.no_grad():
        model.embed_tokens.weight.mul_(10)
    save_model(root / "base", model, tokenizer)
    questions = ["abcdefgh"[i % 8] * (1 + i // 8) for i in range(24)]
    talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": q.upper()}] for q in questions]
    places = {
        "prompts": write_prompts(root / "prompts.jsonl"),
        "pairs": write(
            root / "pairs.jsonl", [{"prompt": q, "chosen": q + "a", "rejected": q + "b"} for q in questions]
        ),
        "chats": write(root / "chats.jsonl", [{"messages": talk} for talk in talks]),
        "labels": write(root / "labels.jsonl", [{"text": q, "label": "ab"[i % 2]} for i, q in enumerate(questions)]),
    }
    worker.load("tests.parallel.stage_jobs")
    folders = {ranks: root / str(ranks) for ranks in (1, 2)}
    for ranks, folder in folders.items():
        sizes = ("--data.seq_len=32", "--data.global_batch=16", f"--data.micro_batch={8 // ranks}")
        how = (f"--init_from={root / 'base'}", *sizes, *DEVICE, *(("--parallel.shard=zero3",) if ranks > 1 else ()))
        jobs: dict[str, list[str]] = {}
        for name, (stage, *arguments) in RUNS.items():
            (folder / name).mkdir(parents=True)
            filled = [fill(argument, places | {"tokens": token_dir}) for argument in arguments]
            jobs[str(folder / name)] = [stage, *filled, *how]
        worker.run("stage_runs", ranks=ranks, runs=jobs)
    return folders


def fill(argument: str, places: dict[str, Path]) -> str:
    """An argument with the paths that it names."""
    for name, path in places.items():
        argument = argument.replace(f"{{{name}}}", str(path))
    return argument


@pytest.mark.parametrize("name", RUNS)
def test_a_divided_stage_is_one_process(runs: dict[int, Path], name: str) -> None:
    """Three steps and the held-out results of a stage on two ranks under zero3 have the numbers of one process."""
    one, two = (json.loads((runs[ranks] / name / "seen.json").read_text())[0] for ranks in (1, 2))
    assert len(one) == len(two) == N_STEPS + 1 and (one[-1] or name == "kto")
    for mine, theirs in zip(two, one, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4, rel=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_a_divided_stage_resumes_to_the_bit(runs: dict[int, Path], name: str) -> None:
    """From its second step a stage goes on to the same metrics, held-out results and files."""
    straight, resumed = json.loads((runs[2] / name / "seen.json").read_text())
    assert resumed == straight[MIDDLE:]
    last = [runs[2] / name / which / f"step_{N_STEPS:08d}" for which in ("straight", "resumed")]
    files = [{p.relative_to(step): p.read_bytes() for p in step.rglob("*") if p.is_file()} for step in last]
    assert files[0] == files[1]


def test_a_reference_is_known_by_all_weights(runs: dict[int, Path]) -> None:
    """What marks the stored reference of a divided model is the hash that one process takes of its starting model."""
    marks = [json.loads(next((runs[n] / "dpo" / "run").rglob(MARK)).read_text()) for n in (1, 2)]
    assert marks[0] == marks[1] and len(marks[0]["model"]) == 64

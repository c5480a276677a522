"""Stages after pretraining whose model is divided: steps, held-out results and exact resuming."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from policy_run_fixtures import PATTERN, write_prompts
from training_fixtures import Worker

from babyllm.data.rows.references import MARK
from babyllm.interop.open_model import fill_directory, in_memory
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer
from tests.parallel.selection import asked_for, chosen
from tests.parallel.stage_jobs import MIDDLE, N_STEPS

DEVICE = ("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--plan.peak_lr=0.003")
PAIRS = ("--data.path={pairs}", "--data.held_out=0.2", "--data.template=plain", "--data.work.workers=1")
POLICY = (
    *("--data.path={prompts}", "--data.template=chatml", "--data.max_new_tokens=6", "--data.max_prompt=26"),
    *("--data.held_out=4", "--rollout.epochs=2", "--reward.functions={format: 1}", f"--reward.pattern={PATTERN}"),
)
PTX = ("--ptx.path={tokens}", "--ptx.weight=0.5", "--ptx.rows=8", "--ptx.seq_len=24")
CHATS = ("--data.path={chats}", "--data.held_out=4", "--data.work.workers=1", "--samples=1")
LORA = ("sft", *CHATS, "--data.template=chatml", "--lora.rank=3")
RUNS: dict[str, tuple[str, ...]] = {
    "sft": ("sft", *CHATS, "--data.template=plain"),
    "lora, none": (*LORA, "--lora.base=bfloat16"),
    "lora, zero2": LORA,
    "lora, zero3": (*LORA, "--lora.base=nf4", "--lora.double_quant=true"),
    "lora, hybrid": (*LORA, "--lora.base=int8"),
    "lora, offload": (*LORA, "--lora.targets=[q_proj, lm_head]"),
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
    "sft, packed": ("sft", *CHATS, "--data.template=plain", "--data.pack=true"),
    "dpo, split rows": ("dpo", *PAIRS),
}
SPLIT = ("sft, packed", "dpo, split rows")  # among two ranks by rows, the others by weights
DIVIDED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SPLIT, ("--parallel.context=2",)),
    "lora, none": (),
    "lora, zero2": ("--parallel.shard=zero2",),
    "lora, hybrid": ("--parallel.shard=hybrid", "--parallel.shard_ranks=2"),
    "lora, offload": ("--parallel.shard=zero3", "--parallel.offload=all"),
}
FIRST = (
    *("sft", "lora, none", "lora, zero2", "lora, zero3", "lora, hybrid", "lora, offload", "reward model", "dpo"),
    *("grpo", "ppo, two models", "sft, packed"),
)
RESUMED_FIRST = ("lora, zero3", "dpo", "grpo", "ppo, two models")
READ = {
    "read": ("--data.template=plain",),
    "read, int8": ("--data.template=plain", "--lora.rank=2", "--lora.base=int8"),
}


RESUMING = "test_a_divided_stage_resumes_to_the_bit"


def write(file: Path, records: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest,
    worker: Worker,
    tokenizer: Tokenizer,
    tiny: Callable[..., ModelConfig],
    token_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[int, Path]:
    """The folder of each number of ranks, with the runs of the tests that were chosen."""
    wanted, again = asked_for(request, "name"), asked_for(request, "name", RESUMING)
    root = tmp_path_factory.mktemp("stages")
    for name, n_layers in {"base": 2, "deep": 12}.items():
        torch.manual_seed(1)
        model = Transformer(tiny(max_seq_len=64, n_layers=n_layers))
        with torch.no_grad():
            model.embed_tokens.weight.mul_(10)
        (root / name).mkdir()
        fill_directory(in_memory(model, tokenizer), root / name, "bfloat16", shard_bytes=20_000)
        assert len(list((root / name).glob("model-*.safetensors"))) > 1
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
        jobs: dict[int, dict[str, list[str]]] = {1: {}, 2: {}}
        reads = {name: ("read", *CHATS, *more) for name, more in READ.items()} if ranks > 1 else {}
        runs = {name: arguments for name, arguments in RUNS.items() if name in wanted}
        for name, (stage, *arguments) in {**runs, **reads}.items():
            (folder / name).mkdir(parents=True)
            filled = [fill(argument, places | {"tokens": token_dir}) for argument in arguments]
            how = DIVIDED.get(name, ("--parallel.shard=zero3",)) if ranks > 1 else ()
            base = root / ("deep" if stage == "read" else "base")
            context = 2 if name in SPLIT and ranks > 1 else 1
            jobs[context][str(folder / name)] = [stage, *filled, *sizes, *DEVICE, *how, f"--init_from={base}"]
        resumed = [str(folder / name) for name in again] if ranks > 1 else []
        for context in (context for context in jobs if jobs[context]):
            worker.run("stage_runs", ranks=ranks, runs=jobs[context], resumed=resumed, context=context)
    return folders


def fill(argument: str, places: dict[str, Path]) -> str:
    """An argument with the paths that it names."""
    for name, path in places.items():
        argument = argument.replace(f"{{{name}}}", str(path))
    return argument


@pytest.mark.parametrize("name", chosen(list(RUNS), FIRST))
def test_a_divided_stage_is_one_process(runs: dict[int, Path], name: str) -> None:
    """Three steps and the held-out results of a stage on two ranks have the numbers of one process, LoRA in each mode.

    Both read weights in 16 bits from several files.
    """
    one, two = (json.loads((runs[ranks] / name / "seen.json").read_text())[0] for ranks in (1, 2))
    assert len(one) == len(two) == N_STEPS + 1 and (one[-1] or name == "kto")
    for mine, theirs in zip(two, one, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4, rel=1e-3)


@pytest.mark.parametrize("name", chosen(list(RUNS), RESUMED_FIRST))
def test_a_divided_stage_resumes_to_the_bit(runs: dict[int, Path], name: str) -> None:
    """From its second step a stage goes on to the same metrics, held-out results and files."""
    straight, resumed = json.loads((runs[2] / name / "seen.json").read_text())
    assert resumed == straight[MIDDLE:]
    last = [runs[2] / name / which / f"step_{N_STEPS:08d}" for which in ("straight", "resumed")]
    files = [{p.relative_to(step): p.read_bytes() for p in step.rglob("*") if p.is_file()} for step in last]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", chosen([name for name in RUNS if name not in ("lora, none", *SPLIT)], FIRST))
def test_a_rank_holds_its_rows(runs: dict[int, Path], name: str) -> None:
    """After loading a rank holds its half of the rows of each parameter, quantised or not, and ids as a whole."""
    of_ranks = [json.loads((runs[2] / name / f"{rank}.json").read_text())[0] for rank in range(2)]
    for rank, held in enumerate(of_ranks):
        for parameter, ((*shape,), n_bytes, itemsize) in held.items():
            rows = shape[0] if parameter.endswith("token_ids") else shape[0] // 2 if rank else -(-shape[0] // 2)
            assert n_bytes == rows * math.prod(shape[1:]) * itemsize, parameter


def test_reading_takes_the_share_and_one_layer(runs: dict[int, Path]) -> None:
    """A rank never has more float32 than its share, a tenth of that and the largest weight; of a base in int8 less."""
    for name in READ:
        held, most = json.loads((runs[2] / name / "0.json").read_text())
        share = sum(n_bytes for _, n_bytes, itemsize in held.values() if itemsize == 4)
        largest = max(math.prod(shape) * 4 for shape, _, _ in held.values())
        assert share <= most <= 1.1 * share + largest
        assert share < sum(math.prod(shape) for shape, _, _ in held.values()) * 4 * (0.55 if name == "read" else 0.25)


def test_a_reference_is_known_by_all_weights(runs: dict[int, Path]) -> None:
    """What marks the stored reference of a divided model is the hash that one process takes of its starting model."""
    marks = [json.loads(next((runs[n] / "dpo" / "run").rglob(MARK)).read_text()) for n in (1, 2)]
    assert marks[0] == marks[1] and len(marks[0]["model"]) == 64

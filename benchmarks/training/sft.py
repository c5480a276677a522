"""Tokens/s of supervised fine-tuning: babyllm beside trl's SFTTrainer, one conversation a row and packed.

    python -m benchmarks.training.sft [--rounds 5] [--steps 4]

All train the same Llama (6 layers, width 256) on the conversations of the sample set, rendered by the same ChatML
template, 16 rows a step, at most `SEQ_LEN` tokens a row, fused AdamW, clipping. They take turns of a few steps. What
counts is tokens of conversations: padding does not. babyllm trains on the answers alone; trl on all tokens, which is
its default and costs it nothing more. At its best settings here: rows of like lengths in a batch; packed rows cut at
`SEQ_LEN`, whose conversations see each other, while babyllm's packed rows keep them whole and apart.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import figures, turns

MODULE = "benchmarks.training.sft"
SEQ_LEN, BATCH = 256, 16
CONTESTANTS = ("babyllm", "babyllm packed", "trl", "trl packed")


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps per turn")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = figures.parse(parser, rounds=1, steps=1)
    if args.worker:
        name, folder = args.worker
        work = _babyllm if name.startswith("babyllm") else _trl
        work(Path(folder), args.steps, name.endswith("packed"))
        return
    from importlib.util import find_spec

    names = [name for name in CONTESTANTS if find_spec("trl") or not name.startswith("trl")]
    if len(names) < len(CONTESTANTS):
        print("left out: trl is not installed")
    with tempfile.TemporaryDirectory() as folder:
        _begin(Path(folder))
        flags = ["-m", MODULE, f"--steps={args.steps}", "--worker"]
        workers = {name: turns.start(*flags, name, folder) for name in names}
        answers = turns.take_turns(workers, args.rounds)
    rates = {name: [turn["tokens"] / turn["seconds"] for turn in of_name[1:]] for name, of_name in answers.items()}
    figures.write(args, _report(rates))


def _report(rates: dict[str, list[float]]) -> list[figures.Figure]:
    measured = []
    for name, of_name in rates.items():
        print(f"{name:16}{figures.spread(of_name, 0):>32} tokens/s", flush=True)
        measured.append(figures.Figure(f"fine-tuning, {name}", median(of_name), "tokens/s"))
    for kind in ("", " packed"):
        if f"trl{kind}" in rates:
            ratios = [a / b for a, b in zip(rates[f"babyllm{kind}"], rates[f"trl{kind}"], strict=True)]
            print(f"babyllm{kind} over trl{kind}: {figures.spread(ratios)}")
            measured.append(figures.Figure(f"fine-tuning, babyllm{kind} over trl{kind}", median(ratios), "ratio"))
    return measured


def _begin(folder: Path) -> None:
    """A model with random weights, the tokenizer of the sample corpus and a ChatML template."""
    from babyllm.chat.load import load_template
    from babyllm.interop.huggingface import save_model
    from babyllm.model.options import ModelOptions
    from babyllm.model.transformer import Transformer
    from babyllm.recipes.sample_sft import prepare_sft_sample
    from babyllm.tokenizer import Tokenizer

    files = figures.sample("")
    prepare_sft_sample("data/sample_sft/train.jsonl")
    template = load_template("chatml", Tokenizer.load(files), files)
    shape = ModelOptions("tiny", vocab_size=template.tokenizer.vocab_size).build(seq_len=SEQ_LEN)
    (folder / "model").mkdir()
    save_model(
        folder / "model",
        Transformer(shape),
        template.tokenizer,
        chat_template=template.source,
        end_ids=template.end_ids,
    )


def _babyllm(folder: Path, steps: int, is_packed: bool) -> None:
    import babyllm
    from babyllm.data.conversation_config import ConversationConfig
    from babyllm.objectives.conversation import conversation_loss
    from babyllm.parallel.forms import choose_forms
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.training.stages.fine_tuning import new_run
    from babyllm.training.stages.fine_tuning_config import FineTuneConfig

    data = ConversationConfig(
        path="data/sample_sft/train.jsonl", seq_len=SEQ_LEN, global_batch=BATCH, micro_batch=BATCH, pack=is_packed
    )
    run_dir = folder / ("packed" if is_packed else "run")
    config = FineTuneConfig(run_dir=str(run_dir), init_from=str(folder / "model"), data=data)
    with start(RuntimeConfig(device="cpu", compile=False)) as runtime:
        tuning = new_run(config, runtime)
        state, loss = tuning.state, conversation_loss("token", tuning.data.tasks, is_packed)
        choose_forms(state.model, runtime, SEQ_LEN)

        def turn() -> turns.Answer:
            began, before = time.perf_counter(), state.tokens
            babyllm.train(state, loss, babyllm.Plan(steps=state.step + steps))
            return {"seconds": time.perf_counter() - began, "tokens": state.tokens - before}

        turns.serve(turn)


def _trl(folder: Path, steps: int, is_packed: bool) -> None:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    go, done, n_tokens = threading.Semaphore(0), threading.Semaphore(0), 0

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            go.acquire()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            done.release()

    def counting(collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def collated(rows: list[dict[str, Any]]) -> Any:
            nonlocal n_tokens
            n_tokens += sum(len(row["input_ids"]) for row in rows)
            return collate(rows)

        return collated

    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        max_steps=1_000_000,
        max_length=SEQ_LEN,
        packing=is_packed,
        packing_strategy="wrapped",  # the other one needs flash attention to be fast
        train_sampling_strategy="group_by_length",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        optim="adamw_torch_fused",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="sdpa"),
        args=config,
        train_dataset=datasets.load_dataset("json", data_files="data/sample_sft/train.jsonl", split="train"),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Turns()],
    )
    trainer.data_collator = counting(trainer.data_collator)
    threading.Thread(target=trainer.train, daemon=True).start()

    def turn() -> turns.Answer:
        began, before = time.perf_counter(), n_tokens
        for _ in range(steps):
            go.release()
            done.acquire()
        return {"seconds": time.perf_counter() - began, "tokens": n_tokens - before}

    turns.serve(turn)


if __name__ == "__main__":
    main()

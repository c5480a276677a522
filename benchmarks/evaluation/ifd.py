"""Tokens per second of scoring IFD, beside an evaluation of the same conversations.

    python -m benchmarks.evaluation.ifd [--model DIRECTORY] [--conversations 150] [--rounds 5] [--threads 2]

Both begin with conversations and render them. The evaluation (`babyllm eval --data`) reads each once; IFD reads each
once and its answers alone a second time, in the same batches sorted by length. Tokens are those of all rows, without
padding. They take turns in one process. The conversations lie in the folder sft of BABYLLM_DATA. Without `--model` the
weights are random: 6 layers of width 256, a context of 1,024, and a vocabulary of 8,000 trained on the conversations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import figures

if TYPE_CHECKING:
    from babyllm.chat.load import ChatTemplate
    from babyllm.chat.messages import Conversation
    from babyllm.model.transformer import Transformer
    from babyllm.runtime import Runtime

FILES = ("alpaca_zh_demo.json", "alpaca_en_demo.json", "sharegpt_zh_1k.jsonl")


class Timed(NamedTuple):
    """The seconds of a turn, and those of all processors."""

    wall: float
    cpu: float


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--model", help="directory of a chat model, or of a base model whose vocabulary has ChatML's")
    parser.add_argument("--conversations", type=int, default=150, help="number of conversations, a third of each file")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each")
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    args = figures.parse(parser, conversations=30, rounds=1)
    folder = Path(os.environ.get("BABYLLM_DATA", "data"), "sft")
    if not all((folder / name).is_file() for name in FILES):
        figures.skip(f"set BABYLLM_DATA to a folder with sft/{', sft/'.join(FILES)}")
    from babyllm.runtime import RuntimeConfig, start

    with start(RuntimeConfig(device="cpu", dtype="float32", threads=args.threads)) as runtime:
        conversations = _conversations(folder, 4 * args.conversations)
        model, template = _model(args.model, conversations)
        fitting = _fitting(conversations, template, model.config.max_seq_len)
        chosen = fitting[:: max(1, len(fitting) // args.conversations)][: args.conversations]
        measured = _measure(model, template, chosen, runtime, args.rounds)
    for name, value, unit in measured:
        print(f"{name:56} {value:10.3f} {unit}")
    figures.write(args, measured)


def _conversations(folder: Path, n: int) -> list[Conversation]:
    """The first conversations of each file."""
    from itertools import islice

    from babyllm.chat.formats import FormatConfig
    from babyllm.chat.messages import Conversation
    from babyllm.chat.reading import read_conversations

    files = [read_conversations(folder / name, FormatConfig()) for name in FILES]
    found = [islice((one for one in file if isinstance(one, Conversation)), n // len(FILES)) for file in files]
    return [conversation for some in found for conversation in some]


def _model(directory: str | None, conversations: Sequence[Conversation]) -> tuple[Transformer, ChatTemplate]:
    import torch

    from babyllm.chat.load import load_template
    from babyllm.loading import load
    from babyllm.model.config import ModelConfig
    from babyllm.model.transformer import Transformer
    from babyllm.tokenizer import Tokenizer

    if directory:
        model, tokenizer = load(directory)
        return model, load_template("chatml", tokenizer)
    texts = [message.content for conversation in conversations for message in conversation.messages]
    template = load_template("chatml", Tokenizer.train(texts, 8000, n_threads=1))
    size = template.tokenizer.vocab_size
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=size, n_layers=6, d_model=256, n_heads=8, n_kv_heads=8, max_seq_len=1024)
    return Transformer(shape).eval(), template


def _fitting(conversations: Sequence[Conversation], template: ChatTemplate, context: int) -> list[Conversation]:
    """The conversations that the model can read as a whole, so that both score the same tokens."""
    from babyllm.chat.messages import Unusable
    from babyllm.selection.scorers.answer_rows import answer_rows

    found = []
    for conversation in conversations:
        try:
            answer_rows(template, conversation, context)
        except Unusable:
            continue
        found.append(conversation)
    return found


def _measure(
    model: Transformer, template: ChatTemplate, conversations: Sequence[Conversation], runtime: Runtime, rounds: int
) -> list[figures.Figure]:
    from babyllm.evaluate.conversations.by_task import measure
    from babyllm.evaluate.conversations.samples import samples_of
    from babyllm.selection.scorers.answer_losses import AnswerLosses
    from babyllm.selection.scorers.answer_rows import answer_rows
    from babyllm.selection.scorers.scored_batches import score_conversations

    context = model.config.max_seq_len
    scorer = AnswerLosses(model, template, runtime=runtime)

    def evaluate() -> None:
        measure(model, samples_of(template, conversations, context), {}, runtime)

    def score() -> None:
        for scored in score_conversations(conversations, scorer):
            assert not any(scored.scores.reasons)

    rows = [answer_rows(template, conversation, context) for conversation in conversations]
    n_read = sum(len(row.conditioned.ids) - 1 for row in rows)
    n_scored = n_read + sum(len(direct.ids) - 1 for row in rows for direct in row.direct)
    evaluate()
    score()  # both are warm
    turns = [(_timed(evaluate), _timed(score)) for _ in range(rounds)]
    wall = [(n_read / theirs.wall, n_scored / ours.wall) for theirs, ours in turns]
    ratios = [ours / theirs for theirs, ours in wall]
    by_cpu = [n_scored / ours.cpu / (n_read / theirs.cpu) for theirs, ours in turns]
    print(
        f"IFD's token rate over an evaluation's: {figures.spread(ratios)}; by processor time {figures.spread(by_cpu)}"
    )
    return [
        figures.Figure("conversations", len(conversations), "conversations"),
        figures.Figure("tokens of an evaluation", n_read, "tokens"),
        figures.Figure("tokens of IFD", n_scored, "tokens"),
        figures.Figure("evaluation", median(rate for rate, _ in wall), "tokens/s"),
        figures.Figure("IFD", median(rate for _, rate in wall), "tokens/s"),
        figures.Figure("token rate of IFD over that of an evaluation", median(ratios), "ratio"),
        figures.Figure("the same by processor time", median(by_cpu), "ratio"),
    ]


def _timed(work: Callable[[], None]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()

"""Measure a model: loss and accuracy on conversations, or bits per byte on token data."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllm.chat.formats import FormatConfig
from babyllm.commands import read_as_chosen
from babyllm.config.values import AnyCount, Count, Members, PathText, Seed
from babyllm.errors import UserError
from babyllm.run_directory import CONFIG
from babyllm.runtime import Runtime, RuntimeConfig, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babyllm.chat.load import ChatTemplate
    from babyllm.evaluate.answers import Answer, Sample
    from babyllm.evaluate.carry_over import Greedy, Measured
    from babyllm.model.transformer import Transformer
    from babyllm.store.conversations import ConversationStore

ARGUMENTS = "RUN_DIR"
REASONS = 5  # that are told of records that could not be used, the most frequent first
STORE, MANIFEST = "conversations", "manifest.json"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm eval`.

    Attributes:
        data: what to evaluate on: files or folders of conversations, or a directory of token data; null takes what the
            run held out.
        fit: compare greedy answers and losses on training and held-out conversations, and show some of both.
        n: conversations of each split that are drawn for fit.
        examples: of them to show.
        characters: of a text to show.
        seed: of the drawing.
        max_new_tokens: of a greedy answer; more where the expected one is longer.
        seq_len: of token data; null takes the run's, else the model's.
        max_tokens: of token data, per domain; null reads all.
        batch_tokens: per forward pass.
        json: file to write the numbers to.
        format: how records become conversations.
        int8: hold all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    data: PathText | list[PathText] | None = None
    fit: bool = False
    n: Count = 40
    examples: AnyCount = 3
    characters: AnyCount = 200
    seed: Seed = 0
    max_new_tokens: AnyCount = 128
    seq_len: Members | None = None
    max_tokens: Count | None = None
    batch_tokens: Count = 8192
    json: PathText | None = None
    format: FormatConfig = field(default_factory=FormatConfig)
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str) -> None:
    """Evaluate the model of a run, step or Hugging Face directory and print a table."""
    from babyllm.files import write_json
    from babyllm.pipeline.report import print_report

    report = evaluated(flags, directory)
    if report is None:
        return
    print_report(report)
    for group in report.get("examples", []):
        print(f"\n{group['title']}")
        for item in group["items"]:
            print(f"  {item['label']}")
            for text in item["texts"]:
                print(f"    {text}")
    if flags.json:
        try:
            write_json(Path(flags.json), report)
        except OSError as error:
            raise UserError(f"--json: {flags.json} cannot be written ({error.strerror})") from error


def evaluated(flags: Flags, directory: str) -> dict[str, Any] | None:
    """The report on the model of a run, step or Hugging Face directory; None on ranks other than 0.

    Raises:
        UserError: names the file or flag at fault.
        KeyboardInterrupt: a stop signal came.
    """
    place = Path(directory)
    home = next((p for p in (place, place.parent) if (p / STORE).is_dir() or (p / CONFIG).is_file()), place)
    paths = [Path(p) for p in ([flags.data] if isinstance(flags.data, str) else flags.data or [])]
    with start(flags.runtime) as runtime, read_as_chosen(runtime):
        if paths and (paths[0] / MANIFEST).is_file():
            report = _on_tokens(flags, directory, paths[0], flags.seq_len, runtime)
        elif paths or (home / STORE).is_dir():
            report = _on_conversations(flags, directory, home / STORE, paths, runtime)
        else:
            report = _on_run_tokens(flags, directory, home, runtime)
        if runtime.stop_requested:
            raise KeyboardInterrupt
        return report if runtime.is_main else None


# ---- token data


def _on_run_tokens(flags: Flags, directory: str, home: Path, runtime: Runtime) -> dict[str, Any]:
    from babyllm.config import load
    from babyllm.training.stages.pretraining import PREPARED, TOKENS
    from babyllm.training.stages.pretraining_config import PretrainConfig

    if not (home / CONFIG).is_file():
        raise UserError(f"{directory}: no run directory, so it names no data; give some with --data")
    data, prepared = load(PretrainConfig, home / CONFIG).data, home / PREPARED / TOKENS
    path = prepared if (prepared / MANIFEST).is_file() else Path(data.path)  # of raw texts the run holds the tokens
    return _on_tokens(flags, directory, path, flags.seq_len or data.seq_len, runtime, data.dtype, data.eos_id)


def _on_tokens(
    flags: Flags, directory: str, path: Path, seq_len: int | None, runtime: Runtime, dtype: str = "auto", eos: int = 2
) -> dict[str, Any]:
    """Loss and bits per byte of the held-out documents, by domain."""
    from babyllm.evaluate.perplexity import perplexity
    from babyllm.loading import load
    from babyllm.store.shards import open_tokens

    if flags.fit:
        raise UserError("--fit: is for conversations; a pretraining run shows both losses in metrics.jsonl")
    model, tokenizer = load(directory, int8=flags.int8)
    vocab_size = model.config.vocab_size
    with runtime.main_first():
        data = open_tokens(path, vocab_size=vocab_size, dtype=dtype, eos_id=eos, to_train=False, check=runtime.is_main)
    if data.manifest.tokenizer_sha256 not in ("", tokenizer.sha256):
        raise UserError(f"{path}: was made with another tokenizer than {directory}'s; tokenise it with that one")
    values = perplexity(
        model.to(runtime.device),
        data,
        runtime,
        seq_len=min(seq_len or model.config.max_seq_len, model.config.max_seq_len),
        max_tokens=flags.max_tokens,
        batch_tokens=flags.batch_tokens,
        token_bytes=tokenizer.byte_lengths(),
    )
    if not values and not runtime.stop_requested:
        raise UserError(f"{path}: holds no held-out documents; tokenise with --held_out above 0")
    domains = [name.removesuffix("/loss") for name in values if name.endswith("/loss")]
    losses = [values[f"{domain}/loss"] for domain in domains]
    rows = [
        [domain, loss, math.exp(min(loss, 700.0)), values.get(f"{domain}/bpb")]
        for domain, loss in zip(domains, losses, strict=True)
    ]
    title = "held-out documents; loss in nats per token"
    table = {"title": title, "columns": ["domain", "loss", "perplexity", "bits per byte"], "rows": rows}
    facts = [["model", directory], ["data", str(path)]]
    return {"title": "Evaluation on text", "facts": facts, "tables": [table], "values": values}


# ---- conversations


def _on_conversations(
    flags: Flags, directory: str, store_dir: Path, paths: Sequence[Path], runtime: Runtime
) -> dict[str, Any]:
    """Loss and accuracy by task on held-out conversations; with `fit`, beside those on training ones."""
    from babyllm.commands.chat import chat_model
    from babyllm.evaluate.answers import closed_in, closed_turns
    from babyllm.store.conversations import ConversationStore

    model, template = chat_model(directory, flags.int8)
    model.to(runtime.device)
    with runtime.main_first():
        store = ConversationStore.open(store_dir, check=runtime.is_main) if store_dir.is_dir() else None
    facts: list[list[Any]] = [["model", directory], ["data", ", ".join(map(str, paths or [store_dir]))]]
    candidates: dict[str, list[Answer]] = {}
    if store:
        if store.manifest.tokenizer_sha256 != template.tokenizer.sha256:
            raise UserError(f"{store_dir}: was made with another tokenizer than {directory}'s; give files with --data")
        candidates = closed_in(store)
    if paths:
        held_out, unused = _read(flags, template, paths, model.config.max_seq_len)
        _require_used(facts[1][1], held_out, unused)
        candidates = closed_turns(held_out) | candidates
        facts.append(["records that could not be used", unused.total()])
        facts += [[f"not used: {reason}", count] for reason, count in unused.most_common(REASONS)]
    else:
        assert store
        held_out = _drawn_from_store(store, "val", None, flags.seed)
    if not held_out:
        raise UserError(f"{facts[1][1]}: holds no held-out conversations; give some with --data")
    if flags.fit:
        if store is None:
            raise UserError(
                f"--fit: {directory} has no training conversations ({store_dir}); it takes the run's directory"
            )
        train = _drawn_from_store(store, "train", flags.n, flags.seed)
        return _fit(flags, model, template, candidates, train, held_out, facts, runtime)
    return _held_out(flags, model, candidates, held_out, facts, runtime)


def _drawn_from_store(store: ConversationStore, split: str, n: int | None, seed: int) -> list[Sample]:
    """`n` conversations of a split, spread over its tasks; all of them for None."""
    from babyllm.evaluate.answers import stored_samples
    from babyllm.evaluate.carry_over import drawn

    spans = {task: store.span(split, task) for task in store.tasks_of(split)}  # type: ignore[arg-type]
    sizes = {task: len(span) for task, span in spans.items()}
    chosen = {t: range(size) for t, size in sizes.items()} if n is None else drawn(sizes, n, seed)
    return stored_samples(store, [spans[task][i] for task, indices in chosen.items() for i in indices])


def _read(
    flags: Flags, template: ChatTemplate, paths: Sequence[Path], max_seq_len: int
) -> tuple[list[Sample], Counter[str]]:
    """The conversations of files, and the records that could not be used, counted by reason."""
    from babyllm.chat.reading import read_conversations
    from babyllm.evaluate.answers import samples_of
    from babyllm.text.readers import Rejected

    records = [record for path in paths for record in read_conversations(path, flags.format, "format")]
    template = template.allowing(flags.format.allow_special)
    unused = Counter(record.reason for record in records if isinstance(record, Rejected))
    samples = samples_of(template, (r for r in records if not isinstance(r, Rejected)), max_seq_len, unused)
    return samples, unused


def _require_used(data: str, held_out: Sequence[Sample], unused: Counter[str]) -> None:
    """Refuse files without a conversation that can be used.

    Raises:
        UserError: says why records could not be.
    """
    if held_out:
        return
    if not unused:
        raise UserError(f"--data: {data} holds no records; give files of conversations")
    why = "; ".join(f"{count:,} x {reason}" for reason, count in unused.most_common(REASONS))
    raise UserError(f"--data: none of the {unused.total():,} records of {data} can be used ({why}); see --format")


def _held_out(
    flags: Flags,
    model: Transformer,
    candidates: dict[str, list[Answer]],
    held_out: list[Sample],
    facts: list[list[Any]],
    runtime: Runtime,
) -> dict[str, Any]:
    from babyllm.evaluate.answers import majority_shares
    from babyllm.evaluate.carry_over import measure

    measured = measure(model, held_out, candidates, runtime, batch_tokens=flags.batch_tokens)
    majority = majority_shares(held_out, candidates)
    rows = [[task, m.n, m.loss, m.accuracy, m.n_answers, m.chance, majority.get(task)] for task, m in measured.items()]
    table = {
        "title": "held-out conversations; loss in nats per supervised token, the others as shares",
        "columns": ["task", "conversations", "loss", "accuracy", "of answers", "chance", "most frequent answer"],
        "rows": rows,
    }
    return {"title": "Evaluation on conversations", "facts": facts, "tables": [table], "values": _values(measured)}


def _fit(
    flags: Flags,
    model: Transformer,
    template: ChatTemplate,
    candidates: dict[str, list[Answer]],
    train: list[Sample],
    held_out: list[Sample],
    facts: list[list[Any]],
    runtime: Runtime,
) -> dict[str, Any]:
    from babyllm.evaluate.carry_over import drawn, greedy_answers, measure, reading, table

    by_task: dict[str, list[Sample]] = {}
    for sample in held_out:
        by_task.setdefault(sample.task, []).append(sample)
    chosen = drawn({task: len(samples) for task, samples in by_task.items()}, flags.n, flags.seed)
    sides = {"training": train, "held-out": [by_task[task][i] for task, indices in chosen.items() for i in indices]}
    measured, examples = {}, []
    for name, samples in sides.items():
        greedy = greedy_answers(
            model,
            template.tokenizer,
            samples,
            template.end_ids,
            runtime,
            max_new_tokens=flags.max_new_tokens,
        )
        measured[name] = measure(model, samples, candidates, runtime, greedy=greedy, batch_tokens=flags.batch_tokens)
        facts.append([f"{name} answers the model ended", f"{sum(g.has_ended for g in greedy)} of {len(greedy)}"])
        examples.append({"title": f"{name} conversations", "items": _examples(greedy, flags)})
    conclusion = reading(measured["training"], measured["held-out"])
    return {
        "title": "Fit to the training set",
        "facts": [*facts, ["reading", conclusion]],
        "tables": [table(measured["training"], measured["held-out"])],
        "examples": examples,
        "values": {name: _values(side) for name, side in measured.items()},
    }


def _examples(greedy: Sequence[Greedy], flags: Flags) -> list[dict[str, Any]]:
    """Some answers, as far apart in the list as can be, so that they are of several tasks."""
    n = min(flags.examples, len(greedy))
    chosen = [greedy[i * len(greedy) // n] for i in range(n)]
    return [
        {
            "label": f"{answer.task}: {'exact' if answer.is_exact else 'other' if answer.has_ended else 'not ended'}",
            "texts": [
                f"prompt    {_end(answer.prompt, flags.characters)!r}",
                f"expected  {_start(answer.expected, flags.characters)!r}",
                f"answered  {_start(answer.answered, flags.characters)!r}",
            ],
        }
        for answer in chosen
    ]


def _start(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _end(text: str, length: int) -> str:
    return text if len(text) <= length else f"...{text[-length:]}"


def _values(measured: dict[str, Measured]) -> dict[str, dict[str, float | None]]:
    return {task: asdict(m) for task, m in measured.items()}

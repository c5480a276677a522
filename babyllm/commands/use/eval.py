"""Measure models: results on tasks, loss and accuracy on conversations, or bits per byte on token data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.chat.formats import FormatConfig
from babyllm.commands import note_base_model, read_as_chosen
from babyllm.config.values import AnyCount, Count, Members, PathText
from babyllm.errors import UserError
from babyllm.evaluate.tasks.options_config import TaskOptions
from babyllm.run_directory import CONFIG
from babyllm.runtime import Runtime, RuntimeConfig, start

if TYPE_CHECKING:
    from babyllm.evaluate.conversations.chat_files import FileSamples
    from babyllm.evaluate.conversations.samples import AnswerIds, Sample
    from babyllm.evaluate.report import Evaluation
    from babyllm.loading import ChatModel
    from babyllm.pipeline.report import Fact
    from babyllm.store.conversations import ConversationStore

ARGUMENTS = "RUN_DIR..."
STORE, MANIFEST = "conversations", "manifest.json"


@dataclass(frozen=True)
class Flags(TaskOptions):
    """Flags of `babyllm eval`.

    Attributes:
        data: data to evaluate on: files or folders of conversations, or a directory of token data; null takes the run's
            held-out data.
        fit: whether to compare greedy answers and losses on training and held-out conversations, and show some of both.
        n: number of conversations of each split that are drawn for fit.
        examples: number of drawn conversations that are shown.
        characters: largest number of characters that are shown of a text.
        max_new_tokens: largest number of tokens of a greedy answer; if the expected answer is longer, its length.
        seq_len: number of tokens of a row of token data; null takes the run's, else the model's.
        max_tokens: number of tokens that are read of each domain of token data; null reads all.
        batch_tokens: number of tokens of a forward pass, including padding.
        all_steps: whether to evaluate all steps of the runs on the tasks, rather than the newest.
        groups: whether to show the results of each group of a task.
        cases: largest number of items that are shown of each task, those that a model got wrong or, with several
            models, those that turned.
        corpus: texts the model was trained on, files and folders in any format that `clean` reads; reports which items
            are in them, and shows the nearest ones beside the cases.
        cache: folder for the responses of models, which are not computed twice; empty takes the user's cache folder,
            null stores nothing.
        json: file to write the numbers to.
        markdown: file to write the tables to, in Markdown.
        html: file to write the tables and examples to, as one page without other files.
        format: settings for reading records as conversations.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    data: PathText | list[PathText] | None = None
    fit: bool = False
    n: Count = 40
    examples: AnyCount = 3
    characters: AnyCount = 200
    max_new_tokens: AnyCount = 128
    seq_len: Members | None = None
    max_tokens: Count | None = None
    batch_tokens: Count = 8192
    all_steps: bool = False
    groups: bool = False
    cases: AnyCount = 0
    corpus: list[PathText] = field(default_factory=list)
    cache: PathText | None = ""
    json: PathText | None = None
    markdown: PathText | None = None
    html: PathText | None = None
    format: FormatConfig = field(default_factory=FormatConfig)
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, *directories: str) -> None:
    """Evaluate the models of run, step or Hugging Face directories and print tables."""
    from babyllm.pipeline.report import print_examples, print_report

    evaluation = evaluated(flags, *directories)
    if evaluation is None:
        return
    print_report(evaluation.report)
    print_examples(evaluation.report)
    _write_files(flags, evaluation)


def evaluated(flags: Flags, *directories: str) -> Evaluation | None:
    """The evaluation of the models of run, step or Hugging Face directories; None on ranks other than 0.

    Raises:
        UserError: a file or flag is at fault; the message names it.
        KeyboardInterrupt: a stop signal arrived.
    """
    if flags.tasks:
        with start(flags.runtime) as runtime, read_as_chosen(runtime):
            evaluation = _on_tasks(flags, directories, runtime)
            return evaluation if runtime.is_main else None
    if len(directories) > 1:
        raise UserError("RUN_DIR: several models are compared on --tasks; name some")
    directory = directories[0]
    place = Path(directory)
    home = next((p for p in (place, place.parent) if (p / STORE).is_dir() or (p / CONFIG).is_file()), place)
    paths = [Path(p) for p in ([flags.data] if isinstance(flags.data, str) else flags.data or [])]
    with start(flags.runtime) as runtime, read_as_chosen(runtime):
        if paths and (paths[0] / MANIFEST).is_file():
            evaluation = _on_tokens(flags, directory, paths[0], flags.seq_len, runtime)
        elif paths or (home / STORE).is_dir():
            evaluation = _on_conversations(flags, directory, home / STORE, paths, runtime)
        else:
            evaluation = _on_run_tokens(flags, directory, home, runtime)
        if runtime.stop_requested:
            raise KeyboardInterrupt
        return evaluation if runtime.is_main else None


def _write_files(flags: Flags, evaluation: Evaluation) -> None:
    from babyllm.files import write_bytes, write_json
    from babyllm.pipeline.report_html import page
    from babyllm.pipeline.report_markdown import as_markdown

    for name, path in (("json", flags.json), ("markdown", flags.markdown), ("html", flags.html)):
        if not path:
            continue
        try:
            if name == "json":
                write_json(Path(path), evaluation.to_json())
            else:
                write_bytes(Path(path), (page if name == "html" else as_markdown)(evaluation.report).encode())
        except OSError as error:
            raise UserError(f"--{name}: {path} cannot be written ({error.strerror})") from error


# ---- tasks


def _on_tasks(flags: Flags, directories: Sequence[str], runtime: Runtime) -> Evaluation:
    """Results of all models on the same items of each task."""
    from babyllm.evaluate.tasks.evaluation import find_items
    from babyllm.evaluate.tasks.models import evaluate_models, named_models
    from babyllm.evaluate.tasks.task_report import task_evaluation
    from babyllm.evaluate.tasks.training_texts import nearest, overlap
    from babyllm.runtime.measured import cache_directory

    models = named_models(directories, all_steps=flags.all_steps)
    found = [find_items(name, flags) for name in flags.tasks]
    corpus = [Path(path) for path in flags.corpus]
    overlaps = {each.task.name: overlap(each.items, corpus) for each in found} if corpus and runtime.is_main else {}
    cache = None if flags.cache is None else Path(flags.cache or cache_directory() / "eval")
    results = list(evaluate_models(models, found, flags, runtime, int8=flags.int8, cache=cache))
    facts: list[Fact] = [("model", model.directory) for model in models] if len(models) == 1 else []
    facts += [(each.task.name, each.task.about) for each in found]
    return task_evaluation(
        results,
        facts,
        is_curve=flags.all_steps,
        groups=flags.groups,
        cases=flags.cases,
        overlaps=overlaps,
        neighbours=(lambda items: nearest(items, corpus)) if corpus else None,
    )


# ---- token data


def _on_run_tokens(flags: Flags, directory: str, home: Path, runtime: Runtime) -> Evaluation:
    from babyllm.config import load
    from babyllm.training.stages.pretraining_config import PREPARED, TOKENS, PretrainConfig

    if not (home / CONFIG).is_file():
        raise UserError(f"{directory}: is not a run directory, so it names no data; give some with --data")
    data, prepared = load(PretrainConfig, home / CONFIG).data, home / PREPARED / TOKENS
    path = prepared if (prepared / MANIFEST).is_file() else Path(data.path)  # the run has the tokens of raw texts
    return _on_tokens(flags, directory, path, flags.seq_len or data.seq_len, runtime, data.dtype, data.eos_id)


def _on_tokens(
    flags: Flags, directory: str, path: Path, seq_len: int | None, runtime: Runtime, dtype: str = "auto", eos: int = 2
) -> Evaluation:
    """Loss and bits per byte of the held-out documents, by domain."""
    from babyllm.evaluate.perplexity import perplexity
    from babyllm.evaluate.report import text_evaluation
    from babyllm.loading import load
    from babyllm.store.shards import open_tokens

    if flags.fit:
        raise UserError("--fit: is for conversations; a pretraining run shows both losses in metrics.jsonl")
    model, tokenizer = load(directory, int8=flags.int8)
    vocab_size, context = model.config.vocab_size, model.config.max_seq_len
    with runtime.main_first():
        data = open_tokens(path, vocab_size=vocab_size, dtype=dtype, eos_id=eos, to_train=False, check=runtime.is_main)
    if data.manifest.tokenizer_sha256 not in ("", tokenizer.sha256):
        raise UserError(f"{path}: was made with another tokenizer than {directory}'s; tokenise it with that one")
    values = perplexity(
        model.to(runtime.device),
        data,
        runtime,
        seq_len=min(seq_len or context, context),
        max_tokens=flags.max_tokens,
        batch_tokens=flags.batch_tokens,
        token_bytes=tokenizer.byte_lengths(),
    )
    if not values and not runtime.stop_requested:
        raise UserError(f"{path}: holds no held-out documents; tokenise with --held_out above 0")
    return text_evaluation(values, [("model", directory), ("data", str(path))])


# ---- conversations


def _on_conversations(
    flags: Flags, directory: str, store_dir: Path, paths: Sequence[Path], runtime: Runtime
) -> Evaluation:
    """Loss and accuracy by task on held-out conversations; with `fit`, beside those on training ones."""
    from babyllm.evaluate.conversations.answers import closed_in, closed_turns
    from babyllm.evaluate.conversations.samples import split_samples
    from babyllm.loading import load_chat_model

    chat = load_chat_model(directory, int8=flags.int8)
    chat.require_template_tokens(directory)
    note_base_model(chat, directory)
    chat.model.to(runtime.device)
    store = _store(store_dir, chat, directory, runtime)
    candidates = closed_in(store) if store else {}
    data = ", ".join(map(str, paths or [store_dir]))
    facts: list[Fact] = [("model", directory), ("data", data)]
    if paths:
        found = _read(flags, chat, paths, data)
        held_out = found.samples
        candidates = closed_turns(held_out) | candidates
        facts.append(("records that could not be used", found.unused.total()))
        facts += [(f"not used: {reason}", n) for reason, n in found.frequent_reasons()]
    else:
        assert store
        held_out = split_samples(store, "val")
    if not held_out:
        raise UserError(f"{data}: holds no held-out conversations; give some with --data")
    if not flags.fit:
        return _held_out(flags, chat, candidates, held_out, facts, runtime)
    if store is None:
        raise UserError(f"--fit: {directory} has no training conversations ({store_dir}); it takes the run's directory")
    return _fit(flags, chat, candidates, store, held_out, facts, runtime)


def _store(store_dir: Path, chat: ChatModel, directory: str, runtime: Runtime) -> ConversationStore | None:
    """The conversations of a run, if there are any.

    Raises:
        UserError: they were made with another tokenizer.
    """
    from babyllm.store.conversations import ConversationStore

    with runtime.main_first():
        store = ConversationStore.open(store_dir, check=runtime.is_main) if store_dir.is_dir() else None
    if store and store.manifest.tokenizer_sha256 != chat.template.tokenizer.sha256:
        raise UserError(f"{store_dir}: was made with another tokenizer than {directory}'s; give files with --data")
    return store


def _read(flags: Flags, chat: ChatModel, paths: Sequence[Path], data: str) -> FileSamples:
    """The conversations of files.

    Raises:
        UserError: no record can be used; the message lists the reasons.
    """
    from babyllm.evaluate.conversations.chat_files import read_samples

    found = read_samples(paths, chat.template, flags.format, chat.model.config.max_seq_len)
    if found.samples:
        return found
    if not found.unused:
        raise UserError(f"--data: {data} holds no records; give files of conversations")
    why = "; ".join(f"{n:,} x {reason}" for reason, n in found.frequent_reasons())
    raise UserError(f"--data: none of the {found.unused.total():,} records of {data} can be used ({why}); see --format")


def _held_out(
    flags: Flags,
    chat: ChatModel,
    candidates: dict[str, list[AnswerIds]],
    held_out: list[Sample],
    facts: list[Fact],
    runtime: Runtime,
) -> Evaluation:
    from babyllm.evaluate.conversations.answers import majority_shares
    from babyllm.evaluate.conversations.by_task import measure
    from babyllm.evaluate.report import conversation_evaluation

    results = measure(chat.model, held_out, candidates, runtime, batch_tokens=flags.batch_tokens)
    return conversation_evaluation(results, majority_shares(held_out, candidates), facts)


def _fit(
    flags: Flags,
    chat: ChatModel,
    candidates: dict[str, list[AnswerIds]],
    store: ConversationStore,
    held_out: list[Sample],
    facts: list[Fact],
    runtime: Runtime,
) -> Evaluation:
    from babyllm.evaluate.conversations.by_task import measure
    from babyllm.evaluate.conversations.greedy import greedy_answers
    from babyllm.evaluate.conversations.samples import drawn_samples, split_samples
    from babyllm.evaluate.report import Examples, carry_over_evaluation

    model, template = chat.model, chat.template
    sides = {
        "training": split_samples(store, "train", flags.n, flags.seed),
        "held-out": drawn_samples(held_out, flags.n, flags.seed),
    }
    results, greedy = {}, {}
    for side, samples in sides.items():
        greedy[side] = greedy_answers(
            model, template.tokenizer, samples, template.end_ids, runtime, max_new_tokens=flags.max_new_tokens
        )
        results[side] = measure(
            model, samples, candidates, runtime, greedy=greedy[side], batch_tokens=flags.batch_tokens
        )
    return carry_over_evaluation(results, greedy, Examples(flags.examples, flags.characters), facts)

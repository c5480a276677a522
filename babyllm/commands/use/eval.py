"""Measure models: loss and accuracy on conversations, bits per byte on token data or on raw texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.chat.formats import FormatConfig
from babyllm.commands import note_base_model, read_as_chosen
from babyllm.config.values import AnyCount, Count, Members, PathText, Seed
from babyllm.errors import UserError
from babyllm.run_directory import CONFIG
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.text.readers import ReadConfig

if TYPE_CHECKING:
    from babyllm.evaluate.conversations.chat_files import FileSamples
    from babyllm.evaluate.conversations.samples import AnswerIds, Sample
    from babyllm.evaluate.report import Evaluation
    from babyllm.loading import ChatModel
    from babyllm.pipeline.report import Fact
    from babyllm.store.conversations import ConversationStore

ARGUMENTS = "MODEL..."
STORE, MANIFEST = "conversations", "manifest.json"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm eval`.

    Attributes:
        data: data to evaluate on: files or folders of conversations, or a directory of token data; null takes the run's
            held-out data.
        texts: files and folders of raw texts, or corpora, to measure perplexity, bits per byte and bits per character
            on, of one model or of several on the same documents.
        fit: whether to compare greedy answers and losses on training and held-out conversations, and show some of both.
        n: number of conversations of each split that are drawn for fit, 40 if null; largest number of documents of
            texts, chosen by a hash of each text and the seed, all if null.
        max_bytes: number of bytes of texts that are chosen in this way; null for no limit.
        examples: number of drawn conversations that are shown.
        characters: largest number of characters that are shown of a text.
        seed: seed of the draw or the choice.
        max_new_tokens: largest number of tokens of a greedy answer; if the expected answer is longer, its length.
        seq_len: number of tokens of a row of token data or texts; null takes the run's for its token data, else the
            model's.
        stride: number of tokens from a row of a long text to its next row; null takes half a row.
        max_tokens: number of tokens that are read of each domain of token data; null reads all.
        batch_tokens: number of tokens of a forward pass, including padding; of no effect on texts.
        json: file to write the numbers to.
        format: settings for reading records as conversations.
        read: settings for reading texts.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    data: PathText | list[PathText] | None = None
    texts: PathText | list[PathText] | None = None
    fit: bool = False
    n: Count | None = None
    max_bytes: Count | None = None
    examples: AnyCount = 3
    characters: AnyCount = 200
    seed: Seed = 0
    max_new_tokens: AnyCount = 128
    seq_len: Members | None = None
    stride: Members | None = None
    max_tokens: Count | None = None
    batch_tokens: Count = 8192
    json: PathText | None = None
    format: FormatConfig = field(default_factory=FormatConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
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
    if flags.json:
        _write(Path(flags.json), evaluation)


def evaluated(flags: Flags, directory: str, *others: str) -> Evaluation | None:
    """The evaluation of the models of run, step or Hugging Face directories; None on ranks other than 0.

    Raises:
        UserError: a file or flag is at fault; the message names it.
        KeyboardInterrupt: a stop signal arrived.
    """
    if flags.texts:
        return _on_texts(flags, [directory, *others])
    if others:
        raise UserError(f"{others[0]}: several models are compared on --texts alone; give one model")
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


def _write(path: Path, evaluation: Evaluation) -> None:
    from babyllm.files import write_json

    try:
        write_json(path, evaluation.to_json())
    except OSError as error:
        raise UserError(f"--json: {path} cannot be written ({error.strerror})") from error


# ---- raw texts


def _on_texts(flags: Flags, directories: Sequence[str]) -> Evaluation | None:
    from babyllm.evaluate.language.comparison import TextSettings, score_models
    from babyllm.evaluate.language.text_report import raw_text_evaluation

    if flags.data or flags.fit:
        raise UserError("--texts: cannot be combined with --data or --fit; run the command once for each")
    paths = [flags.texts] if isinstance(flags.texts, str) else flags.texts or []
    settings = TextSettings(
        flags.n, flags.max_bytes, flags.seed, flags.seq_len, flags.stride, read=flags.read, int8=flags.int8
    )
    with start(flags.runtime) as runtime, read_as_chosen(runtime):
        scores, rejected = score_models(directories, paths, settings, runtime)
        facts: list[Fact] = [("texts", ", ".join(paths))]
        if flags.n or flags.max_bytes:
            facts.append(("chosen with seed", flags.seed))
        facts += [(f"rejected: {reason}", n) for reason, n in sorted(rejected.items())]
        return raw_text_evaluation(scores, facts) if runtime.is_main else None


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
    from babyllm.evaluate.language.perplexity import perplexity
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
    n = flags.n or 40
    sides = {
        "training": split_samples(store, "train", n, flags.seed),
        "held-out": drawn_samples(held_out, n, flags.seed),
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

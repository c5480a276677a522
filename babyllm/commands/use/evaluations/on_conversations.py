"""`babyllm eval` on conversations: loss and accuracy by task, and whether learning carries over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babyllm.commands import note_base_model
from babyllm.commands.use.evaluations.flags import Flags
from babyllm.errors import UserError
from babyllm.evaluate.conversations.answers import closed_in, closed_turns, majority_shares
from babyllm.evaluate.conversations.by_task import measure
from babyllm.evaluate.conversations.chat_files import FileSamples, read_samples
from babyllm.evaluate.conversations.greedy import greedy_answers
from babyllm.evaluate.conversations.samples import AnswerIds, Sample, drawn_samples, split_samples
from babyllm.evaluate.report import Evaluation, Examples, carry_over_evaluation, conversation_evaluation
from babyllm.loading import ChatModel, load_chat_model
from babyllm.pipeline.report import Fact
from babyllm.runtime import Runtime
from babyllm.store.chat_folders import earlier_uses
from babyllm.store.conversations import ConversationStore


def on_conversations(
    flags: Flags, directory: str, store_dir: Path, paths: Sequence[Path], runtime: Runtime
) -> Evaluation:
    """Loss and accuracy by task on held-out conversations; with `fit`, beside those on training ones."""
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
        facts += _test_sets(paths, directory, runtime)
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


def _test_sets(paths: Sequence[Path], model: str, runtime: Runtime) -> list[Fact]:
    """How often each test set was used before; this use is written down."""
    if not runtime.is_main:
        return []
    uses = [(path, earlier_uses(path, model)) for path in paths]
    return [
        (f"earlier uses of the test set {path}", f"{n:,}; what was chosen by them makes a result too good" if n else 0)
        for path, n in uses
        if n is not None
    ]


def _store(store_dir: Path, chat: ChatModel, directory: str, runtime: Runtime) -> ConversationStore | None:
    """The conversations of a run, if there are any.

    Raises:
        UserError: they were made with another tokenizer.
    """
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

"""Show the contents of a corpus, text files, conversations, token data or a run directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from babyllm.chat.formats import FormatConfig
from babyllm.chat.supervise import Supervise
from babyllm.config.values import AnyCount, PathText, Seed, TokenId, VocabularySize
from babyllm.text.readers import ReadConfig

if TYPE_CHECKING:
    from pathlib import Path

    from babyllm.pipeline.report import Report

ARGUMENTS = "DIR_OR_FILE"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm inspect`.

    Attributes:
        verify: whether to check every file of a corpus, of token data or of prepared conversations again, even if an
            earlier check has succeeded.
        longest: number of the longest documents to show.
        examples: number of random documents to show; for token data, per domain and split; for a run's conversations,
            per task and split.
        seed: seed of the draw of random documents.
        characters: number of characters to show of a document.
        conversations: number of random conversations to show from files of conversations; 0 reads files as documents.
        diversity: whether to report how varied the conversations of a file or folder are, with warnings where many say
            the same; this needs no tokenizer.
        compared_with: file or folder of the conversations before a selection; --diversity then shows both, with the
            change.
        template: chat template of conversations: chatml, llama3, llama2, alpaca, plain or a Jinja file; null takes the
            one stored with the tokenizer, else chatml.
        efficient_eos: whether only an answer's end token separates it from the next turn.
        default_system: system message of a built-in template for conversations without one.
        supervise: turns of conversations that are trained on; they are shown in green, or in [[ ]] where the output
            is not a terminal.
        format: settings for reading records as conversations.
        tokenizer: directory or file of the tokenizer of conversations and bare .bin files, or a run directory.
        vocab_size: vocabulary size of bare .bin files.
        dtype: dtype of the ids in bare .bin files; auto finds it out from the files.
        eos_id: id of <eos> in bare .bin files.
        read: settings for reading text files.
    """

    verify: bool = False
    longest: AnyCount = 3
    examples: AnyCount = 2
    seed: Seed = 0
    characters: AnyCount = 200
    conversations: AnyCount = 0
    diversity: bool = False
    compared_with: PathText | None = None
    template: PathText | None = None
    efficient_eos: bool = False
    default_system: str | None = None
    supervise: Supervise = field(default_factory=Supervise)
    format: FormatConfig = field(default_factory=FormatConfig)
    tokenizer: PathText | None = None
    vocab_size: VocabularySize | None = None
    dtype: Literal["auto", "uint16", "uint32"] = "auto"
    eos_id: TokenId = 2
    read: ReadConfig = field(default_factory=ReadConfig)


def run(flags: Flags, path: str) -> None:
    """Print a report on the data at `path`, and some of its documents.

    Raises:
        UserError: nothing readable is at the path, or it is damaged.
    """
    from pathlib import Path

    from babyllm.errors import UserError
    from babyllm.pipeline.report import print_examples, print_report
    from babyllm.store.conversations import is_store

    place = Path(path)
    if not place.exists():
        raise UserError(f"{path}: no such file or directory")
    if flags.compared_with and not flags.diversity:
        raise UserError("--compared_with: is for --diversity; add that flag, or leave this one out")
    if flags.diversity:
        _show_diversity(flags, place)
        return
    if is_store(place):
        _show_store(flags, place)
        return
    if flags.conversations:
        _show_conversations(flags, place)
        return
    report = _report(flags, place)
    print_report(report)
    print_examples(report, lambda text: repr(_cut(text, flags.characters)))


def _report(flags: Flags, place: Path) -> Report:
    from babyllm.run_directory import CONFIG

    if (place / CONFIG).is_file():
        from babyllm.inspection.runs import run_report

        return run_report(place)
    from babyllm.inspection.data import Look, inspect

    return inspect(
        place,
        Look(flags.longest, flags.examples, flags.seed),
        verify=flags.verify,
        vocab_size=flags.vocab_size,
        dtype=flags.dtype,
        eos_id=flags.eos_id,
        tokenizer=flags.tokenizer,
        read=flags.read,
    )


def _show_conversations(flags: Flags, place: Path) -> None:
    """Print a report on files of conversations, and some conversations with supervised tokens coloured."""
    import sys

    from babyllm.chat.load import load_template
    from babyllm.errors import UserError
    from babyllm.inspection.conversations import coloured, conversations_report
    from babyllm.pipeline.report import print_report
    from babyllm.runtime.machine import shows_colours
    from babyllm.tokenizer import Tokenizer

    if flags.tokenizer is None:
        raise UserError("--conversations needs a --tokenizer: a directory, such as that of the model to train")
    source = _tokenizer_place(flags.tokenizer)
    directory = source if source.is_dir() else source.parent
    template = load_template(
        flags.template,
        Tokenizer.load(source),
        directory,
        flags.efficient_eos,
        flags.default_system,
        flags.format.allow_special,
    )
    report, examples = conversations_report(
        place, template, flags.supervise, flags.format, flags.conversations, flags.seed
    )
    print_report(report)
    for label, (ids, turns) in examples:
        print(f"\n{label}\n{coloured(ids, turns, template.tokenizer, shows_colours(sys.stdout))}")


def _show_diversity(flags: Flags, place: Path) -> None:
    """Print a report on how varied conversations are, beside others if these are named."""
    from pathlib import Path

    from babyllm.chat_corpus.diversity.diversity_report import report_of
    from babyllm.chat_corpus.diversity.reading_chats import diversity_at
    from babyllm.errors import UserError
    from babyllm.pipeline.report import print_report

    if flags.conversations:
        raise UserError("--diversity: reports on all conversations; leave out --conversations, or --diversity")
    others = flags.compared_with
    before = None if others is None else diversity_at(Path(others), flags.format)
    title = f"diversity: {place}" if others is None else f"diversity: {others} (before), {place} (after)"
    print_report(report_of(diversity_at(place, flags.format), before, title))


def _show_store(flags: Flags, place: Path) -> None:
    """Print a report on conversations or pairs prepared for a run, and some of them with supervised tokens coloured."""
    import random
    import sys

    from babyllm.config.json_fields import read_json
    from babyllm.inspection.conversations import coloured
    from babyllm.pipeline.report import Report, print_report
    from babyllm.runtime.machine import shows_colours
    from babyllm.store.conversations import ConversationStore
    from babyllm.store.pair_store import kind_of_store
    from babyllm.tokenizer import Tokenizer

    store, tokenizer = ConversationStore.open(place, verify=flags.verify), Tokenizer.load(place)
    print_report(Report.from_json(read_json(place / "report.json")))
    sides = {"pairs": ("chosen | ", "rejected | ")}.get(kind_of_store(store), ("",))
    rng = random.Random(flags.seed)
    for group in store.manifest.groups:
        chats = store.span(group.split, group.task)
        span = range(chats.start // len(sides), chats.stop // len(sides))
        for number in rng.sample(span, min(flags.conversations or flags.examples, len(span))):
            for i, side in enumerate(sides):
                ids, turns = store.conversation(len(sides) * number + i)
                n_supervised = int((turns > 0).sum())
                print(f"\n{group.split} | {group.task} | {side}{len(ids):,} tokens, {n_supervised:,} trained on")
                print(coloured(ids, turns, tokenizer, shows_colours(sys.stdout)))


def _tokenizer_place(name: str) -> Path:
    """The path of the tokenizer; for a run directory, that in its newest step."""
    from pathlib import Path

    from babyllm.run_directory import LATEST

    place = Path(name)
    if not (place / LATEST).is_file():
        return place
    from babyllm.loading import model_directory, tokenizer_directory

    return tokenizer_directory(model_directory(place))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."

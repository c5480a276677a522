"""Encode corpora, files or conversations into token shards by domain, with a held-out split, on all cores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from babyllm.chat.formats import FormatConfig
from babyllm.config.values import Count, PathText, Share
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.readers import ReadConfig

if TYPE_CHECKING:
    from babyllm.prepare.rendered.chat_documents import ChatDocuments
    from babyllm.tokenizer import Tokenizer

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm tokenize`.

    Attributes:
        tokenizer: directory or file of the tokenizer.
        kind: contents of the files: documents, or conversations that become documents.
        rendering: form of conversations: template, as in fine-tuning, with all tokens trained on; or text, the contents
            of their messages one below the other.
        template: chat template: chatml, llama3, llama2, alpaca, plain or a Jinja file; null takes the one stored with
            the tokenizer, else chatml.
        domain: domain of all conversations; null takes their tasks.
        format: settings for reading records as conversations.
        held_out: share of the documents in the split "val", chosen by a hash of each text.
        shard_tokens: number of tokens at which a shard is closed.
        read: settings for reading files other than corpora.
        takedowns: files of documents to refuse, or directories with a takedowns.jsonl; those of the inputs always
            count.
        work: number of processes and size of partitions.
        plan: whether to say how long it will take, with how much memory and disk, from samples of the input, instead of
            doing it.
    """

    tokenizer: PathText
    kind: Literal["documents", "conversations"] = "documents"
    rendering: Literal["template", "text"] = "template"
    template: PathText | None = None
    domain: str | None = None
    format: FormatConfig = field(default_factory=FormatConfig)
    held_out: Share = 0.02
    shard_tokens: Count = 1 << 28
    read: ReadConfig = field(default_factory=ReadConfig)
    takedowns: list[PathText] = field(default_factory=list)
    work: WorkConfig = field(default_factory=WorkConfig)
    plan: bool = False


def run(flags: Flags, *arguments: str) -> None:
    """Encode the inputs into the directory named last, and print a report on it."""
    from pathlib import Path

    from babyllm.object_store.stage_paths import stage_paths
    from babyllm.pipeline.report import print_report
    from babyllm.prepare.tokens import tokenize
    from babyllm.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(flags.tokenizer)
    if flags.takedowns and flags.kind == "conversations":
        raise UserError("--takedowns: is for documents; leave it out")
    chats = _chats(flags, tokenizer) if flags.kind == "conversations" else None
    encoder = chats.template.tokenizer if chats and chats.template else tokenizer
    how: dict[str, Any] = {"held_out": flags.held_out, "shard_tokens": flags.shard_tokens}
    how |= {"read": flags.read, "work": flags.work}
    if flags.plan:
        from babyllm.prepare.plan_tokens import plan_tokenize

        with stage_paths([*arguments[:-1], Path()], flags.work.cache) as (inputs, _):
            print_report(plan_tokenize(inputs, encoder, chats=chats, **how))
        return
    takedowns = [Path(path) for path in flags.takedowns]
    with stage_paths(arguments, flags.work.cache) as (inputs, out):
        report = tokenize(inputs, encoder, out, chats=chats, takedowns=takedowns, **how)
    if report is None:
        print(f"{arguments[-1]}: complete already, with these settings and inputs; nothing to do")
    else:
        print_report(report)


def _chats(flags: Flags, tokenizer: Tokenizer) -> ChatDocuments:
    """How conversations become documents."""
    from pathlib import Path

    from babyllm.chat.load import load_template
    from babyllm.prepare.rendered.chat_documents import ChatDocuments

    template = None
    if flags.rendering == "template":
        place = Path(flags.tokenizer)
        directory = place if place.is_dir() else place.parent
        template = load_template(flags.template, tokenizer, directory, allow_special=flags.format.allow_special)
        template.require_marks()
    return ChatDocuments(flags.format, template, flags.domain or "")

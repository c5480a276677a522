"""Corpora or files of any size encoded into token data, on all cores.

inputs -> partitions -> one process each: encode -> a file of ids by domain and split -> shards, report -> manifest.json

A shard holds the documents of its domain and split in input order. So the shards depend neither on the number of
workers nor on the size of the partitions, and equal those of `write_tokens`. Inputs that are token data already are
taken over as they are, before the others: a source is added without encoding the earlier ones again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.reading import find_conversation_partitions
from babyllm.documents import check_held_out
from babyllm.errors import UserError
from babyllm.files import sha256, write_json
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import (
    MADE,
    REJECTED,
    WORK,
    discard_work,
    is_done,
    join_rejected,
    made_with,
    publish,
    rejected_published,
    require_apart,
    work_directory,
)
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.pipeline.rejections import require_documents, warn_of_rejected
from babyllm.pipeline.report import Fact, Report
from babyllm.pipeline.report_html import write_report
from babyllm.pipeline.step_times import with_times
from babyllm.prepare.encode import SHARD_TOKENS, Batch, Encoded, Group, encode, group_table
from babyllm.prepare.inputs import Source, batches_of, find_sources, identity, pieces
from babyllm.prepare.rendered.chat_documents import ChatDocuments
from babyllm.progress import ProgressLine
from babyllm.store.shard_writer import ShardWriter
from babyllm.store.shards import MANIFEST, Split, TokenData, is_token_data, little_endian, open_tokens, token_dtype
from babyllm.text.readers import Partition, ReadConfig
from babyllm.text.takedowns import NO_TAKEDOWNS, Takedowns, find_takedowns
from babyllm.tokenizer import Tokenizer, load_tokenizer

SETTINGS = "tokenize.json"
TOKENS = "tokens.bin"
CHAT_BYTES = 4 << 20  # chats are slow to render, so their partitions are small
SIZES_BYTES = 2 * 8  # two int64 for each document: its tokens and bytes


@beside_others
def tokenize(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    directory: Path,
    *,
    held_out: float = 0.02,
    shard_tokens: int = SHARD_TOKENS,
    read: ReadConfig | None = None,
    work: WorkConfig | None = None,
    chats: ChatDocuments | None = None,
    takedowns: Sequence[Path] = (),
) -> Report | None:
    """Encode corpora or files into a token data directory, on all cores, and return the report; None if it exists.

    The shards depend neither on the number of workers nor on the size of the partitions. If a call is interrupted, the
    same call continues with the partitions that are left.

    Args:
        paths: corpora, files or directories for the readers, and token data that the same tokenizer made.
        tokenizer: tokenizer that encodes the documents; its files are saved beside the shards.
        directory: directory of the shards; created if absent.
        held_out: share of the documents in the "val" split, chosen by a hash of each text.
        shard_tokens: number of tokens at which a shard is closed.
        read: settings of the readers.
        work: number of processes, and bytes of a partition.
        chats: how conversations become documents, for paths of chat files; their template's tokenizer is `tokenizer`.
        takedowns: lists of documents to refuse, besides those in the inputs themselves.

    Raises:
        UserError: a setting is not valid, an input cannot be read or holds no document, token data were made by
            another tokenizer or with other takedowns, the tokenizer cannot encode any character, a domain is named
            "all", or the directory holds the results of other settings or cannot be written.
    """
    check_held_out(held_out)
    if shard_tokens < 1:
        raise UserError(f"--shard_tokens={shard_tokens}: must be at least 1")
    read, work = read or ReadConfig(), work or WorkConfig()
    require_apart(directory, paths)
    refused = NO_TAKEDOWNS if chats else find_takedowns(paths, takedowns)
    paths, earlier = _without_tokens(paths, refused, tokenizer)
    sources = sources_of(paths, read, work.partition_bytes, chats) if paths else []
    makes_parts = {
        "inputs": [*(sha256(data.directory / MANIFEST) for data in earlier), *identity(paths, sources)],
        "tokenizer": tokenizer.sha256,
        "held_out": held_out,
        "read": read.described(),
        **({"chats": chats.makes()} if chats else {}),
        **refused.about(),
    }
    settings = makes_parts | {"shard_tokens": shard_tokens}
    if is_done(directory, made_with(directory, SETTINGS, MANIFEST), settings):
        return None
    return tokenize_sources(sources, tokenizer, directory, settings, read, work, chats, refused, earlier)


def sources_of(
    paths: Sequence[Path], read: ReadConfig, partition_bytes: int, chats: ChatDocuments | None
) -> Sequence[Source]:
    """The partitions of the inputs of `tokenize`."""
    if chats:
        return find_conversation_partitions(paths, min(partition_bytes, CHAT_BYTES))
    return find_sources(paths, read, partition_bytes)


def tokenize_sources(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    directory: Path,
    settings: dict[str, Any],
    read: ReadConfig,
    work: WorkConfig,
    chats: ChatDocuments | None,
    refused: Takedowns,
    earlier: Sequence[TokenData] = (),
) -> Report:
    """Encode partitions of the inputs into `directory`; see `tokenize`.

    Args:
        sources: partitions.
        tokenizer: tokenizer that encodes the documents.
        directory: directory of the shards; created if absent.
        settings: what the result depends on, as JSON values: `held_out` and `shard_tokens` are used.
        read: settings of the readers.
        work: use of the machine.
        chats: how conversations become documents; None for documents.
        refused: documents to leave out.
        earlier: token data whose shards come first, as they are.

    Raises:
        UserError: as for `tokenize`.
    """
    parts = directory / WORK
    makes_parts = {name: value for name, value in settings.items() if name != "shard_tokens"}
    with work_directory(directory, work=work):
        tokenizer.adding_bos(False).save(parts / "tokenizer")  # documents follow an eos
        encode_piece = partial(
            _tokenize_piece,
            read=read,
            directory=parts / "tokenizer",
            sha256=tokenizer.sha256,
            held_out=settings["held_out"],
            chats=chats,
            takedowns=refused,
        )
        results = run_partitions(
            sources,
            encode_piece,
            parts,
            key=makes_parts | {"pieces": pieces(sources)},
            work=work,
            sizes=[source.size_bytes for source in sources],
            title="tokenize",
        )
        report = _write(directory, results, tokenizer, settings, earlier)
        report = with_times(report, sum(group["documents"] for result in results for group in result["groups"]))
    discard_work(directory)
    return report


def _without_tokens(
    paths: Sequence[Path], refused: Takedowns, tokenizer: Tokenizer
) -> tuple[list[Path], list[TokenData]]:
    """The inputs that are still to be encoded, and those that are token data already.

    Raises:
        UserError: token data are named twice, damaged, or were made with another tokenizer or other takedowns.
    """
    found = [path for path in paths if is_token_data(path)]
    if len({path.resolve() for path in found}) < len(found):
        raise UserError(f"{', '.join(map(str, found))}: the same token data are named twice; name them once")
    for path in found:
        made = made_with(path, SETTINGS, MANIFEST) or {}
        if refused and made.get("takedowns") != refused.digest:
            raise UserError(
                f"{path}: was made with other takedowns, so it may hold documents that were taken down; tokenize its "
                "corpus again, or tokenize the others alone and then both directories together"
            )
    earlier = [open_tokens(path, to_train=False) for path in found]
    for data in earlier:
        if data.manifest.tokenizer_sha256 != tokenizer.sha256:
            raise UserError(
                f"{data.directory}: its tokens were made by another tokenizer; use --tokenizer={data.directory}, or "
                "tokenize its corpus again"
            )
    return [path for path in paths if path not in found], earlier


def _write(
    directory: Path,
    results: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    settings: dict[str, Any],
    earlier: Sequence[TokenData],
) -> Report:
    """Build the directory from the finished partitions, the manifest last, and return the report."""
    parts, made = directory / WORK, directory / WORK / MADE
    shutil.rmtree(made)  # left by an earlier attempt
    tokenizer.adding_bos(False).save(made)
    join_rejected([parts / f"{index:05d}" for index in range(len(results))], made)
    rejected = sum((Counter(result["rejected"]) for result in results), Counter[str]())
    groups = [[Group(**group) for group in result["groups"]] for result in results]
    n_documents = sum(group.documents for of_piece in groups for group in of_piece)
    if results:
        with rejected_published(directory):
            require_documents(n_documents, rejected, directory)
    warn_of_rejected(rejected, n_documents, directory / REJECTED)
    writer = ShardWriter(made, tokenizer.vocab_size, tokenizer.eos_id, tokenizer.sha256, settings["shard_tokens"])
    for data in earlier:
        writer.take(data)
    totals = _join(parts, groups, writer)
    _judge_unknown(totals)
    report = _report(directory, totals, earlier, tokenizer, rejected)
    write_report(made, report)
    write_json(made / SETTINGS, settings)
    writer.finish()
    publish(directory, [*(name for name in sorted(os.listdir(made)) if name != MANIFEST), MANIFEST])
    return report


def _judge_unknown(groups: Sequence[Group]) -> None:
    """Warn of characters that the tokenizer cannot encode, and refuse text without any other."""
    unknown, visible = (sum(getattr(group, name) for group in groups) for name in ("unknown", "visible"))
    if not unknown:
        return
    what = f"{unknown:,} of {visible:,} characters are unknown to the tokenizer, which loses them"
    if unknown == visible:
        raise UserError(f"--tokenizer: {what}; choose one that was trained on such text")
    print(f"warning: {what}", file=sys.stderr)


def _tokenize_piece(
    source: Source,
    folder: Path,
    *,
    read: ReadConfig,
    directory: Path,
    sha256: str,
    held_out: float,
    chats: ChatDocuments | None,
    takedowns: Takedowns,
) -> dict[str, Any]:
    """Write the ids and sizes of a partition's documents into one file, one domain and split after the other."""
    tokenizer = _load_once(directory, sha256)
    kind = little_endian(token_dtype(tokenizer.vocab_size))
    groups: dict[tuple[str, Split], Group] = {}
    blocks: dict[tuple[str, Split], tuple[list[bytes], list[bytes]]] = {}
    rejected = Counter[str]()
    if chats and isinstance(source, Partition):
        found = chats.encoded(source, tokenizer, held_out, rejected, folder)
    else:
        found = _encoded(batches_of(source, read, rejected, folder, takedowns), tokenizer, held_out, rejected)
    for encoded in found:
        key = encoded.group.domain, encoded.group.split
        groups[key] = groups[key] + encoded.group if key in groups else encoded.group
        ids, sizes = blocks.setdefault(key, ([], []))
        ids.append(encoded.ids.astype(kind).tobytes())
        sizes.append(encoded.sizes.tobytes())
    # One file for all: every other file would cost milliseconds for its fsync and for its deletion.
    with open(folder / TOKENS, "wb") as file:
        for ids, sizes in blocks.values():
            file.writelines([*sizes, *ids])
        file.flush()
        os.fsync(file.fileno())
    return {"groups": [asdict(group) for group in groups.values()], "rejected": dict(rejected)}


def _encoded(
    source: Iterator[Batch], tokenizer: Tokenizer, held_out: float, rejected: Counter[str]
) -> Iterator[Encoded]:
    for batch in source:
        if n_empty := batch[0].count(b""):
            rejected["the text is empty"] += n_empty
        yield from encode(batch, tokenizer, held_out, n_threads=1)


@lru_cache(maxsize=1)
def _load_once(directory: Path, sha256: str) -> Tokenizer:
    """The tokenizer of a worker process; cached, because a large one takes a while to load."""
    tokenizer = load_tokenizer(directory, sha256)
    assert tokenizer is not None
    return tokenizer


def _join(parts: Path, groups: Sequence[Sequence[Group]], writer: ShardWriter) -> list[Group]:
    """Write the shards, one domain and split after the other, and return the totals of each."""
    places: dict[tuple[str, Split], list[tuple[Path, int, Group]]] = {}
    totals: dict[tuple[str, Split], Group] = {}
    kind = little_endian(writer.dtype)
    for index, found in enumerate(groups):
        offset = 0
        for group in found:
            key = group.domain, group.split
            places.setdefault(key, []).append((parts / f"{index:05d}" / TOKENS, offset, group))
            totals[key] = totals[key] + group if key in totals else group
            offset += group.documents * SIZES_BYTES + group.tokens * kind.itemsize
    done, total = 0, sum(group.tokens for group in totals.values())
    progress = ProgressLine("shards", total, output=sys.stderr)
    for key in sorted(places):
        for file, offset, group in places[key]:
            sizes = np.fromfile(file, np.int64, 2 * group.documents, offset=offset).reshape(-1, 2)
            offset += group.documents * SIZES_BYTES
            ids: NDArray[Any] = np.memmap(file, kind, "r", offset, group.tokens)
            writer.append(ids, sizes, *key)
            done += group.tokens
            progress.show(done)
        writer.close(*key)
    progress.end()
    return [totals[key] for key in sorted(totals, key=lambda key: (key[1], key[0]))]


def _with_earlier(groups: Sequence[Group], earlier: Sequence[TokenData]) -> list[Group]:
    """The sizes with those of the shards that were taken over, of which the number of characters is unknown."""
    totals = {(group.domain, group.split): group for group in groups}
    for shard in (shard for data in earlier for shard in data.manifest.shards):
        key = shard.domain, shard.split
        more = Group(*key, shard.documents, shard.tokens, 0, shard.bytes)
        totals[key] = replace(totals.get(key, Group(*key)) + more, characters=0)
    return [totals[key] for key in sorted(totals, key=lambda key: (key[1], key[0]))]


def _report(
    directory: Path,
    groups: Sequence[Group],
    earlier: Sequence[TokenData],
    tokenizer: Tokenizer,
    rejected: Mapping[str, int],
) -> Report:
    unknown = sum(group.unknown for group in groups)
    groups = _with_earlier(groups, earlier) if earlier else groups
    facts: list[Fact] = [
        ("documents", sum(group.documents for group in groups)),
        ("tokens", sum(group.tokens for group in groups)),
        *((f"tokens taken over from {d.directory}", sum(s.tokens for s in d.manifest.shards)) for d in earlier),
        ("vocabulary", tokenizer.vocab_size),
        ("tokenizer", tokenizer.sha256[:16]),
    ]
    if unknown:
        facts.append(("characters unknown to the tokenizer", unknown))
    facts += [(f"rejected: {reason}", count) for reason, count in sorted(rejected.items())]
    return Report(f"tokenize: {directory}", facts, [group_table(groups)])

"""What follows from the name of a file: its format, its domain, and whether it is about the data or part of it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from babyllm.text.readers.formats.table import ARCHIVES, COMPRESSIONS, FORMATS, TABLES, format_of
from babyllm.text.readers.records import ReadConfig

SHARD_NUMBER = re.compile(r"(?:[-_.]?(?:part|shard)?[-_.]?\d+(?:[-_.]?of[-_.]?\d+)?)$", re.IGNORECASE)
HASH = r"(?=[0-9a-f]*\d)[0-9a-f]{%d,}"  # hexadecimal digits, of which one is a digit
HASH_SUFFIX = re.compile(rf"[-_.]{HASH % 8}$", re.IGNORECASE)
# A name made only of numbers, hashes and these words says nothing but which file of many it is.
WORD = r"part|shard|chunk|split|file|data|batch|block|of|train|test|dev|val|valid|validation|snappy"
UUID = "[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
NUMBERED = re.compile(rf"(?:{UUID}|(?:{WORD})?\d+|c\d{{3}}|{HASH % 6}|{WORD})(?:[-_. ]|$)", re.IGNORECASE)
# Files about the data: texts for people, checksums, and what other libraries write about data sets and models.
COMPANION = re.compile(
    r"(?:readme|licen[cs]e|copying|notice|changelog|authors|contribut(?:ors|ing)|citation|code_of_conduct)"
    r"(?:[-_.][a-z]{2}(?:[-_][a-z]{2})?)?(?:\.(?:md|markdown|txt|rst|html?))?"
    r"|requirements[-_.\w]*\.txt|(?:md5|sha\d*)(?:sums?)?(?:\.txt)?|checksums?(?:\.txt)?|robots\.txt"
    r"|dataset_(?:infos?|dict)\.json|state\.json|config\.json|croissant\.json|[\w.-]*\.index\.json"
    r"|(?:tokenizer|tokenizer_config|special_tokens_map|added_tokens|generation_config|preprocessor_config)\.json"
    r"|package(?:-lock)?\.json|_(?:common_)?metadata",
    re.IGNORECASE,
)
SHORT = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
WHOLE = (*TABLES, ".zip")  # formats that are not read in compressed form
HIDDEN = ("__macosx", "thumbs.db", "desktop.ini", "_success")


def kind(name: str, config: ReadConfig) -> tuple[str, str]:
    """Format and compression of a file by its name; the format is empty if it is unknown."""
    stem, suffix = os.path.splitext(_in_full(name.lower()))
    compression = COMPRESSIONS.get(suffix, "")
    suffix = os.path.splitext(stem)[1] if compression else suffix
    if compression and suffix in WHOLE:
        return "", compression
    return (suffix if suffix in (*FORMATS, *ARCHIVES) else config.suffix or "", compression)


def _in_full(name: str) -> str:
    """A name with its short suffix written out: .tar.gz instead of .tgz."""
    stem, suffix = os.path.splitext(name)
    return stem + SHORT.get(suffix, suffix)


def is_companion(name: str) -> bool:
    """Whether a file is about the data rather than part of it, such as README.md, LICENSE or dataset_infos.json."""
    stem, suffix = os.path.splitext(name)
    return COMPANION.fullmatch(stem if suffix.lower() in COMPRESSIONS else name) is not None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that programs write for their own use."""
    return name.startswith(".") or name.lower() in HIDDEN


def domain_of(parts: Sequence[str], folder: str, is_file: bool, format: str, config: ReadConfig) -> str:
    """The domain of a file.

    Args:
        parts: its folders below the given one, and its name.
        folder: name of the folder that was given, or in which the given file lies.
        is_file: whether the path of a file was given rather than that of a folder.
        format: format in which it is read.
        config: settings, which say what a domain is.
    """
    if config.domain not in ("auto", "folder", "file") and not config.domain.startswith("field:"):
        return spelled(config.domain)
    above = next((part for part in parts[:-1] if not is_number(part)), folder)
    by_name = file_domain(parts[-1])
    if config.domain == "file":
        return spelled(by_name or above)
    is_by_folder = not is_file and (config.domain == "folder" or _is_one_document(format, config))
    if len(parts) > 1 or is_by_folder or not by_name:
        return spelled(above)
    return spelled(by_name)


def _is_one_document(format: str, config: ReadConfig) -> bool:
    return format not in ARCHIVES and format_of(format, config).is_one_document


def file_domain(name: str) -> str:
    """The name of a file without suffixes and number: wiki for wiki-00001-of-00008.jsonl.gz, empty for part-00001."""
    stem = name
    while os.path.splitext(stem)[1].lower() in (*FORMATS, *COMPRESSIONS, *ARCHIVES, *SHORT):
        stem = os.path.splitext(stem)[0]
    return "" if is_number(stem) else SHARD_NUMBER.sub("", HASH_SUFFIX.sub("", stem)) or stem


def is_number(stem: str) -> bool:
    """Whether a name says only which file of many it is: part-00001, 000_00042, train-00000-of-00010, 0a3f9c61."""
    at = 0
    while at < len(stem) and (found := NUMBERED.match(stem, at)):
        at = found.end()
    return at == len(stem) and any(character.isdigit() for character in stem)


def spelled(name: str) -> str:
    """A name as valid Unicode; some file systems allow any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

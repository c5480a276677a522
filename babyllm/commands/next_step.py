"""What `babyllm` prints without arguments: the way from text to chat, what of it is in a folder, and the next command.

Only names of files and the beginnings of a few are read, at most two folders deep.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TEXTS = (".txt", ".parquet", ".warc.gz", ".txt.gz", ".txt.zst", ".pdf", ".epub")
_NOT_TEXTS = ("requirements.txt", "constraints.txt", "license.txt", "robots.txt")
_NOT_TRAINED_ON = ("heldout", "held_out", "test", "val", "eval", "prompts")
DEPTH, MOST_FOLDERS, LOOK_BYTES = 2, 200, 1 << 16
_CHAT_FIELDS = ('"messages"', '"conversations"', '"conversation"', '"instruction"', '"question"')
_LEFT_OUT = ("node_modules", "site-packages", "__pycache__", "tests")


@dataclass
class Found:
    """What is in a folder, by the step of the way that made it; the newest of each comes first."""

    texts: list[Path] = field(default_factory=list)
    chats: list[Path] = field(default_factory=list)
    corpora: list[Path] = field(default_factory=list)
    tokens: list[Path] = field(default_factory=list)
    base_models: list[Path] = field(default_factory=list)
    chat_models: list[Path] = field(default_factory=list)


def look(folder: Path) -> Found:
    """What is in `folder`, as paths relative to it."""
    found = Found()
    for place in _folders(folder):
        names = _names(place)
        if any(name.startswith("step_") for name in names) and "config.yaml" in names:
            _sort_run(place, names, found)
        elif "corpus.json" in names:
            found.corpora.append(place)
        elif "manifest.json" in names and any(name.endswith(".bin") for name in names):
            found.tokens.append(place)
        else:
            _sort_files(place, names, found)
    for paths in vars(found).values():
        paths.sort(key=lambda path: (-path.stat().st_mtime, str(path)))
        paths[:] = [path.relative_to(folder) for path in paths]
    return found


def _folders(folder: Path) -> Iterator[Path]:
    """The folder and those in it, breadth first; nothing below a run, a corpus or token data."""
    level, n = [folder], 0
    for depth in range(DEPTH + 1):
        below: list[Path] = []
        for place in level:
            n += 1
            if n > MOST_FOLDERS:
                return
            yield place
            if depth < DEPTH and not {"config.yaml", "corpus.json", "manifest.json"} & set(_names(place)):
                inner = sorted(name for name in _names(place) if not name.startswith(".") and name not in _LEFT_OUT)
                below += [place / name for name in inner if (place / name).is_dir()]
        level = below


def _names(place: Path) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []


def _sort_run(place: Path, names: list[str], found: Found) -> None:
    """A run that has a model to generate with: one with a chat template has been taught to answer."""
    steps = [place / name for name in sorted(names) if name.startswith("step_")]
    if not any((step / name).is_file() for step in steps for name in ("config.json", "adapter_config.json")):
        return
    beginning = _beginning(steps[-1] / "tokenizer_config.json") + _beginning(steps[-1] / "config.json")
    if '"chat_template"' in beginning or (steps[-1] / "chat_template.jinja").is_file():
        found.chat_models.append(place)
    elif "CausalLM" in beginning:
        found.base_models.append(place)


def _sort_files(place: Path, names: list[str], found: Found) -> None:
    lines = [place / name for name in names if name.endswith((".jsonl", ".json"))]
    lines = [path for path in lines if not path.stem.lower().startswith(_NOT_TRAINED_ON)]
    found.chats += [path for path in lines if path.is_file() and _holds_chats(path)]
    if any(name.endswith(TEXTS) and name.lower() not in _NOT_TEXTS for name in names):
        found.texts += [] if place.name.endswith(".egg-info") else [place]


def _holds_chats(path: Path) -> bool:
    """Whether the beginning of the first record looks like a conversation."""
    line = _beginning(path).lstrip("[ \n").partition("\n")[0]
    is_pair = '"chosen"' in line
    return line.startswith("{") and not is_pair and any(name in line for name in _CHAT_FIELDS)


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LOOK_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def way_to_chat(folder: Path) -> str:
    """The three commands from text to chat with the paths that are in `folder`, and which of them comes next."""
    found = look(folder)
    inputs = found.tokens or found.corpora or found.texts
    pretrain = f"babyllm pretrain --data.path={_first(inputs, 'TEXTS')}"
    sft = f"babyllm sft --init_from={_first(found.base_models, 'runs/pretrain')}"
    sft += f" --data.path={_first(found.chats, 'CHATS.jsonl')}"
    chat = f"babyllm chat {_first(found.chat_models, 'runs/sft')}"
    commands = {pretrain: "a base model from texts", sft: "a chat model from conversations", chat: "a conversation"}
    lines = [f"  {i}  {command:<72} {result}" for i, (command, result) in enumerate(commands.items(), 1)]
    if found.chat_models:
        following = chat
    elif found.base_models and not found.chats:
        following = f"babyllm generate {_first(found.base_models)}, or a .jsonl of conversations and then step 2"
    elif found.base_models:
        following = sft
    elif inputs:
        following = pretrain
    else:
        following = "put .txt files in a folder and name it in step 1"
    here = [f"  {name.replace('_', ' ')}: {_several(paths)}" for name, paths in vars(found).items() if paths]
    more = (
        "A large corpus is cleaned, deduplicated and tokenized first: babyllm clean, dedup, train-tokenizer, tokenize."
    )
    parts = ["From text to chat:", *lines, *(["", "Here:", *here] if here else []), "", f"Next: {following}", "", more]
    return "\n".join(parts)


def _first(paths: list[Path], otherwise: str = "") -> str:
    return shlex.quote(str(paths[0])) if paths else otherwise


def _several(paths: list[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

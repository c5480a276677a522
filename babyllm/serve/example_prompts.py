"""Examples of what a model can be asked: first messages of users in the conversations that its run held out.

run directory, or that of the model it began with -> store -> some conversations -> texts before the first answer
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import USER, Message, Unusable
from babyllm.errors import UserError
from babyllm.evaluate.conversations.samples import Sample, split_samples
from babyllm.loading import model_directory
from babyllm.run_directory import CONFIG
from babyllm.store.conversations import ConversationStore, is_store
from babyllm.tokenizer import Tokenizer

STORES = ("conversations", "pairs")  # in a run directory
MAX_STAGES = 4
N_READ = 64  # conversations
MAX_CHARACTERS = 160
_MARK = "zqx"
_FIRST_MODEL = re.compile(r"^init_from: *(['\"]?)(?!null$)(.+?)\1$", re.M)


def example_prompts(directory: str | Path, template: ChatTemplate, n: int = 4) -> tuple[str, ...]:
    """First messages of users in held-out conversations, drawn evenly over their tasks; empty if there are none.

    At most `N_READ` conversations are read. Those of the model's own run come first, else those of the run that it
    began with.

    Args:
        directory: path of a run, step or model.
        template: chat template of the model.
        n: largest number of messages.
    """
    for run_dir in _run_directories(Path(directory)):
        for name in STORES:
            found = _held_out(run_dir / name, template, n) if is_store(run_dir / name) else ()
            if found:
                return found
    return ()


def _run_directories(directory: Path) -> Iterator[Path]:
    for _ in range(MAX_STAGES):
        try:
            step = model_directory(directory)
        except UserError:
            return
        run_dir = step.parent if step.name.startswith("step_") else step
        yield run_dir
        config = run_dir / CONFIG
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
        first = _FIRST_MODEL.search(text)
        if first is None:
            return
        # A tree of runs may have been moved as a whole.
        named = Path(os.path.expanduser(first[2]))
        directory = named if named.exists() else run_dir.parent / named.name


def _held_out(directory: Path, template: ChatTemplate, n: int) -> tuple[str, ...]:
    try:
        store = ConversationStore.open(directory, check=False)
        if store.manifest.tokenizer_sha256 != template.tokenizer.sha256:
            return ()
        samples = split_samples(store, "val", N_READ)
        before, after = _around(template)
    except (UserError, OSError, Unusable):
        return ()  # the model can be served without them
    by_task: dict[str, dict[str, None]] = {}
    for sample in samples:
        text = _first_message(sample, template.tokenizer, before, after)
        if text and len(text) <= MAX_CHARACTERS:
            by_task.setdefault(sample.task, {})[text] = None
    in_turn = chain.from_iterable(zip_longest(*by_task.values()))
    return tuple(dict.fromkeys(text for text in in_turn if text is not None))[:n]


def _around(template: ChatTemplate) -> tuple[str, str]:
    """The texts that the template puts before and after the only message of a prompt."""
    before, _, after = _text(template.prompt([Message(USER, _MARK)]), template.tokenizer).partition(_MARK)
    return before, after


def _first_message(sample: Sample, tokenizer: Tokenizer, before: str, after: str) -> str:
    """The first message, if it is a user's; empty if another stands before it."""
    answers = np.flatnonzero(sample.turns)
    text = _text(sample.ids[: int(answers[0])].tolist(), tokenizer) if len(answers) else ""
    if not text.startswith(before.rstrip()):
        return ""
    message, mark, _ = text[len(before.rstrip()) :].partition(after.rstrip())
    return message.strip() if mark else ""


def _text(ids: list[int], tokenizer: Tokenizer) -> str:
    names = {i: name.encode() for name, i in tokenizer.special.items()}
    return b"".join(names.get(i) or tokenizer.token_bytes(i) for i in ids).decode("utf-8", "replace")

"""What tests of chat template share."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from babyllm.chat.load import (
    Rendered,
)
from babyllm.chat.messages import Message
from babyllm.tokenizer import Tokenizer

LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


NAMES = ("chatml", "llama3", "llama2", "alpaca", "plain")


WORDS = [
    "the",
    "model",
    "reads",
    " one ",
    "token",
    "，",
    "今天",
    "天气",
    "很好",
    "公园",
    "9",
    "3.14",
    "don't",
    "é",
    "😀",
]


def system(content: str, weight: int | None = None) -> Message:
    return Message("system", content, weight)


def user(content: str, weight: int | None = None) -> Message:
    return Message("user", content, weight)


def assistant(content: str, weight: int | None = None) -> Message:
    return Message("assistant", content, weight)


DIALOGUE = (system("be brief"), user("1+1?"), assistant("two"), user("and 2+2?"), assistant("four"))


def corpus() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices([*WORDS, " ", "\n\n"], k=20)) for _ in range(200)]


def spelled(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    """Text of ids, special ones by name."""
    names = {i: name.encode() for name, i in tokenizer.special.items()}
    return b"".join(names.get(int(i), tokenizer.token_bytes(int(i))) for i in ids).decode()


def turn_texts(rendered: Rendered, tokenizer: Tokenizer) -> list[str]:
    """Text of each supervised turn."""
    numbers = range(1, int(rendered.turns.max(initial=0)) + 1)
    return [spelled(rendered.ids[rendered.turns == number], tokenizer) for number in numbers]


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def own(tmp_path: Path, text: str) -> str:
    (tmp_path / "own.jinja").write_text(text, encoding="utf-8")
    return str(tmp_path / "own.jinja")

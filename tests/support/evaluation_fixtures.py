"""Conversations of a closed task and an open one, to evaluate models on."""

import random

from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Conversation, Message

KINDS = ["有意思", "the end"]


def talk(*texts: str, task: str = "kind", system: str = "") -> Conversation:
    messages = [Message(USER if i % 2 == 0 else ASSISTANT, text) for i, text in enumerate(texts)]
    return Conversation((*([Message(SYSTEM, system)] if system else []), *messages), task)


def some_conversations() -> list[Conversation]:
    """40 of the closed task "kind", some with two turns, and 20 of the open task "write"."""
    rng = random.Random(5)

    def words() -> str:
        return "".join(rng.choices("今天气很好我们去公园看书", k=rng.randint(2, 12)))

    kinds = [talk(words(), rng.choice(KINDS), system=rng.choice(["", "判断"])) for _ in range(24)]
    kinds += [talk(words(), rng.choice(KINDS), words(), rng.choice(KINDS)) for _ in range(8)]
    kinds += [talk(words(), words(), words(), rng.choice(KINDS)) for _ in range(8)]
    return [*kinds, *(talk(words(), words(), task="write") for _ in range(20))]

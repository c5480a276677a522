"""Conversations for the tests of this folder."""

import random

from babyllm.chat.messages import Conversation, Message


def talk(*texts: str, system: str = "", task: str = "chat", id: str = "") -> Conversation:
    """A conversation of these texts, of the user and the assistant by turns."""
    said = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return Conversation(tuple([Message("system", system)] * bool(system) + said), task, id)


def varied(n: int, seed: int = 0, **options: str) -> list[Conversation]:
    """Conversations of one turn that hardly repeat anything."""
    rng = random.Random(seed)

    def text(length: int) -> str:
        return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(length))

    return [talk(text(20), text(40), id=f"{seed}:{i}", **options) for i in range(n)]

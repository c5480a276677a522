"""Files of chats that are read in one way, as plain values.

record -> messages -> a system message where there is none, a task -> the chat as it is trained on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import SYSTEM, Message
from babyllm.errors import UserError

F = TypeVar("F", bound=FormatConfig)


@dataclass(frozen=True)
class DataSet:
    """Files of chats that are read in one way.

    Attributes:
        paths: files and folders.
        name: name in a registry; empty for a path that was given itself.
        format: settings of reading that differ from those of the run, by name.
        systems: system messages, one of which each chat without one gets; empty adds none.
        task: task of all records; empty leaves it to the records.
        limit: largest number of different records that are read; None for no limit.
        share: share of the records that are read.
        weight: how often a chat comes in an epoch, relative to the chats of other data sets.
        licence: licence of the records, for people.
        source: place that the records are from, for people.
    """

    paths: tuple[Path, ...]
    name: str = ""
    format: Mapping[str, Any] = field(default_factory=dict)
    systems: tuple[str, ...] = ()
    task: str = ""
    limit: int | None = None
    share: float = 1.0
    weight: float = 1.0
    licence: str = ""
    source: str = ""

    @property
    def title(self) -> str:
        """Its name, or its path."""
        return self.name or ", ".join(map(str, self.paths))

    @property
    def is_sampled(self) -> bool:
        """Whether only some of its records are read."""
        return self.limit is not None or self.share < 1

    def reading(self, base: F) -> F:
        """The settings by which its records are read.

        Args:
            base: settings of the run, whose other values stay.

        Raises:
            UserError: the settings contradict each other.
        """
        known = {one.name for one in fields(base)}
        try:
            return replace(base, **{name: value for name, value in self.format.items() if name in known})
        except UserError as error:
            raise UserError(f"data set {self.name}: {error}") from None

    def deciding(self) -> dict[str, Any]:
        """The values that decide what is read from its files, as JSON values."""
        return {
            "format": dict(self.format),
            "systems": list(self.systems),
            "task": self.task,
            "limit": self.limit,
            "share": self.share,
        }

    def about(self) -> dict[str, Any]:
        """The values that people may change without changing what is read from its files, as JSON values."""
        return {"weight": self.weight, "licence": self.licence, "source": self.source}

    def with_system(self, messages: Sequence[Message], contents: str) -> tuple[Message, ...]:
        """The messages with a system message before them, if they have none that says something.

        Args:
            messages: messages of a chat, from its first one.
            contents: text that decides which of `systems` it is.
        """
        has_own = bool(messages) and messages[0].role == SYSTEM
        if not self.systems or (has_own and messages[0].content.strip()):
            return tuple(messages)
        key = blake2b(contents.encode(), digest_size=8, person=b"system").digest()
        text = self.systems[int.from_bytes(key, "big") % len(self.systems)]
        if has_own:
            return (replace(messages[0], content=text), *messages[1:])
        return (Message(SYSTEM, text), *messages) if text.strip() else tuple(messages)

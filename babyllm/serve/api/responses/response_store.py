"""Responses that the server keeps in memory, within limits: the oldest are forgotten first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from babyllm.chat.messages import Message
from babyllm.serve.api.problem import Problem

MAX_RESPONSES = 1000
MAX_CHARACTERS = 16 << 20


class StoredResponse(NamedTuple):
    """A response and the conversation that it ends.

    Attributes:
        id: id of the response.
        content: the object that was sent, as JSON.
        messages: all messages with the answer, without instructions.
    """

    id: str
    content: bytes
    messages: tuple[Message, ...]

    @property
    def size(self) -> int:
        """Number of characters that it holds."""
        return len(self.content) + sum(len(message.content) + len(message.reasoning) for message in self.messages)


class ResponseStore:
    """The latest responses by their ids; may be used by several threads."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_characters: int = MAX_CHARACTERS) -> None:
        """Begin empty.

        Args:
            max_responses: largest number of responses that are kept.
            max_characters: largest number of characters that all of them hold.
        """
        self._most, self._most_characters = max_responses, max_characters
        self._kept: OrderedDict[str, StoredResponse] = OrderedDict()
        self._n_characters = 0
        self._lock = threading.Lock()

    def add(self, stored: StoredResponse) -> None:
        """Keep a response."""
        with self._lock:
            self._kept[stored.id] = stored
            self._n_characters += stored.size
            while len(self._kept) > self._most or self._n_characters > self._most_characters:
                _, oldest = self._kept.popitem(last=False)
                self._n_characters -= oldest.size

    def find(self, response_id: str, param: str | None = None) -> StoredResponse:
        """The response of an id.

        Args:
            response_id: id of the response.
            param: name of the field that holds the id.

        Raises:
            Problem: it is not kept, or not any more.
        """
        found = self._kept.get(response_id)
        if found is None:
            raise self._absent(response_id, param)
        return found

    def remove(self, response_id: str) -> None:
        """Forget a response.

        Raises:
            Problem: it is not kept.
        """
        with self._lock:
            found = self._kept.pop(response_id, None)
            if found is None:
                raise self._absent(response_id, None)
            self._n_characters -= found.size

    def _absent(self, response_id: str, param: str | None) -> Problem:
        name = response_id[:60].encode(errors="replace").decode()
        message = (
            f"the response {name!r} is not kept here: send its messages as input. A server keeps the last "
            f"{self._most} responses that were not sent with store: false, until it is stopped"
        )
        return Problem(404, message, param=param, code="response_not_found")

"""Answers without personal data, and how much of each kind was replaced."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from babyllm.documents import exact_key
from babyllm.store.sessions.session_reader import LoggedAnswer
from babyllm.text.personal.removal import without_personal

_REMEMBERED = 4096


class Anonymous:
    """Replaces personal data in answers and in what was said before them.

    Attributes:
        n: number of replacements by kind; a text that occurs again, as in the next turn, is counted once.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        """Begin.

        Args:
            kinds: kinds of data that are replaced.
        """
        self.n: Counter[str] = Counter()
        self._kinds = tuple(kinds)
        self._counted: set[bytes] = set()
        self._text = lru_cache(_REMEMBERED)(self._replaced)

    def answer(self, logged: LoggedAnswer) -> LoggedAnswer:
        """An answer without personal data."""
        return replace(
            logged,
            messages=[self._value(one) for one in logged.messages],
            answer=self._value(logged.answer),
            correction=self._text(logged.correction),
            tools=[self._value(one) for one in logged.tools],
        )

    def _value(self, value: Any) -> Any:
        """A JSON value without personal data in its texts and numbers."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {
                name: self._arguments(item) if name == "arguments" and isinstance(item, str) else self._value(item)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool) and (text := self._text(str(value))) != str(value):
            return text
        return value

    def _arguments(self, text: str) -> str:
        """JSON that is stored as text stays JSON."""
        try:
            return json.dumps(self._value(json.loads(text)), ensure_ascii=False)
        except (ValueError, RecursionError):
            return self._text(text)

    def _replaced(self, text: str) -> str:
        cleaned = without_personal(text, self._kinds)
        if cleaned.n and (key := exact_key(text)) not in self._counted:
            self._counted.add(key)
            self.n.update(cleaned.n)
        return cleaned.text

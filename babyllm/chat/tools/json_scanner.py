"""The end of a JSON object in a text that arrives in pieces."""

from __future__ import annotations

import re

# Characters of JSON outside of strings that neither begin nor end anything, and characters of strings.
_PLAIN = re.compile(r"[ \t\r\n:,0-9a-zA-Z+.\-]+")
_SAID = re.compile(r'[^"\\]+')


class JsonScanner:
    """Finds the end of an object.

    Attributes:
        is_done: whether the object has ended.
        is_broken: whether a character came that no JSON holds outside of strings.
    """

    def __init__(self) -> None:
        """Begin before the brace of an object."""
        self.is_done = self.is_broken = False
        self._depth = 0
        self._in_string = self._is_escaped = False

    def take(self, text: str) -> int:
        """The number of characters at the beginning of a piece of text that belong to the object.

        Args:
            text: next piece of the text; what does not belong to the object must not be passed on.
        """
        at = 0
        while at < len(text) and not self.is_done and not self.is_broken:
            if self._is_escaped:
                self._is_escaped = False
                at += 1
            elif found := (_SAID if self._in_string else _PLAIN).match(text, at):
                at = found.end()
            elif text[at] == "\\" and self._in_string:
                self._is_escaped = True
                at += 1
            elif text[at] == '"':
                self._in_string = not self._in_string
                at += 1
            elif text[at] in "{[}]":
                self._depth += 1 if text[at] in "{[" else -1
                self.is_done = self._depth == 0
                at += 1
            else:
                self.is_broken = True
        return at

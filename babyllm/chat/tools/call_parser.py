"""The calls in an answer's text, while it is written.

text -> content | mark, head {"name": "f", "arguments": | arguments | tail -> deltas of content and calls

What happens at a character depends on the text before it alone, never on how the text was divided. A head that is not
that of a call stays content. After a head, the text is that of the arguments, even if it is cut off or broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from babyllm.chat.tools.json_scanner import JsonScanner
from babyllm.chat.tools.tool_formats import PYTHON_TAG, ToolFormat

BLANK = " \t\r\n"
_B = f"[{BLANK}]*"
_KEYS = "(?:arguments|parameters)"
_HEAD = re.compile(rf'{_B}\{{{_B}"name"{_B}:{_B}("(?:[^"\\]|\\.)+"){_B},{_B}"{_KEYS}"{_B}:{_B}(?=\{{)', re.DOTALL)
# An object that may be a call although its fields are in another order.
_OTHER = re.compile(rf'{_B}\{{{_B}"(?:name|arguments|parameters|type|function|id)"')


def _begun(*parts: str) -> str:
    """A pattern that a text matches as a whole if it may be the beginning of these parts."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"(?:{part}{pattern})?"
    return pattern


_STRING = r'(?:[^"\\]|\\.)+\\?'
_ANY_KEY = f"(?:{_begun(*'arguments')}|{_begun(*'parameters')})"
_TO_KEY = (_B, r"\{", _B, *'"name"', _B, ":", _B, '"', _STRING, '"', _B, ",", _B, '"')
_HEAD_BEGUN = re.compile(_begun(*_TO_KEY, _ANY_KEY, '"', _B, ":", _B), re.DOTALL)
_OTHER_BEGUN = re.compile(_begun(_B, r"\{", _B, '"', "[a-z]{0,10}"))


class CallDelta(NamedTuple):
    """What was added to a call.

    Attributes:
        number: number of the call in the answer, from 0.
        name: name of the function, in the first delta of a call; empty in the others.
        arguments: new text of the arguments.
    """

    number: int
    name: str = ""
    arguments: str = ""


class CallParser:
    """Divides the text of one answer into content and calls.

    Line breaks that the form of calls puts beside them do not belong to the content.
    """

    def __init__(self, form: ToolFormat) -> None:
        """Begin an answer.

        Args:
            form: how its model writes calls.
        """
        self._form = form
        self._state = self._text
        self._buffer = ""
        self._held = ""  # content if what follows is not a call
        self._scanner = JsonScanner()
        self._n_whole = 0  # characters of the buffer that the scanner has taken of an object that is read as a whole
        self._n_calls = 0
        self._is_line_start = self._is_start = True
        self._content: list[str] = []
        self._calls: list[CallDelta] = []

    def add(self, text: str, is_end: bool) -> tuple[str, list[CallDelta]]:
        """The new content, and what was added to calls, that are certain after a piece of text.

        Args:
            text: next piece of the answer.
            is_end: whether the answer ends with it.
        """
        self._buffer += text
        self._content, self._calls = [], []
        while self._state(is_end):
            pass
        return "".join(self._content), _by_call(self._calls)

    # Each state takes what it can from the buffer. It returns whether another state can go on with the rest.

    def _text(self, is_end: bool) -> bool:
        """Content up to where a call may begin."""
        before, lead, is_found = self._opening()
        if is_found:
            self._say(before)
            self._held, self._state = lead, self._head
            self._buffer = self._buffer[len(before) + len(lead) :]
            return True
        n = len(self._buffer) if is_end else len(before)
        self._say(self._buffer[:n])
        self._buffer = self._buffer[n:]
        return False

    def _opening(self) -> tuple[str, str, bool]:
        """The content before a call, the text between it and the head, and whether there may be a call.

        Without a call, the text after the content may be the beginning of one.
        """
        buffer, form = self._buffer, self._form
        if form.place == "mark":
            at = buffer.find(form.before)
            if at >= 0:
                line = at - (buffer[at - 1 : at] == "\n")
                return buffer[:line], buffer[line : at + len(form.before)], True
            n = _n_begun(buffer, "\n" + form.before) or _n_begun(buffer, form.before)
            return buffer[: len(buffer) - n], "", False
        if form.place == "line":
            pattern = r"(?:\A|\n)[ \t]*(?=\{)" if self._is_line_start else r"\n[ \t]*(?=\{)"
            if found := re.search(pattern, buffer):
                return buffer[: found.start()], found[0], True
            pending = re.search(r"(?:\A|\n)[ \t]*\Z" if self._is_line_start else r"\n[ \t]*\Z", buffer)
            return buffer[: pending.start()] if pending else buffer, "", False
        if not self._is_start:
            return buffer, "", False
        if found := re.match(rf"{_B}(?:{re.escape(PYTHON_TAG)}{_B})?(?=\{{)", buffer):
            return "", found[0], True
        start = buffer.lstrip(BLANK).removeprefix(PYTHON_TAG).lstrip(BLANK)
        return ("" if not start or PYTHON_TAG.startswith(buffer.lstrip(BLANK)) else buffer), "", False

    def _head(self, is_end: bool) -> bool:
        """The head of a call, after its mark."""
        if found := _HEAD.match(self._buffer):
            if (name := _string(found[1])) is not None:
                self._begin(name)
                self._buffer, self._state = self._buffer[found.end() :], self._arguments
                return True
        elif _HEAD_BEGUN.fullmatch(self._buffer) and not is_end:
            return False
        if _OTHER.match(self._buffer):
            self._state, self._scanner, self._n_whole = self._whole, JsonScanner(), 0
            return True
        if _OTHER_BEGUN.fullmatch(self._buffer) and not is_end:
            return False
        return self._refuse()

    def _whole(self, is_end: bool) -> bool:
        """An object that is read as a whole, since its fields are in another order."""
        self._n_whole += self._scanner.take(self._buffer[self._n_whole :])
        if not (self._scanner.is_done or self._scanner.is_broken or is_end):
            return False
        call = _call_in(self._buffer[: self._n_whole]) if self._scanner.is_done else None
        if call is None:
            return self._refuse()
        self._buffer, self._state = self._buffer[self._n_whole :], self._tail
        self._begin(*call)
        return True

    def _arguments(self, is_end: bool) -> bool:
        n = self._scanner.take(self._buffer)
        if n:
            self._calls.append(CallDelta(self._n_calls - 1, "", self._buffer[:n]))
            self._buffer = self._buffer[n:]
        if not (self._scanner.is_done or self._scanner.is_broken):
            return False
        self._state = self._closing
        return True

    def _closing(self, is_end: bool) -> bool:
        """The brace after the arguments, which a model may forget."""
        if not self._buffer.strip(BLANK) and not is_end:
            return False
        if found := re.match(rf"{_B}\}}", self._buffer):
            self._buffer = self._buffer[found.end() :]
        self._state = self._tail
        return True

    def _tail(self, is_end: bool) -> bool:
        """The mark after a call."""
        mark, rest = self._form.after, self._buffer.lstrip(BLANK)
        if mark and mark.startswith(rest) and len(rest) < len(mark):
            self._buffer = "" if is_end else self._buffer
            return False
        if mark and rest.startswith(mark):
            self._buffer = rest[len(mark) :]
        self._state = self._after
        return True

    def _after(self, is_end: bool) -> bool:
        """What is between two calls, or follows the last one."""
        joint = self._form.joint.strip()
        rest = self._buffer.lstrip(BLANK)
        if joint and rest.startswith(joint):
            rest = rest[len(joint) :].lstrip(BLANK)
        begin = self._form.before or "{"
        if rest.startswith(begin):
            n = len(self._buffer) - len(rest) + len(self._form.before)
            self._held, self._buffer, self._state = self._buffer[:n], self._buffer[n:], self._head
            return True
        if begin.startswith(rest) and not is_end:
            return False
        if not rest:
            self._buffer = ""
            return False
        self._is_start = self._is_line_start = False
        self._state = self._text
        return True

    def _begin(self, name: str, arguments: str = "") -> None:
        self._calls.append(CallDelta(self._n_calls, name, arguments))
        self._n_calls += 1
        self._held, self._scanner = "", JsonScanner()

    def _refuse(self) -> bool:
        """Leave what looked like a call in the content."""
        # A brace alone would be taken for another call.
        n = 0 if self._form.before else len(self._buffer) - len(self._buffer.lstrip(BLANK)) + 1
        self._say(self._held + self._buffer[:n])
        self._held, self._buffer, self._state = "", self._buffer[n:], self._text
        return True

    def _say(self, text: str) -> None:
        if text:
            self._content.append(text)
            self._is_start, self._is_line_start = False, text.endswith("\n")


def _n_begun(text: str, mark: str) -> int:
    """Number of characters at the end of a text that may begin a mark."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def _string(text: str) -> str | None:
    """The string that a text of JSON spells; None if it does not or if it is blank."""
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, str) and value.strip():
            return value
    return None


def _call_in(text: str) -> tuple[str, str] | None:
    """The name and the arguments, as JSON text, of a call that is spelled in a usual way; None for other objects."""
    with suppress(ValueError, RecursionError):
        spelled: Any = json.loads(text)
        function = spelled.get("function", spelled)
        if isinstance(function, str):
            function = spelled | {"name": function}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
            return None
        given: Any = next((function[key] for key in ("arguments", "parameters") if key in function), {})
        if isinstance(given, str):
            given = json.loads(given)
        if isinstance(given, dict):
            return function["name"], json.dumps(given, ensure_ascii=False)
    return None


def _by_call(deltas: Sequence[CallDelta]) -> list[CallDelta]:
    """One delta for each call, since clients expect each call at most once in an event."""
    found: dict[int, CallDelta] = {}
    for number, name, arguments in deltas:
        before = found.get(number, CallDelta(number))
        found[number] = CallDelta(number, before.name or name, before.arguments + arguments)
    return list(found.values())

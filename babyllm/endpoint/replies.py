"""What a server's answer is worth: a reply, a failure worth another attempt, or a refusal.

status, body -> parse_body -> JSON object -> read_reply -> Reply
                  |              |
                  +-> Again      +-> Again: a lie, such as no choices or an error under status 200
                  +-> UserError: the endpoint refuses every request
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from babyllm.config.values import MAX_COUNT
from babyllm.errors import UserError

LENGTH = "length"
"""The finish reason of a text that `max_tokens` has cut."""
_PASSING = (408, 409, 425, 429)
_OF_ALL = {
    401: "check the key in the variable that --endpoint.key_variable names",
    402: "the account must be topped up",
    404: "check --endpoint.url and --endpoint.model",
}


class Usage(NamedTuple):
    """Tokens of a request that a model read and wrote."""

    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Reply:
    """The answer to one request.

    Attributes:
        text: text of the message; empty if there is an error.
        finish: reason for which the text ends, such as "stop" or "length"; None if the server does not say.
        usage: tokens of the request; None if the server does not say.
        error: reason for which there is no text, in one line; None if there is one.
        is_cached: whether it was not sent for, because an equal request was answered before.
        endpoint: name of the endpoint that answered; empty if there is only one, or no answer.
    """

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None
    error: str | None = None
    is_cached: bool = False
    endpoint: str = ""


class Again(Exception):
    """A failure after which another attempt may succeed; its message is one line.

    Attributes:
        wait_s: seconds that the server asks to wait; None if it does not say.
        is_unpaid: whether the attempt has certainly cost nothing.
        usage: tokens of the failed attempt, where the server says.
    """

    def __init__(
        self, reason: str, wait_s: float | None = None, *, is_unpaid: bool = False, usage: Usage | None = None
    ) -> None:
        super().__init__(reason)
        self.wait_s, self.is_unpaid, self.usage = wait_s, is_unpaid, usage


def parse_body(status: int, headers: Mapping[str, str], text: str) -> dict[str, Any] | Reply:
    """The JSON object of a successful response, or a reply that says why this one request was refused.

    Raises:
        Again: the failure may pass.
        UserError: every request to this endpoint would be refused.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if status != 200:
        return _refused(status, _said(value) or one_line(text), headers, _code(value))
    if not isinstance(value, dict):
        what = "HTML" if text.lstrip()[:1] == "<" else "no JSON object"
        raise Again(f"the endpoint answers with {what} ({one_line(text, 60)})")
    if value.get("error"):
        code = _code(value)
        if isinstance(code, int) and 400 <= code < 600:
            return _refused(code, _said(value), headers, code)
        raise Again(f"the endpoint reports an error ({_said(value)})", usage=_usage(value))
    return value


def read_reply(value: Mapping[str, Any]) -> Reply:
    """The reply in the JSON object of a response.

    Raises:
        Again: the object is not a reply, or is an empty one.
    """
    choices, usage = value.get("choices"), _usage(value)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Again("the reply has no message", usage=usage)
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else None
    text = _text(message.get("content"))
    if text:
        return Reply(text, finish, usage)
    if isinstance(message.get("refusal"), str):
        return Reply("", finish, usage, f"the model refuses: {one_line(message['refusal'])}")
    if finish == LENGTH:
        return Reply("", finish, usage, "max_tokens is used up before the text begins; raise --endpoint.max_tokens")
    if finish not in (None, "stop"):
        return Reply("", finish, usage, f"the reply has no text (finish reason {one_line(finish)})")
    raise Again("the reply has no text", usage=usage)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a response asks to wait, by a number or a date; None if it does not say, or says nonsense."""
    said = headers.get("retry-after", "").strip()
    if said.replace(".", "", 1).isdigit() and len(said) < 10:
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, OverflowError, TypeError, OSError):
        return None


def one_line(text: str, length: int = 200) -> str:
    """The beginning of a text of others, in one line that is safe to print."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return words if len(words) <= length else f"{words[:length]}..."


def _refused(status: int, said: str, headers: Mapping[str, str], code: object) -> Reply:
    line = f"the endpoint answers {status}{f' ({said})' if said else ''}"
    if code == "insufficient_quota":  # sent with 429, although waiting does not help
        status = 402
    if status in _PASSING or status >= 500:
        raise Again(line, retry_after(headers, time.time()), is_unpaid=True)
    if status in _OF_ALL:
        raise UserError(f"{line}: {_OF_ALL[status]}")
    if 300 <= status < 400:
        raise UserError(
            f"{line}: it redirects to {one_line(headers.get('location', ''))}; give the right --endpoint.url"
        )
    return Reply(error=line)


def _said(value: Any) -> str:
    """The message of an error object, in the forms that servers use."""
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or json.dumps(error, ensure_ascii=False)
    return one_line(error) if isinstance(error, str) else ""


def _code(value: Any) -> object:
    error = value.get("error") if isinstance(value, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _usage(value: Mapping[str, Any]) -> Usage | None:
    usage = value.get("usage")
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else [None]
    return Usage(*counts) if all(type(n) is int and 0 <= n <= MAX_COUNT for n in counts) else None


def _text(content: Any) -> str:
    """The text of a message, which some servers send in parts; lone surrogates, which are not text, are replaced."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        return ""
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

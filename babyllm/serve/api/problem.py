"""The error that a client receives when its request fails, in the format of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

RETRY_AFTER_S = 1


class Problem(Exception):
    """A request that fails before or during its answer.

    Attributes:
        status: HTTP status code.
        message: description of the error and of its correction.
        param: name of the field at fault; None if there is none.
        code: error code for programs.
        headers: extra headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers["retry-after"] = str(RETRY_AFTER_S)

    def body(self) -> dict[str, Any]:
        """The JSON error object of the response."""
        kind = {429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def to_json(value: Any) -> bytes:
    """A value as JSON in UTF-8; a lone surrogate, which a client may have sent, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")

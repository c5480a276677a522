"""One attempt at a request over HTTP: what the server sent, or why that is not a response.

The key is in the header alone. Where a server repeats it, it is made unreadable before anything else sees the text.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from babyllm.endpoint.config import is_this_machine
from babyllm.endpoint.replies import Again, Reply, one_line, parse_body
from babyllm.errors import UserError, in_one_line

MAX_REPLY_BYTES = 64 << 20
_MIN_SECRET = 8  # a shorter key, such as "none", occurs in texts by chance


class Transport:
    """An HTTP connection to an endpoint, made and used in an event loop.

    Args:
        address: address of the requests.
        key: secret key; None sends none.
        timeout_s: seconds that a whole response may take.
        n_connections: number of connections that are kept open.

    Raises:
        UserError: the proxy in the environment cannot be used.
    """

    def __init__(self, address: str, key: str | None, timeout_s: float, n_connections: int) -> None:
        self._address, self._key, self._timeout_s = address, key, timeout_s
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        limits = httpx.Limits(max_keepalive_connections=n_connections)
        use_proxy = not is_this_machine(address)
        try:
            self._http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits, trust_env=use_proxy)
        except (ImportError, ValueError) as error:
            raise UserError(f"the proxy in the environment cannot be used: {in_one_line(error)}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, content: bytes) -> dict[str, Any] | Reply:
        """The JSON object of a successful response, or a reply that says why this one request was refused.

        Args:
            content: body of the request, JSON.

        Raises:
            Again: the attempt failed, and another may succeed.
            UserError: every request to this endpoint would fail.
        """
        try:
            return parse_body(*await asyncio.wait_for(self._response(content), self._timeout_s))
        except asyncio.TimeoutError:
            raise Again(f"the reply was not complete within {self._timeout_s:g} s") from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise UserError(f"--endpoint.url: {self._address} is not an address ({in_one_line(error)})") from None
        except httpx.ConnectError as error:
            raise Again(f"the endpoint cannot be reached ({self._shown(error)})", is_unpaid=True) from None
        except httpx.HTTPError as error:
            raise Again(f"the connection broke ({self._shown(error)})") from None

    async def _response(self, content: bytes) -> tuple[int, dict[str, str], str]:
        """Status, headers and text."""
        body = bytearray()
        async with self._http.stream("POST", self._address, content=content) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise Again(f"the reply is larger than {MAX_REPLY_BYTES >> 20} MiB")
        headers = {name: self._without_key(value) for name, value in response.headers.items()}
        try:
            return response.status_code, headers, self._without_key(body.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise Again("the reply is not UTF-8 text") from None

    def _shown(self, error: Exception) -> str:
        return one_line(self._without_key(str(error))) or type(error).__name__

    def _without_key(self, text: str) -> str:
        if self._key and len(self._key) >= _MIN_SECRET:
            for form in (self._key, json.dumps(self._key)[1:-1]):
                text = text.replace(form, "[key]")
        return text

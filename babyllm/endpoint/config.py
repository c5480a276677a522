"""Settings of an endpoint, and the body of a request under them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from babyllm.config.values import Count, Few, Limits, PathText, Positive, PositiveSeconds, Rate, Seed
from babyllm.errors import UserError
from babyllm.runtime.secret import secret

_PATH = "/chat/completions"


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint, how patiently it is asked, and what it may cost.

    Attributes:
        url: address of the API up to and including its version, such as http://127.0.0.1:8000/v1.
        model: name of the model that answers.
        key_variable: environment variable that holds the key, such as OPENAI_API_KEY; null sends none. The key itself
            is never a flag, and is never written or printed.
        concurrency: largest number of requests at a time.
        timeout_s: seconds that a whole reply may take.
        retries: number of further attempts after a failed one.
        backoff_s: seconds before the first retry; they double with each one. The server's Retry-After has priority.
        price_in: price of a million tokens that the model reads.
        price_out: price of a million tokens that the model writes.
        max_cost: largest cost of the command, in the currency of the prices. No request is sent that could exceed it.
        cache: directory of the replies, which are reused by later calls; null takes that of the command.
        temperature: randomness of the replies; null takes the server's.
        max_tokens: largest number of tokens of a reply; null takes the server's.
        seed: seed of the replies; null sends none.
        body: JSON object with further fields of each request; null as a value removes a field.
    """

    url: str | None = None
    model: str | None = None
    key_variable: str | None = None
    concurrency: Few = 8
    timeout_s: PositiveSeconds = 120
    retries: Annotated[int, Limits(0, 100)] = 6
    backoff_s: PositiveSeconds = 1
    price_in: Rate | None = None
    price_out: Rate | None = None
    max_cost: Positive | None = None
    cache: PathText | None = None
    temperature: Rate | None = None
    max_tokens: Count | None = 1024
    seed: Seed | None = None
    body: str | None = None


@dataclass(frozen=True)
class Request:
    """A conversation whose next message is wanted.

    Attributes:
        messages: messages with `role` and `content`.
        sample: number of the reply to these messages; equal requests with other numbers are asked separately.
        options: fields of the body that replace those of the settings; None removes one.
        endpoints: names of the endpoints that may answer; empty for all.
        beside: text whose hash chooses the endpoint that is asked first, so that requests with an equal one have the
            same; empty takes the request itself.
    """

    messages: Sequence[Mapping[str, Any]]
    sample: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    endpoints: Sequence[str] = ()
    beside: str = ""


def address(config: EndpointConfig) -> str:
    """The address that requests are sent to.

    Raises:
        UserError: the URL is missing, is not one, or has places where secrets are put.
    """
    if not config.url or not config.model:
        raise UserError("--endpoint.url and --endpoint.model are needed: the address of an API and a model's name")
    try:
        parts = urlsplit(config.url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    if not is_url or not config.url.isascii() or not config.url.isprintable() or " " in config.url:
        raise UserError("--endpoint.url: is not an address such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:  # not shown, since a secret may be among them
        raise UserError("--endpoint.url: give it without user, ? and #; --endpoint.key_variable names the key's place")
    return config.url.rstrip("/").removesuffix(_PATH) + _PATH


def is_this_machine(url: str) -> bool:
    """Whether an address is one of this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_of(config: EndpointConfig) -> str | None:
    """The secret key, read from the environment; None if the endpoint needs none.

    Raises:
        UserError: the variable has no such name or no value. Whatever might be the key itself is not in the message.
    """
    if config.key_variable is None:
        return None
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", config.key_variable):
        raise UserError(
            "--endpoint.key_variable: give the name of an environment variable in capitals, such as OPENAI_API_KEY, "
            "and not the key itself"
        )
    key = secret(config.key_variable)
    if key is None:
        raise UserError(f"--endpoint.key_variable: the environment variable {config.key_variable} has no value")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{config.key_variable}: a key has printable ASCII characters only")
    return key


def body_of(config: EndpointConfig, request: Request) -> dict[str, Any]:
    """The body of a request as a JSON object."""
    seed = None if config.seed is None else config.seed + request.sample
    messages = [dict(message) for message in request.messages]
    body: dict[str, Any] = {"model": config.model, "messages": messages}
    body |= {"temperature": config.temperature, "max_tokens": config.max_tokens, "seed": seed}
    body |= {**further_fields(config), **request.options}
    return {name: value for name, value in body.items() if value is not None}


def further_fields(config: EndpointConfig) -> dict[str, Any]:
    """The fields of `endpoint.body`.

    Raises:
        UserError: it is not a JSON object.
    """
    try:
        fields = json.loads(config.body or "{}")
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UserError("""--endpoint.body: is not a JSON object such as '{"top_p": 0.9}'""")
    return fields

"""Serve a model over HTTP: the API of OpenAI, and a chat page for the browser."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from babyllm.commands import read_as_chosen
from babyllm.config.values import AnyCount, AnyMembers, Count, Few, Limits, Members, PathText, Seconds
from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, start
from babyllm.runtime.secret import secret

if TYPE_CHECKING:
    from babyllm.model.transformer import Transformer
    from babyllm.serve.served_model import ServedModel
    from babyllm.serve.server import Ready

ARGUMENTS = "RUN_DIR"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm serve`.

    Attributes:
        host: name or address to listen at; 127.0.0.1 can be reached from this machine alone, 0.0.0.0 from others too.
        port: port to listen at; 0 takes a free one.
        api_key: key that requests must contain; null takes that of the environment variable BABYLLM_API_KEY, and
            requires none if there is none. The variable or a --config file keeps it out of the list of processes.
        allowed_hosts: name, or [several], that the Host header may have besides this machine's own, such as that of a
            proxy in front of the server; '*' allows all.
        allowed_origins: site, or [several], such as https://chat.example.com, whose pages may send requests; file://
            allows pages opened from files, '*' all.
        slots: number of answers that are written together.
        queue: number of further answers that may wait; others get status 429.
        context: largest number of tokens of a prompt and its answer together; null takes the model's.
        cached_tokens: number of tokens of prompts and answers whose keys and values are kept, so that prompts that
            begin alike are not read again; 0 keeps none; null keeps as many as the slots hold, in at most 1 GiB.
        max_body_bytes: largest size of a request's body, in bytes.
        feedback: file that ratings of answers are added to, in lines of JSON; null stores none.
        request_log: file that a line of JSON about each request is added to; null logs none.
        log_contents: whether the lines of request_log also hold what clients and the model say.
        log: directory that stores sessions: what people ask, what is answered, and how they rate it; null stores none.
            Whoever talks with the model has to know and agree.
        log_days: number of days after which stored sessions are deleted.
        log_max_bytes: largest size of the stored sessions; beyond it, the oldest ones are deleted.
        name: name of the model; null takes that of its directory.
        adapters: LoRA runs served beside the model they were trained on, each under its name, as {NAME: RUN_DIR, ...}.
        max_adapters: number of adapters whose matrices and caches are in memory at a time; the one unused for longest
            makes room for another.
        aliases: further name, or [several], that clients may give to the model; '*' accepts every name.
        grace_s: seconds that running answers have to finish when the server shuts down.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Limits(0, 65_535)] = 8000
    api_key: str | None = None
    allowed_hosts: str | list[str] = field(default_factory=list)
    allowed_origins: str | list[str] = field(default_factory=list)
    slots: Few = 8
    queue: AnyMembers = 64
    context: Members | None = None
    cached_tokens: AnyCount | None = None
    max_body_bytes: Count = 4 << 20
    feedback: PathText | None = None
    request_log: PathText | None = None
    log_contents: bool = False
    log: PathText | None = None
    log_days: Count = 30
    log_max_bytes: Count = 1 << 30
    name: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    max_adapters: Few = 4
    aliases: str | list[str] = field(default_factory=list)
    grace_s: Seconds = 10
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str) -> None:
    """Serve the model until Ctrl-C or SIGTERM.

    Raises:
        UserError: a flag is wrong, something is not installed, the address is taken, or the model cannot be loaded.
    """
    try:
        import prometheus_client  # noqa: F401
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f'serving needs {error.name}: pip install "babyllm[serve]"') from None
    from babyllm.serve.http.uvicorn_interface import check_uvicorn

    check_uvicorn()
    import torch

    from babyllm.loading import model_directory
    from babyllm.serve.engine_thread import Loading
    from babyllm.serve.http.middleware import Access, is_loopback
    from babyllm.serve.served_model import load_served_adapter, load_served_model
    from babyllm.serve.server import Settings, serve
    from babyllm.store.sessions.session_log import Retention

    _check(flags)
    _check_names(flags, directory)
    model_directory(directory)
    key = flags.api_key or secret("BABYLLM_API_KEY")
    _check_key(flags.api_key, key)
    access = Access(flags.host, key, _hosts(flags.allowed_hosts), _origins(flags.allowed_origins))
    if not is_loopback(flags.host) and key is None:
        _note(f"anyone who reaches {flags.host} can use this server: give --api_key, or leave out --host")
    if flags.log:
        _note(f"what is said is stored in {flags.log} for {flags.log_days} days: the people who use it have to agree")
    aliases = (flags.aliases,) if isinstance(flags.aliases, str) else tuple(flags.aliases)
    with start(flags.runtime) as runtime:

        def load() -> list[tuple[Transformer, ServedModel]]:
            model, served = load_served_model(directory, flags.name, flags.context, flags.int8, aliases)
            models = [(model.to(runtime.device), served)]
            for name, place in flags.adapters.items():
                models.append(load_served_adapter(place, name, model, directory, served))
            return models

        loading = Loading(
            load,
            partial(read_as_chosen, runtime),
            flags.slots,
            flags.queue,
            torch.get_num_threads(),
            flags.max_adapters,
            flags.cached_tokens,
        )
        settings = Settings(
            access=access,
            port=flags.port,
            max_body_bytes=flags.max_body_bytes,
            feedback=Path(flags.feedback) if flags.feedback else None,
            grace_s=flags.grace_s,
            request_log=Path(flags.request_log) if flags.request_log else None,
            logs_contents=flags.log_contents,
            log=Path(flags.log) if flags.log else None,
            retention=Retention(flags.log_days, flags.log_max_bytes),
        )
        serve(settings, loading, _tell_ready)


def _check(flags: Flags) -> None:
    """Check the values of the flags.

    Raises:
        UserError: a value is not valid; the message names the flag.
    """
    for name, least in (
        ("slots", 1),
        ("max_adapters", 1),
        ("queue", 0),
        ("context", 2),
        ("port", 0),
        ("max_body_bytes", 1),
        ("grace_s", 0),
    ):
        value = getattr(flags, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name}={value}: must be at least {least}")
    if flags.port > 65535:
        raise UserError(f"--port={flags.port}: must be at most 65535")
    if flags.adapters and flags.int8:
        raise UserError("--adapters: their base must be in float32; leave out --int8, or serve each merged")
    if flags.log_contents and flags.request_log is None:
        raise UserError("--log_contents: there is no log to hold them; give --request_log=FILE too")


def _check_names(flags: Flags, directory: str) -> None:
    """Check that each name stands for one model.

    Raises:
        UserError: two models would have a name, or an adapter has none.
    """
    base = flags.name or Path(directory).resolve().name
    names = [flags.aliases] if isinstance(flags.aliases, str) else flags.aliases
    for name in flags.adapters:
        if not name or name in (base, *names):
            raise UserError(f"--adapters: {name!r} is empty or the name of the base; give each adapter another name")


def _check_key(flag: str | None, key: str | None) -> None:
    """Check the key that requests must contain, which may come from the flag.

    Raises:
        UserError: a header cannot hold it; the message names its source.
    """
    if flag == "" or (key is not None and not (key.isascii() and key.isprintable() and key.strip() == key)):
        source = "BABYLLM_API_KEY" if flag is None else "--api_key"
        raise UserError(f"{source}: use printable ASCII characters, without blanks at the ends")


def _hosts(given: str | list[str]) -> tuple[str, ...]:
    """The host names in the form in which a Host header is compared with them.

    Raises:
        UserError: one of them is not a host name.
    """
    from babyllm.serve.http.cross_origin import ALL
    from babyllm.serve.http.middleware import host_name

    names = [given] if isinstance(given, str) else given
    found = [name if name == ALL else host_name(name) for name in names]
    for name, host in zip(names, found, strict=True):
        if host is None:
            raise UserError(f"--allowed_hosts={name}: give names such as chat.example.com, without https:// and path")
    return tuple(host for host in found if host is not None)


def _origins(given: str | list[str]) -> tuple[str, ...]:
    """The origins in the form that browsers send.

    Raises:
        UserError: one of them is not an origin.
    """
    from babyllm.serve.http.cross_origin import ALL, FILES

    origins = [given] if isinstance(given, str) else given
    for origin in origins:
        if origin not in (ALL, "null", FILES) and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise UserError(f"--allowed_origins={origin}: give sites such as https://chat.example.com, without a path")
    return tuple("null" if origin == FILES else origin for origin in origins)  # browsers send null for files


def _tell_ready(ready: Ready) -> None:
    """Print the address of the server, once the model is loaded."""
    address, model = ready.url, ready.catalog.base
    if model.template is None:
        _note(model.why_no_chat)
    elif not model.has_learned_chat:
        _note(f"{model.name} has no chat template: a base model, which was not taught to answer; using chatml")
    if adapters := [other.name for other in ready.catalog.models if other.parent]:
        _note(f"adapters beside it: {', '.join(adapters)}")
    print(f"{model.name}: {address}/ to chat, {address}/v1 for programs; Ctrl-C ends it", flush=True)


def _note(text: str) -> None:
    """Print a line for the user on stderr."""
    print(f"({text})", file=sys.stderr, flush=True)

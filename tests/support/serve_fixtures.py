"""Servers of tiny models on real sockets, and clients to ask them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import httpx
import openai
from model_fixtures import chain, decisive

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.serve.engine_thread import Loading
from babyllm.serve.http.middleware import Access
from babyllm.serve.served_model import ServedModel
from babyllm.serve.server import Ready, Settings, serve
from babyllm.tokenizer import Tokenizer

SETTINGS = Settings(Access("127.0.0.1"), port=0, max_body_bytes=1 << 20, feedback=None, grace_s=5)
NAME = "tiny"
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
Loaded: TypeAlias = tuple[Transformer, ServedModel]
PATIENCE_S = 90.0  # for a machine with much else to do


def talkative(config: ModelConfig) -> Transformer:
    """A random model whose next token depends on all it reads."""
    return decisive(config, seed=3)


def endless_model(tiny: Callable[..., ModelConfig], tokenizer: Tokenizer) -> Transformer:
    """A model that says one character for seconds."""
    return chain(tiny(max_seq_len=6000, n_layers=1, tie_embeddings=False), tokenizer.encode("龘"))


def served(tokenizer: Tokenizer, config: ModelConfig, template: ChatTemplate | None = None) -> ServedModel:
    """What a server knows of a model."""
    why = "" if template else "no chat"
    return ServedModel(NAME, tokenizer, config.max_seq_len, config.vocab_size, template, why, width=config.d_model)


@dataclass
class Server:
    """A running server."""

    url: str
    stop: Callable[[], None]
    http: httpx.Client
    key: str = "none"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @contextmanager
    def openai(self) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=PATIENCE_S) as client:
            yield client

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def number(self, name: str) -> float:
        """A sample of /metrics."""
        lines = (line.rpartition(" ") for line in self.get("/metrics").text.splitlines())
        return next((float(value) for key, _, value in lines if key == name), 0.0)

    def wait_for(self, name: str, value: float) -> None:
        """Return once a sample has a value."""
        until(lambda: self.number(name) == value, f"{name} {value}")


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)


@contextmanager
def serving(
    load: Callable[[], Loaded | list[Loaded]],
    *,
    slots: int = 4,
    queue: int = 60,
    host: str = "127.0.0.1",
    api_key: str | None = None,
    allowed_hosts: tuple[str, ...] = (),
    allowed_origins: tuple[str, ...] = (),
    reading: Callable[[], AbstractContextManager[Any]] = nullcontext,
    **settings: Any,
) -> Iterator[Server]:
    """A server in a thread of its own, ended with the block."""
    chosen = replace(SETTINGS, access=Access(host, api_key, allowed_hosts, allowed_origins), **settings)

    def load_all() -> list[Loaded]:
        found = load()
        return found if isinstance(found, list) else [found]

    readies: list[Ready] = []
    is_ready = threading.Event()

    def tell(ready: Ready) -> None:
        readies.append(ready)
        is_ready.set()

    loading = Loading(load_all, reading, slots, queue, 1)
    thread = threading.Thread(target=serve, args=(chosen, loading, tell))
    thread.start()
    assert is_ready.wait(PATIENCE_S)
    try:
        with httpx.Client(base_url=readies[0].url, timeout=PATIENCE_S) as client:
            yield Server(readies[0].url, readies[0].stop, client, api_key or "none")
    finally:
        readies[0].stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server ends"


def load_of(
    model: Transformer, tokenizer: Tokenizer, template: ChatTemplate | None
) -> Callable[[], tuple[Transformer, ServedModel]]:
    return lambda: (model, served(tokenizer, model.config, template))


def chatml(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


def saved_events(response: httpx.Response) -> list[str]:
    """The data of a stream's events."""
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12} | more

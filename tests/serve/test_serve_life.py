"""A server's life: loading, stopping meanwhile, and the end of its thread."""

import logging
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import httpx
import pytest
from model_fixtures import Tiny
from serve_fixtures import (
    CHAT,
    COMPLETE,
    PATIENCE_S,
    SETTINGS,
    asking,
    endless_model,
    served,
    serving,
    talkative,
    until,
)

from babyllm.chat.load import ChatTemplate
from babyllm.errors import UserError
from babyllm.model.transformer import Transformer
from babyllm.serve.engine_thread import Loading
from babyllm.serve.served_model import ServedModel
from babyllm.serve.server import serve
from babyllm.tokenizer import Tokenizer


def test_a_server_that_loads_says_so(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Until the model is loaded health and requests get 503; a model that cannot be loaded ends the server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model, statuses = talkative(tiny()), []

    def load() -> tuple[Transformer, ServedModel]:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            statuses.append(client.get("/health").status_code)
            statuses.append(client.post(COMPLETE, json={"prompt": "x"}).status_code)
        return model, served(tokenizer, model.config)

    with serving(load, port=port) as server:
        assert statuses == [503, 503]
        assert server.get("/health").status_code == 200

    def fail() -> tuple[Transformer, ServedModel]:
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        serve(SETTINGS, Loading(fail, nullcontext, 1, 1, 1), lambda ready: None)


def test_a_server_that_is_stopped_while_it_loads_says_nothing(
    tiny: Tiny, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C before the model is there ends the server in order, and the model that comes later is not served."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model, readies = talkative(tiny()), list[object]()

    def is_listening() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    def load() -> tuple[Transformer, ServedModel]:
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_S).status_code == 503
        signal.raise_signal(signal.SIGINT)
        until(lambda: not is_listening(), "closed")
        return model, served(tokenizer, model.config)

    serve(replace(SETTINGS, port=port), Loading(lambda: [load()], nullcontext, 1, 1, 1), readies.append)
    assert readies == [] and capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_dead_thread_leaves_nobody_waiting(
    tiny: Tiny, tokenizer: Tokenizer, template: ChatTemplate, caplog: pytest.LogCaptureFixture
) -> None:
    """When the model's thread ends, running and queued requests and all later ones get 503, as does the health."""
    model = endless_model(tiny, tokenizer)
    breaks = threading.Event()

    class Breaking:
        """Ends of answers, looked up at every token."""

        def __contains__(self, token: int) -> bool:
            if breaks.is_set():
                raise SystemExit("broken beyond repair")
            return False

    known = served(tokenizer, model.config, template)
    known.__dict__["end_ids"] = Breaking()
    with serving(lambda: (model, known), slots=1) as server, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.post, CHAT, asking("x", max_tokens=5000, stream=i == 2)) for i in range(3)]
        server.wait_for("babyllm_answers_waiting", 2)
        breaks.set()
        assert [answer.result().status_code for answer in asked].count(503) >= 2
        until(lambda: server.get("/health").status_code == 503, "unhealthy")
        refused = server.post(CHAT, asking("x"))
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "engine_dead"
    assert "broken beyond repair" in caplog.text

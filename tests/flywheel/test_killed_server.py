"""A server that is killed while it stores sessions: what its clients have received whole is in the log."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from model_fixtures import Tiny, decisive
from serve_fixtures import PATIENCE_S, until

from babyllm.__main__ import run
from babyllm.chat.load import load_template
from babyllm.interop.huggingface import save_model
from babyllm.store.sessions.session_log import session_files
from babyllm.store.sessions.session_reader import SessionReader
from babyllm.tokenizer import Tokenizer

N_CLIENTS = 4


@pytest.fixture
def model(tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> Path:
    folder, template = tmp_path / "model", load_template("chatml", tokenizer)
    folder.mkdir()
    save_model(folder, decisive(tiny(max_seq_len=128, n_layers=1)), template.tokenizer)
    template.tokenizer.save(folder, chat_template=template.source)
    return folder


@contextmanager
def serving_process(model: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    argv = [sys.executable, "-m", "babyllm", "serve", str(model), "--port=0", f"--log={log}", "--runtime.threads=1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+?:\d+", process.stdout.readline())
        assert found
        url = found[0]
        until(lambda: httpx.get(f"{url}/health").status_code == 200, "a loaded model")
        try:
            yield process, url
        finally:
            process.kill()


class Clients:
    """Threads that ask, whole and streamed, and rate until the server is gone.

    Attributes:
        answers: ids of the answers that came whole.
        ratings: ids of the answers of which the server said that their ratings are stored.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.answers: list[str] = []
        self.ratings: list[str] = []
        self._threads = [threading.Thread(target=self._work, args=(url, seed, i)) for i in range(N_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _work(self, url: str, seed: int, number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        with suppress(httpx.HTTPError), httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            for i in range(10_000):
                asked = {"role": "user", "content": f"{seed} {number} {i} " + "话" * rng.randrange(30)}
                body = {"messages": [asked], "max_tokens": rng.randrange(1, 6), "stream": rng.random() < 0.5}
                name = self._asked(client, body)
                self.answers.append(name)
                if rng.random() < 0.5:
                    assert client.post("/v1/feedback", json={"answer": name, "rating": 1}).json() == {"stored": True}
                    self.ratings.append(name)

    def _asked(self, client: httpx.Client, body: dict[str, object]) -> str:
        """The id of an answer that came whole."""
        if not body["stream"]:
            return str(client.post("/v1/chat/completions", json=body).json()["id"])
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
        if lines[-1:] != ["[DONE]"]:
            raise httpx.ReadError("cut")
        return str(json.loads(lines[0])["id"])


@pytest.mark.slow
def test_a_killed_server_loses_nothing_that_was_received(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After each SIGKILL amid answers the log is read, has all that came whole, and the next server goes on with it."""
    log, answers, ratings, rng = tmp_path / "log", set[str](), list[str](), random.Random(5)
    for round in range(2):
        with serving_process(model, log) as (process, url):
            clients = Clients(url, round)
            least = rng.randrange(5, 40)
            until(lambda: len(clients.answers) >= least, "some answers")  # noqa: B023
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            clients.join()
        answers |= set(clients.answers)
        ratings += clients.ratings
        with session_files(log)[-1].open("ab") as file:  # as a kill amid a write leaves it
            file.write(b'{"kind": "answer", "id": "torn", "messages": [{"role": "us')
    reader = SessionReader(log)
    found = [one for session in reader.sessions() for one in session]
    assert answers <= {one.id.removesuffix("#0") for one in found}
    assert set(ratings) <= {one.id.removesuffix("#0") for one in found if one.rating == 1}
    assert 2 <= reader.n["lines that cannot be read"] <= 4 and reader.n["ratings"] >= len(ratings)
    run(["harvest", str(log), str(tmp_path / "out"), "--held_out=0", "--near=1"])
    assert re.search(rf"lines that cannot be read\W+{reader.n['lines that cannot be read']}", capsys.readouterr().out)
    assert (tmp_path / "out" / "harvest.json").is_file()  # a random model's answers of a few tokens are all cut

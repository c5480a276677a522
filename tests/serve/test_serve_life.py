"""A server's life: loading, failures within, feedback, the command, and its end."""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tokenizers
import torch
from model_fixtures import Tiny, chain
from serve_fixtures import (
    CHAT,
    COMPLETE,
    PATIENCE_S,
    SETTINGS,
    asking,
    chatml,
    load_of,
    saved_events,
    served,
    serving,
    talkative,
    until,
)

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import ASSISTANT, USER, Conversation, Message
from babyllm.chat.reading import read_conversations
from babyllm.chat.supervise import Supervise
from babyllm.commands.serve import Flags, run
from babyllm.errors import UserError
from babyllm.generation import Engine, Sampling
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.serve.api.choice import ChoiceDelta
from babyllm.serve.api.feedback import FeedbackFile
from babyllm.serve.api.requests import ChoiceRequest, GenerationRequest
from babyllm.serve.engine_thread import Loading
from babyllm.serve.served_model import ServedModel, load_served_model
from babyllm.serve.server import serve
from babyllm.serve.writer import Writer
from babyllm.text.readers import Rejected
from babyllm.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
CPU = ["--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1"]


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return chatml(tokenizer)


def endless(tiny: Tiny, tokenizer: Tokenizer, max_seq_len: int = 6000) -> Transformer:
    """A model that says one character for seconds."""
    return chain(tiny(max_seq_len=max_seq_len, n_layers=1, tie_embeddings=False), tokenizer.encode("龘"))


# ---- loading and failing


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

    serve(replace(SETTINGS, port=port), Loading(load, nullcontext, 1, 1, 1), readies.append)
    assert readies == [] and capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def wanted(prompt: list[int], n: int = 4, **more: Any) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=n, temperature=0, **more)
    return GenerationRequest([ChoiceRequest(prompt, sampling, frozenset())], len(prompt), False, False, None)


def written(writer: Writer) -> dict[Any, list[ChoiceDelta]]:
    """All pieces that a writer gives until it is idle, by request."""
    pieces: dict[Any, list[ChoiceDelta]] = {}
    while not writer.is_idle:
        for key, piece in writer.advance():
            pieces.setdefault(key, []).append(piece)
    return pieces


class Failing(Engine):
    """An engine that fails in the step after it has been told to."""

    fails = False

    def step(self) -> Any:
        if self.fails:
            raise RuntimeError("out of memory")
        return super().step()


def test_an_engine_that_fails_takes_only_what_it_was_writing_with_it(
    tiny: Tiny, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers in slots get a 500, those that waited are written by a new engine."""
    model = talkative(tiny())
    engines: list[Failing] = []

    def make() -> Engine:
        engines.append(Failing(model, slots=2))
        return engines[-1]

    writer = Writer(make, tokenizer, 2)
    for key in "abcd":
        writer.begin(key, wanted([ord(key)]))
    begun = [key for key, piece in writer.advance() if piece.n_tokens]
    assert sorted(begun) == ["a", "b"]
    engines[0].fails = True
    pieces = written(writer)
    for key in "ab":
        assert (problem := pieces[key][-1].problem) and problem.status == 500
    for key in "cd":
        assert pieces[key][-1].finish == "length" and sum(piece.n_tokens for piece in pieces[key]) == 4
    assert len(engines) == 2 and "out of memory" in caplog.text


def test_scores_that_are_no_numbers_end_one_request(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A prompt that the model cannot read gets a 500, those written beside it their answers, and no engine is lost."""
    model = talkative(tiny(tie_embeddings=False))
    with torch.no_grad():
        model.embed_tokens.weight[399] = float("nan")
    engines: list[Engine] = []

    def make() -> Engine:
        engines.append(Engine(model, slots=2))
        return engines[-1]

    writer = Writer(make, tokenizer, 2)
    writer.begin("bad", wanted([5, 399]))
    writer.begin("good", wanted([5, 6]))
    writer.begin(
        "unscored",
        GenerationRequest([ChoiceRequest([5, 399], Sampling(logprobs=1), frozenset(), echo="x")], 1, False, False, 1),
    )
    pieces = written(writer)
    for key in ("bad", "unscored"):
        assert (problem := pieces[key][-1].problem) and problem.status == 500
    assert pieces["good"][-1].finish == "length" and sum(piece.n_tokens for piece in pieces["good"]) == 4
    assert len(engines) == 1


def test_an_engine_that_failed_is_gone_before_the_next_is_made(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Its weights and rows are not held twice, and what is asked of the writer meanwhile is answered."""
    model = talkative(tiny())
    decoders: list[weakref.ref[Any]] = []
    were_alive: list[bool] = []

    def make() -> Engine:
        were_alive.extend(decoder() is not None for decoder in decoders)
        if decoders:
            assert writer.n_running == 0 and writer.n_waiting == 1
        engine = Failing(model, slots=1)
        decoders.append(weakref.ref(engine._decoder))
        return engine

    writer = Writer(make, tokenizer, 1)
    writer.begin("a", wanted([5]))
    writer.advance()
    writer.begin(
        "scored",
        GenerationRequest([ChoiceRequest([5, 6], Sampling(logprobs=1), frozenset(), echo="x")], 2, False, False, 1),
    )
    writer._engine.fails = True  # type: ignore[attr-defined]
    pieces = written(writer)
    assert were_alive == [False]
    assert pieces["a"][-1].problem and pieces["scored"][-1].finish


def test_one_bad_request_hurts_no_other(tiny: Tiny, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever cannot be written for one request ends that one, wherever it fails: its scores, its prompt, its text."""
    model = talkative(tiny())

    class Scoreless(Engine):
        def scores(self, prompt: Any, k: int) -> Iterator[Any]:
            raise RuntimeError("no scores")
            yield

    writer = Writer(lambda: Scoreless(model, slots=2), tokenizer, 2)
    writer.begin(
        "bad scores",
        GenerationRequest([ChoiceRequest([5], Sampling(logprobs=1), frozenset(), echo="x")], 1, False, False, 1),
    )
    writer.begin("bad prompt", wanted([5000]))
    writer.begin("bad stop", wanted([5], stop=(5,)))
    writer.begin("good", wanted([5]))
    pieces = written(writer)
    assert pieces["good"][-1].finish == "length"
    for key in ("bad scores", "bad prompt", "bad stop"):
        assert (problem := pieces[key][-1].problem) and problem.status == 500, key
    assert "no scores" in caplog.text


def test_a_dead_thread_leaves_nobody_waiting(
    tiny: Tiny, tokenizer: Tokenizer, template: ChatTemplate, caplog: pytest.LogCaptureFixture
) -> None:
    """When the model's thread ends, running and queued requests and all later ones get 503, as does the health."""
    model = endless(tiny, tokenizer)
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


# ---- feedback


def test_feedback_is_training_data(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """Praise is read as a conversation whose last answer is trained on; blame is kept, but not as a conversation."""
    file = tmp_path / "ratings.jsonl"
    file.write_text('{"messages": [{"role"')  # what a crash left
    chat = [("system", "s"), ("user", "今天\u2028"), ("assistant", "😀"), ("user", "y"), ("assistant", "天气\n很好")]
    messages = [{"role": role, "content": content} for role, content in chat]
    with serving(load_of(talkative(tiny()), template.tokenizer, template), feedback=file) as server:
        assert server.get("/v1/models").json()["babyllm"]["feedback"] is True
        for rating in (1, -1):
            assert server.post("/v1/feedback", {"messages": messages, "rating": rating}).status_code == 200
        for wrong in (
            {"messages": messages, "rating": 0},
            {"messages": messages, "rating": True},
            {"messages": messages[:-1], "rating": 1},
            {"messages": [], "rating": 1},
            {"messages": messages, "rating": 1, "path": "/etc/passwd"},
        ):
            assert server.post("/v1/feedback", wrong).status_code == 400
    lines = [json.loads(line) for line in file.read_text("utf-8").split("\n")[1:-1]]
    assert [line["rating"] for line in lines] == [1, -1] and all("time" in line for line in lines)
    found = list(read_conversations(file, FormatConfig()))
    praised = [item for item in found if isinstance(item, Conversation)]
    assert len(praised) == 1 and [(m.role, m.content) for m in praised[0].messages] == chat
    rendered = template.render(praised[0].messages, Supervise())
    assert template.tokenizer.decode(rendered.ids[rendered.turns > 0].tolist()) == "天气\n很好"
    blamed = [item for item in found if isinstance(item, Rejected)]
    assert len(blamed) == 2 and "preferences" in blamed[1].reason


def test_ratings_from_many_threads_are_whole_lines(tmp_path: Path) -> None:
    """Ratings that come at once do not mix; a file that cannot be written is refused at the door."""
    file = FeedbackFile(tmp_path / "ratings.jsonl")
    texts = [chr(0x4E00 + i) * 5000 for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: file.add([Message(USER, "x"), Message(ASSISTANT, text)], 1), texts))
    file.close()
    lines = (tmp_path / "ratings.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["messages"][1]["content"] for line in lines} == set(texts) and len(lines) == 20
    with pytest.raises(UserError, match=r"--feedback=.*cannot be written"):
        FeedbackFile(tmp_path / "absent" / "ratings.jsonl")


# ---- models and the command


def saved(directory: Path, model: Transformer, template: ChatTemplate | None, tokenizer: Tokenizer) -> Path:
    directory.mkdir(exist_ok=True)
    save_model(directory, model, tokenizer)
    tokenizer.save(directory, chat_template=template.source if template else None)
    return directory


def test_models_with_and_without_chat(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """A base model chats in ChatML if it knows its tokens; one that does not still completes texts."""
    tokenizer = template.tokenizer
    _, base = load_served_model(str(saved(tmp_path / "base", talkative(tiny()), None, tokenizer)), None, 32)
    assert base.template and not base.has_learned_chat and (base.name, base.context) == ("base", 32)
    _, tuned = load_served_model(str(saved(tmp_path / "tuned", talkative(tiny()), template, tokenizer)), "mine", None)
    assert tuned.template and tuned.has_learned_chat and (tuned.name, tuned.context) == ("mine", 64)
    plain = foreign()
    where = saved(tmp_path / "plain", talkative(tiny(vocab_size=plain.vocab_size)), None, plain)
    with serving(lambda: load_served_model(str(where), None, None)) as server:
        refused = server.post(CHAT, asking("x"))
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "no_chat_template"
        assert server.post(COMPLETE, {"prompt": "aaa", "model": "plain"}).status_code == 200
        assert server.get("/v1/models").json()["babyllm"]["chat"] is False


def test_completions_of_a_chat_end_where_the_chat_ends(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """GenerationRequest with the ids of its template, a chat model answers as it does in a chat, whole and streamed."""
    tokenizer = template.tokenizer
    says = chain(tiny(tie_embeddings=False), [*tokenizer.encode("今天"), tokenizer.special["<|im_end|>"]])
    where = saved(tmp_path / "tuned", says, template, tokenizer)
    ids = template.prompt([Message(USER, "x")])
    with serving(lambda: load_served_model(str(where), None, None)) as server:
        chat = server.post(CHAT, asking("x", max_tokens=20)).json()["choices"][0]
        asked = {"prompt": ids, "temperature": 0, "max_tokens": 20}
        plain = server.post(COMPLETE, asked).json()["choices"][0]
        events = saved_events(server.post(COMPLETE, asked | {"stream": True}))[:-1]
    assert chat["message"]["content"] == plain["text"] == "今天"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == "今天"
    assert chat["finish_reason"] == plain["finish_reason"] == "stop"


def foreign() -> Tokenizer:
    """A vocabulary that lacks the tokens of ChatML."""
    rust = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2}, merges=[]))
    rust.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in ("<s>", "</s>")])
    return Tokenizer(rust.to_str().encode(), "json", {"eos": "</s>"})


@contextmanager
def command(directory: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The real command as a process, and its address."""
    arguments = [sys.executable, "-m", "babyllm", "serve", str(directory), "--port=0", *CPU, *flags]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(arguments, cwd=ROOT, **pipes) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert ": http" in line, process.stderr and process.stderr.read()
            yield process, line.split()[1].rstrip("/")
        finally:
            process.kill()


def test_sigterm_lets_answers_end(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """The command ends with status 0 when told to: answers being written are finished, silently."""
    where = saved(tmp_path / "run", endless(tiny, template.tokenizer), template, template.tokenizer)
    body = asking("x", max_tokens=600, stream=True)
    with command(where) as (process, url), httpx.stream("POST", f"{url}{CHAT}", json=body, timeout=20) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""] and sum('"content":"龘"' in line for line in rest) >= 199
        assert process.wait(20) == 0
        assert process.stderr and process.stderr.read() == ""


def test_answers_that_take_too_long_are_cut(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """After the grace period a stream ends with an error and a waiting client gets 503; the status is still 0."""
    where = saved(tmp_path / "run", endless(tiny, template.tokenizer), template, template.tokenizer)
    body = asking("x", max_tokens=5900)
    with command(where, "--grace_s=0.2") as (process, url), ThreadPoolExecutor(1) as pool:
        whole = pool.submit(httpx.post, f"{url}{CHAT}", json=body, timeout=20)
        with httpx.stream("POST", f"{url}{CHAT}", json={**body, "stream": True}, timeout=20) as response:
            lines = response.iter_lines()
            next(lines)
            until(lambda: "babyllm_answers_running 2" in httpx.get(f"{url}/metrics").text, "both are being answered")
            process.send_signal(signal.SIGINT)
            last = json.loads(list(filter(None, lines))[-1].removeprefix("data: "))
        assert last["error"]["code"] == "shutting_down"
        assert whole.result().status_code == 503
        assert process.wait(20) == 0


def test_mistakes_of_the_command(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """A folder without a model, a taken port and flags that cannot be are told in one line."""
    with pytest.raises(UserError, match="neither a model directory"):
        run(Flags(), str(tmp_path))
    where = str(saved(tmp_path / "run", talkative(tiny()), template, template.tokenizer))
    with serving(load_of(talkative(tiny()), template.tokenizer, None)) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(UserError, match=f"--port={port}: .*in use"):
            run(Flags(port=port), where)
    for flags, name in (
        (Flags(slots=0), "slots"),
        (Flags(context=0), "context"),
        (Flags(api_key="ü"), "api_key"),
        (Flags(port=99999), "port"),
    ):
        with pytest.raises(UserError, match=f"--{name}"):
            run(flags, where)
    with pytest.raises(UserError, match="max_seq_len of 64"):
        run(Flags(port=0, context=100_000), where)

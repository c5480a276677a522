"""Models as they lie on the disk, and the command that serves them."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import tokenizers
from model_fixtures import Tiny, chain
from serve_fixtures import (
    CHAT,
    COMPLETE,
    asking,
    endless_model,
    load_of,
    saved_events,
    serving,
    talkative,
    until,
)

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import USER, Message
from babyllm.commands.use.serve import Flags, run
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.serve.served_model import load_served_model
from babyllm.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
CPU = ["--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1"]


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
    """The command ends with status 0 at a signal: answers being written are finished, silently."""
    where = saved(tmp_path / "run", endless_model(tiny, template.tokenizer), template, template.tokenizer)
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
    where = saved(tmp_path / "run", endless_model(tiny, template.tokenizer), template, template.tokenizer)
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
    """A folder without a model, a taken port and flags that cannot be are reported in one line."""
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


@pytest.mark.parametrize(
    ("flags", "variable", "key"),
    [((), "from-env", "from-env"), (("--api_key=flag",), "from-env", "flag"), ((), "", None)],
)
def test_the_key_of_the_environment(
    tmp_path: Path,
    tiny: Tiny,
    template: ChatTemplate,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    variable: str,
    key: str | None,
) -> None:
    """It is required unless a flag names another; aliases and a log come from the command line too."""
    where = saved(tmp_path / "run", talkative(tiny()), template, template.tokenizer)
    monkeypatch.setenv("BABYLLM_API_KEY", variable)
    log = tmp_path / "log"
    more = ("--aliases=[gpt-4o, b]", f"--request_log={log}", "--allowed_origins=file://")
    with command(where, *flags, *more) as (_, url):
        for given in (None, "from-env", "flag"):
            headers = {"authorization": f"Bearer {given}"} if given else {}
            answer = httpx.get(f"{url}/v1/models", headers={**headers, "origin": "null"}, timeout=20)
            assert answer.status_code == (200 if given == key or key is None else 401)
            assert answer.headers["access-control-allow-origin"] == "null"
            if answer.status_code == 200:
                assert [one["id"] for one in answer.json()["data"]] == ["run", "gpt-4o", "b"]
        until(lambda: log.read_text().count("\n") == 3, "three lines")

"""Uploads through the hubs' own client libraries to a stand-in of their servers."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hub_stand_in import CUT, LFS_BYTES, TOKEN, Repository, StandIn, stand_in
from worker import ROOT

# The libraries read their addresses when they are imported, so they are in a process of their own.
PROGRAM = """
import contextlib, io, json, os, sys
from babyllm.__main__ import run
from babyllm.errors import UserError
for line in sys.stdin:
    argv, token = json.loads(line)
    os.environ |= {"HF_TOKEN": token, "MODELSCOPE_API_TOKEN": token}
    output, error = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(output):
            run(argv)
    except UserError as refusal:
        error = str(refusal)
    print(json.dumps([output.getvalue(), error]), flush=True)
"""
LIBRARIES = {"huggingface": "huggingface_hub", "modelscope": "modelscope_hub"}
BRANCHES = {"huggingface": "main", "modelscope": "master"}


class Outcome(NamedTuple):
    """What a command printed, and its error."""

    output: str
    error: str | None


class Client:
    """A process that uploads to a hub, or to its stand-in; the libraries do not repeat what failed."""

    def __init__(self, hub: str, server: StandIn, home: Path) -> None:
        self.hub, self.server, self.branch = hub, server, BRANCHES[hub]
        self._log = home / "stderr.txt"
        variables = {
            **{"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)},
            **{"MODELSCOPE_ENDPOINT": server.endpoint, "MODELSCOPE_HOME": str(home), "MODELSCOPE_CACHE": str(home)},
            **{"MODELSCOPE_API_MAX_RETRIES": "1", "MODELSCOPE_UPLOAD_COMMIT_MAX_ATTEMPTS": "1"},
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "*"},
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **variables},
            )

    def upload(self, source: Path, name: str, *flags: str, token: str = TOKEN) -> Outcome:
        """The outcome of one upload."""
        argv = ["upload", str(source), name, *flags, f"--to={self.hub}", "--card.license=mit"]
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([argv, token]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._log.read_text()
        assert token not in line
        return Outcome(*json.loads(line))

    def close(self) -> str:
        """End the process; returns what it wrote to stderr."""
        self._process.communicate()
        return self._log.read_text()


@pytest.fixture(scope="module", params=LIBRARIES)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of each hub whose library is installed, and its server; each test has a repository of its own."""
    pytest.importorskip(LIBRARIES[request.param])
    with stand_in() as server:
        one = Client(request.param, server, tmp_path_factory.mktemp("client"))
        yield one
        assert TOKEN not in one.close()


def is_private(repository: Repository, hub: str) -> bool:
    """Whether a hub was asked for a private repository."""
    about = repository.about
    return bool(about.get("visibility") == "private" if hub == "huggingface" else about["Visibility"] == 1)


def test_a_model_arrives_whole_and_once(client: Client, written_run: Path) -> None:
    """A private repository has the bytes of each file, large ones apart from the commit; a second upload sends none."""
    step, sent = next(written_run.glob("step_*")), len(client.server.puts)
    outcomes = [client.upload(written_run, "me/whole", "--message=first") for _ in range(2)]
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert f"{client.server.endpoint}/" in outcomes[0].output
    repository = client.server.repositories["me/whole"]
    assert is_private(repository, client.hub) and repository.messages[0].startswith("first")
    files = repository.branches[client.branch]
    assert files["README.md"].startswith(b"---\nlicense: mit\n") and files["curve.png"].startswith(b"\x89PNG")
    copied = files.keys() - {".gitattributes", "README.md", "curve.png"}
    assert {name: files[name] for name in copied} == {name: (step / name).read_bytes() for name in copied}
    assert "model.safetensors" in copied and "tokenizer.json" in copied
    assert not {"optimizer.safetensors", "resume.json", ".verified.json", "notes.txt"} & copied
    assert {name for name in copied if len(files[name]) >= 4 * LFS_BYTES} <= repository.large
    puts = client.server.puts[sent:]
    assert hashlib.sha256(files["model.safetensors"]).hexdigest() in puts and len(puts) == len(set(puts))


def test_what_was_uploaded_is_read_by_transformers(client: Client, written_run: Path, tmp_path: Path) -> None:
    """The uploaded config.json works as it is: transformers reads the files of a branch that is not the main one."""
    transformers = pytest.importorskip("transformers")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if client.hub == "modelscope":  # whose library makes no branches
        client.server.create("me/branch", {}, "v2")
    outcome = client.upload(written_run, "me/branch", "--private=false", "--revision=v2")
    repository = client.server.repositories["me/branch"]
    assert outcome.error is None
    assert client.hub == "modelscope" or not is_private(repository, client.hub)
    assert repository.branches.get(client.branch, {}).keys() <= {".gitattributes"}
    for name, content in repository.branches["v2"].items():
        (tmp_path / name).write_bytes(content)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.num_hidden_layers == 2 and len(tokenizer("今天")["input_ids"]) > 0


def test_an_upload_that_broke_goes_on(client: Client, foreign: Path) -> None:
    """If the commit is refused, the repository has no file of the model; the next start sends only what is missing."""
    weights = foreign / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")  # which no other test has sent
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    client.server.faults["me/broken", "commit"] = 403
    broken = client.upload(foreign, "me/broken")
    assert broken.error and "this token may not write to me/broken" in broken.error
    assert client.server.repositories["me/broken"].branches[client.branch].keys() == {".gitattributes"}
    client.server.faults.clear()
    assert client.upload(foreign, "me/broken").error is None
    assert client.server.puts.count(digest) == 1
    stored = client.server.repositories["me/broken"].branches[client.branch]
    assert stored["model.safetensors"] == weights.read_bytes()


def test_a_repository_with_another_model_is_left_alone(client: Client, foreign: Path) -> None:
    """Files that would stand beside the new ones are named, and nothing is sent, unless they may stay."""
    other = "model-00001-of-00002.safetensors"
    client.server.create("me/other", {}, client.branch)
    client.server.store("me/other", client.branch, other, b"old")
    refused = client.upload(foreign, "me/other")
    assert refused.error and f"me/other: already has files that this model lacks ({other})" in refused.error
    files = client.server.repositories["me/other"].branches[client.branch]
    assert files.keys() == {".gitattributes", other}
    assert client.upload(foreign, "me/other", "--keep_others").error is None
    assert {"config.json", other} <= files.keys()


@pytest.mark.parametrize(
    ("fault", "kind", "line"),
    [
        (401, "create", "does not accept this token; make one that may write at https://"),
        (403, "create", "this token may not write to me/refused-403"),
        (409, "commit", "reports a change by somebody else during the upload; the same command goes on"),
        (500, "create", "has failed with status 500"),
        (CUT, "create", "cannot be reached, or the connection broke"),
    ],
)
def test_failures_are_one_line_that_says_what_to_do(
    client: Client, foreign: Path, fault: int, kind: str, line: str
) -> None:
    """A status that refuses, a failing server and a cut connection each have a line of their own."""
    client.server.faults[f"me/refused-{fault}", kind] = fault
    outcome = client.upload(foreign, f"me/refused-{fault}")
    assert outcome.error and line in outcome.error and "\n" not in outcome.error


def test_a_wrong_token_is_not_printed(client: Client, foreign: Path) -> None:
    """The line names the variable with the token, and the page where tokens are made."""
    outcome = client.upload(foreign, "me/unknown", token="hidden-and-wrong")
    assert outcome.error and "does not accept this token; make one" in outcome.error


def test_an_address_that_does_not_answer_is_said(client: Client, foreign: Path, tmp_path: Path) -> None:
    """If nothing listens, the line names the variable with the address of another server."""
    lost = Client(client.hub, StandIn(endpoint="http://127.0.0.1:9"), tmp_path)
    outcome = lost.upload(foreign, "me/model")
    lost.close()
    assert outcome.error and "check the network, or name a mirror in" in outcome.error and "_ENDPOINT" in outcome.error

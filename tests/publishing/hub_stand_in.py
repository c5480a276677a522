"""A server that speaks what the clients of Hugging Face and ModelScope need to upload, and keeps what arrives."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "secret-of-the-user"
CUT = 0
"""The fault of a connection that is closed without an answer."""
LFS_BYTES = 20_000  # files of this size and above are uploaded apart from the commit
_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Files by branch and path, which of them came apart from a commit, and how the repository was made."""

    about: dict[str, Any]
    branches: dict[str, dict[str, bytes]]
    large: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)


@dataclass
class StandIn:
    """What the server has, has seen, and answers wrongly.

    Attributes:
        repositories: repositories by OWNER/NAME.
        blobs: contents of large files by sha256.
        puts: sha256 of each large file that was sent, in order.
        faults: status, or `CUT`, by OWNER/NAME and the kind of request: create, put or commit.
        endpoint: address of the server.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    faults: dict[tuple[str, str], int] = field(default_factory=dict)
    endpoint: str = ""

    def create(self, name: str, about: dict[str, Any], branch: str) -> None:
        """Make a repository with the one file that a hub puts into a new one."""
        self.repositories[name] = Repository(about, {branch: {".gitattributes": b"*.safetensors filter=lfs"}})

    def store(self, name: str, branch: str, path: str, content: bytes | None, oid: str = "") -> bool:
        """Add a file to a branch: its content, or the sha256 of one that was sent before. Whether that was there."""
        repository = self.repositories[name]
        if content is None:
            repository.large.add(path)
            content = self.blobs.get(oid)
        if content is not None:
            repository.branches[branch][path] = content
        return content is not None


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A running server."""
    state = StandIn()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        for method, pattern, answer in _ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                return answer(self, body, **found.groupdict())
        self.answer(404, {"error": f"no route for {self.command} {path}"})

    do_GET = do_POST = do_PUT = _handle

    def answer(self, status: int, value: Any, **headers: str) -> None:
        """Send a JSON value."""
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def refuses(self, name: str, kind: str, *, needs_token: bool = True) -> bool:
        """Answer with the fault that a test has set, or 401 without the token; whether it did."""
        fault = self.state.faults.get((name, kind))
        if fault == CUT:
            self.close_connection = True
            self.connection.shutdown(2)
        elif fault:
            self.answer(fault, {"error": "as the test asked", "Message": "as the test asked"})
        elif needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password.", "Message": "user not logged in"})
        else:
            return False
        return True


# ---- both hubs


def _put(handler: _Handler, body: bytes, name: str, oid: str) -> None:
    if handler.refuses(name, "put", needs_token=False):
        return
    assert hashlib.sha256(body).hexdigest() == oid
    handler.state.blobs[oid] = body
    handler.state.puts.append(oid)
    handler.answer(200, {})


def _uploads(state: StandIn, name: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where to send each object of an LFS batch; nowhere if it is there."""
    return [
        {"oid": one["oid"], "size": one["size"]}
        | ({} if one["oid"] in state.blobs else {"actions": {"upload": {"href": _href(state, name, one["oid"])}}})
        for one in objects
    ]


def _href(state: StandIn, name: str, oid: str) -> str:
    return f"{state.endpoint}/lfs/{name}/{oid}"


# ---- Hugging Face


def _hf_info(handler: _Handler, body: bytes, name: str, revision: str = "main") -> None:
    if name in handler.state.repositories:
        handler.answer(200, {"id": name, "sha": "0" * 40})
    else:
        handler.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")


def _hf_create(handler: _Handler, body: bytes) -> None:
    about = json.loads(body)
    name = f"{about['organization']}/{about['name']}"
    if not handler.refuses(name, "create"):
        handler.state.create(name, about, "main")
        handler.answer(200, {"url": f"{handler.state.endpoint}/{name}"})


def _hf_branch(handler: _Handler, body: bytes, name: str, branch: str) -> None:
    branches = handler.state.repositories[name].branches
    status = 409 if branch in branches else 200
    branches.setdefault(branch, dict(branches["main"]))
    handler.answer(status, {})


def _hf_tree(handler: _Handler, body: bytes, name: str, branch: str) -> None:
    files = handler.state.repositories[name].branches[branch]
    handler.answer(200, [{"type": "file", "path": p, "size": len(c), "oid": _git_oid(c)} for p, c in files.items()])


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _hf_modes(handler: _Handler, body: bytes, name: str, branch: str) -> None:
    there = handler.state.repositories[name].branches[branch]
    answers = []
    for file in json.loads(body)["files"]:
        is_large = file["size"] >= LFS_BYTES
        content = there.get(file["path"])
        oid = None if content is None else hashlib.sha256(content).hexdigest() if is_large else _git_oid(content)
        mode = "lfs" if is_large else "regular"
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    handler.answer(200, {"files": answers})


def _hf_batch(handler: _Handler, body: bytes, name: str) -> None:
    objects = json.loads(body)["objects"]
    handler.answer(200, {"transfer": "basic", "objects": _uploads(handler.state, name, objects)})


def _hf_commit(handler: _Handler, body: bytes, name: str, branch: str) -> None:
    if handler.refuses(name, "commit"):
        return
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            handler.state.repositories[name].messages.append(value["summary"])
        else:
            content = base64.b64decode(value["content"]) if line["key"] == "file" else None
            assert handler.state.store(name, branch, value["path"], content, value.get("oid", ""))
    handler.answer(200, {"commitUrl": f"{handler.state.endpoint}/{name}/commit/1", "commitOid": "1" * 40})


# ---- ModelScope


def _ms_create(handler: _Handler, body: bytes) -> None:
    about = json.loads(body)
    name = f"{about['Path']}/{about['Name']}"
    if handler.refuses(name, "create"):
        return
    if name in handler.state.repositories:
        return handler.answer(400, {"Code": 10010101001, "Success": False, "Message": "already exists"})
    handler.state.create(name, about, "master")
    handler.answer(200, {"Code": 200, "Success": True, "Data": about})


def _ms_files(handler: _Handler, body: bytes, name: str) -> None:
    (branch,) = parse_qs(urlsplit(handler.path).query)["Revision"]
    files = handler.state.repositories[name].branches[branch]
    listed = [{"Path": path, "Size": len(content), "Type": "blob"} for path, content in files.items()]
    handler.answer(200, {"Code": 200, "Data": {"Files": listed}})


def _ms_batch(handler: _Handler, body: bytes, name: str) -> None:
    handler.answer(200, {"Data": {"objects": _uploads(handler.state, name, json.loads(body)["objects"])}})


def _ms_commit(handler: _Handler, body: bytes, name: str, branch: str) -> None:
    if handler.refuses(name, "commit"):
        return
    commit = json.loads(body)
    handler.state.repositories[name].messages.append(commit["commit_message"])
    for action in commit["actions"]:
        content = base64.b64decode(action["content"]) if action["type"] == "normal" else None
        assert handler.state.store(name, branch, action["path"], content, action["sha256"])
    handler.answer(200, {"Code": 200, "Success": True, "Data": {}})


_ROUTES = [
    ("PUT", rf"/lfs/{_NAME}/(?P<oid>\w+)", _put),
    ("POST", "/api/validate-yaml", lambda handler, body: handler.answer(200, {"warnings": [], "errors": []})),
    ("POST", "/api/repos/create", _hf_create),
    ("GET", rf"/api/models/{_NAME}", _hf_info),
    ("GET", rf"/api/models/{_NAME}/revision/(?P<revision>\w+)", _hf_info),
    ("POST", rf"/api/models/{_NAME}/branch/(?P<branch>\w+)", _hf_branch),
    ("GET", rf"/api/models/{_NAME}/tree/(?P<branch>\w+)", _hf_tree),
    ("POST", rf"/api/models/{_NAME}/preupload/(?P<branch>\w+)", _hf_modes),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _hf_batch),
    ("POST", rf"/api/models/{_NAME}/commit/(?P<branch>\w+)", _hf_commit),
    ("POST", "/api/v1/models", _ms_create),
    ("GET", rf"/api/v1/models/{_NAME}/repo/files", _ms_files),
    ("POST", rf"/api/v1/repos/models/{_NAME}/info/lfs/objects/batch", _ms_batch),
    ("POST", rf"/api/v1/repos/models/{_NAME}/commit/(?P<branch>\w+)", _ms_commit),
]

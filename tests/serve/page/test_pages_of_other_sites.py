"""Pages of other sites and of files, in a real browser, that ask a real server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from model_fixtures import Tiny
from serve_fixtures import load_of, serving, talkative

from babyllm.chat.load import load_template
from babyllm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = b"<!DOCTYPE html><title>another site</title>"
KEY = "open sesame"
ASK = """async ([url, key, stream]) => {
    const body = {messages: [{role: 'user', content: 'x'}], max_tokens: 3, stream};
    const headers = {'Content-Type': 'application/json', Authorization: `Bearer ${key}`};
    try {
        const answer = await fetch(`${url}/v1/chat/completions`, {method: 'POST', headers, body: JSON.stringify(body)});
        return [answer.status, await answer.text(), !!answer.headers.get('X-Request-Id')];
    } catch (error) { return [0, error.name, false]; }
}"""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    """The origin of another site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_only_pages_of_allowed_origins_read_answers(
    browser: "Browser", site: str, tiny: Tiny, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A page of an allowed site or file gets answers, streams and errors; of others, the browser keeps them away."""
    file = tmp_path / "page.html"
    file.write_bytes(PAGE)
    load = load_of(talkative(tiny(max_seq_len=256)), tokenizer, load_template("chatml", tokenizer))
    for origins, allowed in (
        ((site,), {site}),
        (("null",), {file.as_uri()}),
        (("*",), {site, file.as_uri()}),
        ((), set()),
    ):
        with serving(load, api_key=KEY, allowed_origins=origins) as server:
            for address in (site, file.as_uri()):
                page = browser.new_page()
                page.goto(address)
                status, text, has_id = page.evaluate(ASK, [server.url, KEY, False])
                if address not in allowed:
                    assert (status, text) == (0, "TypeError"), (origins, address)
                else:
                    assert (status, has_id) == (200, True) and '"choices"' in text, (origins, address)
                    status, text, _ = page.evaluate(ASK, [server.url, KEY, True])
                    assert status == 200 and text.rstrip().endswith("data: [DONE]")
                    status, text, _ = page.evaluate(ASK, [server.url, "wrong", False])
                    assert status == 401 and "API key" in text
                page.close()

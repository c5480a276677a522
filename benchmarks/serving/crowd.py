"""How long clients wait while thousands of connections send half a request's head.

    (ulimit -n 1024; babyllm serve RUN_DIR --port=8000) &
    python -m benchmarks.serving.crowd http://127.0.0.1:8000 [CONNECTIONS] [SECONDS] [--again]

With `--again` each connection that the server closes is opened again. The limit of open files must be above their
number.
"""

from __future__ import annotations

import resource
import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from benchmarks import figures

HALF_A_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-"
BODY = b'{"prompt": "x", "max_tokens": 2}'
PAUSE_S = 0.2


def main() -> None:
    """Print how many asked, how many were answered, and the longest waits."""
    parser = figures.parser(__doc__)
    parser.add_argument("url")
    parser.add_argument("connections", type=int, nargs="?", default=3000)
    parser.add_argument("seconds", type=float, nargs="?", default=20)
    parser.add_argument("--again", action="store_true", help="open each connection again that the server closes")
    args = figures.parse(parser, connections=100, seconds=3)
    url, n, seconds = args.url.rstrip("/"), args.connections, args.seconds
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    end = time.monotonic() + seconds
    idlers = threading.Thread(target=_idle, args=(url, n, end, args.again))
    idlers.start()
    waits: list[float] = []
    n_asked = 0
    while time.monotonic() < end:
        n_asked += 1
        began = time.monotonic()
        with suppress(OSError, HTTPException):
            client = HTTPConnection(urlsplit(url).netloc, timeout=10)
            client.request("POST", "/v1/completions", BODY, {"content-type": "application/json"})
            if client.getresponse().status == 200:
                waits.append(time.monotonic() - began)
            client.close()
        time.sleep(PAUSE_S)
    idlers.join()
    waits.sort()
    longest = ", ".join(f"{wait:.3f}" for wait in waits[-3:])
    print(
        f"{n} connections for {seconds:.0f} s: {len(waits)} of {n_asked} requests answered, longest waits {longest} s"
    )
    names = ("longest wait", "second longest wait", "third longest wait")
    figures.write(args, (figures.Figure(name, wait, "s") for name, wait in zip(names, waits[::-1], strict=False)))


def _idle(url: str, n: int, end: float, is_again: bool) -> None:
    """Hold connections that have sent half a head."""
    address = urlsplit(url)
    assert address.hostname and address.port
    held: list[socket.socket] = []
    while time.monotonic() < end:
        for client in [client for client in held if is_again and _is_closed(client)]:
            held.remove(client)
            client.close()
        while len(held) < n and time.monotonic() < end:
            with suppress(OSError):
                client = socket.create_connection((address.hostname, address.port), timeout=5)
                client.setblocking(False)
                held.append(client)
                client.send(HALF_A_HEAD)
        time.sleep(PAUSE_S)
    for client in held:
        client.close()


def _is_closed(client: socket.socket) -> bool:
    try:
        return not client.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


if __name__ == "__main__":
    main()

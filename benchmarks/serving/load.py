"""Mixed load on a running server: whole and streamed answers, slow and vanishing clients, nonsense; and its memory.

    python -m benchmarks.serving.load URL PID [SECONDS] [VANISHING] [SLOW]

PID is the server's process; its memory is read from /proc, so this needs Linux. VANISHING is the share of clients that
leave in the middle (0.2), SLOW the number of slow clients of each kind (4). For the memory of a server whose clients do
not back off: 1200 0.4 0. Slow clients read a line of a long
answer every two seconds, or nothing at all, send a body byte by byte, or a request that never ends; what becomes of
them is counted apart.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import figures

N_CLIENTS = 24
N_REPORTS = 10
KINDS = ("reads slowly", "reads nothing", "sends slowly", "never ends")
CHAT = "/v1/chat/completions"


def main() -> None:
    """Load the server and print a line at each tenth of the time."""
    parser = figures.parser(__doc__)
    parser.add_argument("url")
    parser.add_argument("pid", type=int)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("vanishing", type=float, nargs="?", default=0.2)
    parser.add_argument("slow", type=int, nargs="?", default=4)
    args = figures.parse(parser, seconds=10)
    import httpx

    url, seconds, memory_mb = args.url.rstrip("/"), args.seconds, [_memory_mb(args.pid)]
    statuses: Counter[int] = Counter()
    end = time.monotonic() + seconds
    clients = [
        threading.Thread(target=_ask, args=(url, seed, end, args.vanishing, statuses)) for seed in range(N_CLIENTS)
    ]
    fates: Counter[str] = Counter()
    clients += [threading.Thread(target=_dawdle, args=(url, kind, end, fates)) for kind in KINDS * args.slow]
    for client in clients:
        client.start()
    for i in range(1, N_REPORTS + 1):
        time.sleep(seconds / N_REPORTS)
        told = f"{dict(sorted(statuses.items()))}  slow: {dict(sorted(fates.items()))}"
        memory_mb.append(_memory_mb(args.pid))
        print(f"{i * seconds / N_REPORTS:6.0f} s  {memory_mb[-1]:7.1f} MB  {told}", flush=True)
    for client in clients:
        client.join()
    print(httpx.get(f"{url}/health").text)
    title = f"{seconds:,.0f} s with {args.vanishing:.0%} vanishing: "
    figures.write(
        args,
        (
            figures.Figure(f"{title}answers", statuses[200], "answers"),
            figures.Figure(f"{title}memory before", memory_mb[0], "MB"),
            figures.Figure(f"{title}memory after a tenth", memory_mb[1], "MB"),
            figures.Figure(f"{title}memory at the end", memory_mb[-1], "MB"),
        ),
    )


def _ask(url: str, seed: int, end: float, vanishing: float, statuses: Counter[int]) -> None:
    """One client after another until the time is over."""
    import httpx

    rng = random.Random(seed)
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < end:
            text = rng.choice(["今天", "the model ", "龘😀"]) * rng.choice([1, 5, 20, 20_000])
            body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": rng.randint(1, 60)}
            body |= rng.choice([{}, {"n": 2}, {"logprobs": True, "top_logprobs": 5}, {"stop": "。"}, {"nonsense": 1}])
            with client.stream("POST", CHAT, json=body | {"stream": rng.random() < 0.5}) as response:
                statuses[response.status_code] += 1
                if rng.random() >= vanishing:
                    response.read()  # the others leave in the middle


def _dawdle(url: str, kind: str, end: float, fates: Counter[str]) -> None:
    """One slow client after another; counts how each of them ended."""
    address = urlsplit(url)
    assert address.hostname and address.port
    body = json.dumps({"prompt": "今天", "max_tokens": 400, "logprobs": 5, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    while time.monotonic() < end:
        try:
            with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
                fates[f"{kind}: {_dally(connection, kind, head.encode(), body, end)}"] += 1
        except OSError as error:
            fates[f"{kind}: {type(error).__name__}"] += 1


def _dally(connection: socket.socket, kind: str, head: bytes, body: bytes, end: float) -> str:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    if kind == "never ends":
        connection.sendall(head[:40])
    elif kind == "sends slowly":
        connection.sendall(head)
        for i in range(len(body)):
            connection.sendall(body[i : i + 1])
            time.sleep(1)
            if time.monotonic() > end:
                return "still sending"
    else:
        connection.sendall(head + body)
    if kind != "reads slowly":
        time.sleep(min(100, max(0, end - time.monotonic())))
    connection.settimeout(120)
    data = b""
    while part := connection.recv(512):
        data = (data + part)[-600:]
        if time.monotonic() > end:
            return "still reading"
        if kind == "reads slowly":
            time.sleep(2)
    return "whole" if b"[DONE]" in data else "408" if b" 408 " in data else "cut"


def _memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()

"""Mixed load on a running server: whole and streamed answers, clients that vanish, nonsense; and the server's memory.

    python benchmarks/serve_load.py URL PID [SECONDS]

PID is the server's process; its memory is read from /proc, so this needs Linux.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

N_CLIENTS = 24
N_REPORTS = 10
CHAT = "/v1/chat/completions"


def main() -> None:
    """Load the server and print a line at each tenth of the time."""
    url, pid, seconds = sys.argv[1].rstrip("/"), int(sys.argv[2]), float((sys.argv[3:] or ["600"])[0])
    statuses: Counter[int] = Counter()
    end = time.monotonic() + seconds
    clients = [threading.Thread(target=_ask, args=(url, seed, end, statuses)) for seed in range(N_CLIENTS)]
    for client in clients:
        client.start()
    for i in range(1, N_REPORTS + 1):
        time.sleep(seconds / N_REPORTS)
        print(
            f"{i * seconds / N_REPORTS:6.0f} s  {_memory_mb(pid):7.1f} MB  {dict(sorted(statuses.items()))}", flush=True
        )
    for client in clients:
        client.join()
    print(httpx.get(f"{url}/health").text)


def _ask(url: str, seed: int, end: float, statuses: Counter[int]) -> None:
    """One client after another until the time is over."""
    rng = random.Random(seed)
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < end:
            text = rng.choice(["今天", "the model ", "龘😀"]) * rng.choice([1, 5, 20, 20_000])
            body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": rng.randint(1, 60)}
            body |= rng.choice([{}, {"n": 2}, {"logprobs": True, "top_logprobs": 5}, {"stop": "。"}, {"nonsense": 1}])
            with client.stream("POST", CHAT, json=body | {"stream": rng.random() < 0.5}) as response:
                statuses[response.status_code] += 1
                if rng.random() < 0.8:
                    response.read()  # the others leave in the middle


def _memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()

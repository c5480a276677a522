"""A whole turn on the sample: a server with a log, 500 scripted users who rate, harvest, training, comparison.

`BABYLLM_RUNS` names the folder with the sample runs `pretrain` and `sft` (README); without it, that is `runs`.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from stored_sessions import records

from babyllm.recipes.sample_sft import ANSWERS, ASK, conversations, excerpts, wording
from babyllm.text.personal.removal import without_personal

pytestmark = pytest.mark.campaign
RUNS = Path(os.environ.get("BABYLLM_RUNS", "runs")).resolve()
N_USERS, N_FIRST, N_TEST = 500, 700, 400


def command(*argv: str) -> None:
    subprocess.run([sys.executable, "-m", "babyllm", *argv], check=True)


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return path


def asked(text: str) -> str:
    return wording(ASK, text).replace("{}", text)


def personal_data(rng: random.Random) -> dict[str, str]:
    """Planted pieces by kind; the identity number has the right check character."""
    body = (
        f"{rng.randrange(110101, 659001)}{rng.randrange(1950, 2005)}{rng.randrange(1, 13):02d}{rng.randrange(10, 29)}"
    )
    body += f"{rng.randrange(1000):03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    check = "10X98765432"[sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 11]
    name = "".join(rng.choice("abcdefghij0123456789") for _ in range(8))
    return {
        "phone": f"1{rng.choice('3578')}{rng.randrange(10**9):09d}",
        "email": f"u{name}@{rng.choice(('qq.com', '163.com', 'gmail.com'))}",
        "id": body + check,
    }


@contextmanager
def server(model: Path, log: Path) -> Iterator[str]:
    argv = [sys.executable, "-m", "babyllm", "serve", str(model), "--port=0", f"--log={log}", "--queue=600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+?:\d+", process.stdout.readline())
        assert found
        try:
            yield found[0]
        finally:
            process.terminate()


def talk(url: str, number: int, text: str, label: str) -> tuple[bool, list[str]]:
    """What a user does: asks, leaves personal data in some messages, rates some answers, and corrects some wrong ones.

    Returns:
        Whether the answer was right, and the planted data.
    """
    rng = random.Random(number)
    planted = personal_data(rng) if number % 3 == 0 else {}
    words = {"phone": "我的电话是{}，", "email": "邮箱{}。", "id": "身份证号{}。"}
    said = "".join(words[kind].format(value) for kind, value in planted.items()) + asked(text)
    with httpx.Client(base_url=url, timeout=300) as client:
        body = {"messages": [{"role": "user", "content": said}], "temperature": 0, "max_tokens": 8, "user": str(number)}
        answer = client.post("/v1/chat/completions", json=body).json()
        is_right = answer["choices"][0]["message"]["content"].strip() == ANSWERS[label]
        if rng.random() < 0.8:
            rating: dict[str, Any] = {"answer": answer["id"], "rating": 1 if is_right else -1}
            if not is_right and rng.random() < 0.5:
                rating["correction"] = ANSWERS[label]
            assert client.post("/v1/feedback", json=rating).status_code == 200
    return is_right, list(planted.values())


@pytest.mark.parametrize("strength", ["weak", "trained"])
def test_a_turn_on_the_sample(tmp_path: Path, strength: str) -> None:
    """The new model is more often right, or the comparison keeps the old one; no planted datum stays."""
    if not (RUNS / "sft").is_dir():
        pytest.skip("needs the sample runs: babyllm pretrain, then babyllm sft; BABYLLM_RUNS names their folder")
    first = [one for one in conversations(False) if one["task"] == "sentiment"][:N_FIRST]
    old_data = write(tmp_path / "old.jsonl", first if strength == "weak" else list(conversations(False)))
    model = RUNS / "sft"
    tiny = ["--runtime.processes=1", "--samples=0", "--data.held_out=0.0", "--eval_every=0"]
    if strength == "weak":
        model = tmp_path / "weak"
        flags = [f"--init_from={RUNS / 'pretrain'}", f"--data.path={old_data}", f"--run_dir={model}", "--plan.steps=60"]
        command("sft", *flags, *tiny)
    current, log, turn = tmp_path / "current", tmp_path / "log", tmp_path / "turn"
    current.symlink_to(model)
    reviews = excerpts(True)
    with server(current, log) as url, ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: talk(url, i, *reviews[i]), range(N_USERS)))
    test = [
        {"messages": [{"role": "user", "content": asked(t)}, {"role": "assistant", "content": ANSWERS[label]}]}
        for t, label in reviews[N_USERS : N_USERS + N_TEST]
    ]
    train = tmp_path / "train.yaml"
    train.write_text("plan: {peak_lr: 1e-3}\neval_every: 0\nsamples: 0\nruntime: {processes: 1}\n")
    flags = [f"--current={current}", f"--replay={old_data}", f"--train={train}", "--epochs=2", "--answers=[好评,差评]"]
    flags += [f"--test={write(tmp_path / 'test.jsonl', test)}", "--max_new_tokens=8"]
    command("flywheel", str(log), str(turn), *flags, "--dry_run=true")
    assert not turn.exists()
    command("flywheel", str(log), str(turn), *flags)
    verdict = json.loads((turn / "verdict.json").read_text())
    by_test = next(one for one in verdict["comparisons"] if one["name"] == "test")
    is_new = os.path.realpath(current) == os.path.realpath(turn / "run")
    assert is_new == (verdict["verdict"] == "replace")
    assert not is_new or by_test["new"] > by_test["old"] or by_test["outcome"] == "not distinguished"
    secrets = [secret for _, planted in done for secret in planted]
    files = [
        file
        for file in turn.rglob("*")
        if file.is_file() and file.suffix in (".jsonl", ".json", ".md", ".html", ".yaml")
    ]
    text = "".join(file.read_text("utf-8", "replace") for file in files)
    assert len(secrets) > 400 and [secret for secret in secrets if secret in text] == []
    for one in (record for file in (turn / "harvest").glob("*.jsonl") for record in records(file)):
        assert not without_personal(json.dumps(one["messages"], ensure_ascii=False)).n
    print(f"\n{strength}: {sum(right for right, _ in done)} of {N_USERS} answers were right; {verdict}")

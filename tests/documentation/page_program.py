"""The programs that commands on pages name, with flags that make them short: `page_program.py NAME ARGUMENT...`.

Training takes two steps of a tiny model, evaluation a few items. A server is stopped once it says where it listens, a
chat when its input ends. Endpoints at port 8000 are those of PAGE_ENDPOINT. Everything else is what a reader runs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TRAINING = ["--plan.steps=2", "--plan.warmup=0", "--runtime.processes=1", "--runtime.threads=1", "--eval_every=0"]
_SMALL = ["--data.seq_len=64", "--data.global_batch=4"]
_ANSWERS = ["--data.max_new_tokens=8", "--data.eval_prompts=4", "--rollout.slots=4", "--data.global_batch=8"]
SHORT = {
    "train-tokenizer": ["--hard_vocab_limit=false"],
    "pretrain": [*_TRAINING, *_SMALL, "--data.eval_tokens=1000"],
    "sft": [*_TRAINING, "--data.global_batch=4", "--data.seq_len=128", "--data.eval_conversations=4"],
    "reward": [*_TRAINING, "--data.global_batch=4", "--data.eval_pairs=4"],
    "classifier": [*_TRAINING, "--data.global_batch=4"],
    "dpo": [*_TRAINING, "--data.global_batch=4", "--data.eval_pairs=4"],
    "ppo": [*_TRAINING, *_ANSWERS],
    "grpo": [*_TRAINING, *_ANSWERS],
    "lr-range": [*_TRAINING[2:4], "--data.global_batch=4", "--range.steps=20"],
    "eval": ["--limit=4"],
    "predict": ["--max_new_tokens=8"],
    "sample": ["--max_new_tokens=8"],
    "generate": ["--max_new_tokens=24"],
    "chat": ["--max_new_tokens=8"],
}
SERVERS = ("serve", "records")
_LISTENS = re.compile(rb"https?://")


def main() -> int:
    """Run the program and return its exit status."""
    program, arguments = sys.argv[1], sys.argv[2:]
    endpoint = os.environ.get("PAGE_ENDPOINT", "")
    arguments = [re.sub(r"http://127\.0\.0\.1:8000", endpoint, word) for word in arguments]
    if program == "pip":
        return _installable(arguments)
    if program == "tensorboard":
        return subprocess.call([sys.executable, "-m", "tensorboard.main", *arguments, "--inspect"])
    if program == "python" and (script := re.fullmatch(r"train_(\w+)\.py", arguments[0])):
        program, arguments = "babyllm", [script[1], *arguments[1:]]
    if program == "python":
        script_path = ROOT / arguments[0]
        return subprocess.call(
            [sys.executable, *([str(script_path), *arguments[1:]] if script_path.is_file() else arguments)]
        )
    return _babyllm(arguments)


def _babyllm(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    given = {word.partition("=")[0] for word in arguments}
    asked = given & {"--print_config", "--help", "--plan", "--dry_run"}
    flags = (
        [] if asked else [flag for flag in SHORT.get(name, []) if name != "generate" or "--max_new_tokens" not in given]
    )
    command = [sys.executable, "-m", "babyllm", *arguments, *flags]
    if name in SERVERS and not any(word.startswith("--write") for word in arguments):
        return _until_it_listens([*command, "--port=0"])
    return subprocess.call(command, stdin=subprocess.DEVNULL if name == "chat" else None)


def _until_it_listens(command: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores Ctrl-C
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdout is not None
        for line in server.stdout:
            sys.stdout.buffer.write(line)
            if _LISTENS.search(line):
                server.send_signal(signal.SIGINT)
                server.communicate()
                return 0
    return server.returncode or 1


def _installable(arguments: list[str]) -> int:
    """Whether `pip install -c constraints.txt -e ".[EXTRA]"` names extras that exist; nothing is installed."""
    known = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    extras = {name.strip() for word in arguments for name in re.sub(r".*\[(.*)\]|.*", r"\1", word).split(",") if name}
    if missing := extras - known:
        print(f"pyproject.toml has no extra {missing}", file=sys.stderr)
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())

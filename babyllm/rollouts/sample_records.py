"""Answers with their rewards for people to read: lines of samples.jsonl, and a page one can leaf through."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from babyllm.files import write_bytes
from babyllm.rollouts.rollout_stream import Rollout
from babyllm.training.recording.records import SAMPLES_FILE, append, json_line

NAME, PAGE = "rollout", "samples.html"

_HEAD = """<!doctype html><meta charset="utf-8"><title>Answers and rewards</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em }
pre { white-space: pre-wrap; background: #f4f4f4; padding: .6em; border-radius: .3em }
article { display: none } article.shown { display: block } .facts { color: #555 }
</style>
<p><button id="back">&larr;</button> <span id="place"></span> <button id="on">&rarr;</button>
<label>step <input id="step" type="range" min="0" value="0"></label></p>
"""
_SCRIPT = """<script>
const all = [...document.querySelectorAll("article")], slider = document.getElementById("step");
let now = 0; slider.max = all.length - 1;
function show(i) {
  now = Math.max(0, Math.min(all.length - 1, i));
  all.forEach((one, j) => one.classList.toggle("shown", j === now));
  slider.value = now; document.getElementById("place").textContent = `${now + 1} / ${all.length}`;
}
document.getElementById("back").onclick = () => show(now - 1);
document.getElementById("on").onclick = () => show(now + 1);
slider.oninput = () => show(Number(slider.value));
document.onkeydown = (e) => { if (e.key === "ArrowLeft") show(now - 1); if (e.key === "ArrowRight") show(now + 1); };
show(0);
</script>
"""


def write_samples(run_dir: Path, n: int, step: int, rollout: Rollout) -> None:
    """Append the first `n` answers of a rollout to samples.jsonl.

    Args:
        run_dir: run directory.
        n: number of answers.
        step: first step that reads the rollout.
        rollout: answers of this rank.

    Raises:
        UserError: the file cannot be written.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    advantages = rollout.tensors["advantages"]
    for i, answer in enumerate(rollout.answers[:n]):
        places = (rollout.tensors["targets"][i] >= 0).nonzero()
        row = advantages[i] if advantages.shape[1] > 1 else advantages[i].expand(rollout.tensors["targets"].shape[1])
        record = {
            "step": step,
            "name": f"{NAME}/{i}",
            "text": answer.text,
            "prompt": answer.prompt.turns,
            "reward": None if answer.reward != answer.reward else answer.reward,
            "rewards": answer.parts,
            "advantage": float(row[places].mean()) if len(places) else 0.0,
            "finish": answer.drawn.finish,
            "tokens": len(answer.drawn.ids),
        }
        append(run_dir / SAMPLES_FILE, json_line(record))


def write_page(run_dir: Path) -> Path | None:
    """Write samples.html from samples.jsonl: one answer at a time, with its prompt and rewards.

    The page is one file without links, so it can be sent and opened anywhere.

    Returns:
        The page; None if there are no answers yet.

    Raises:
        UserError: the file cannot be written.
    """
    file = run_dir / SAMPLES_FILE
    if not file.is_file():
        return None
    records = [_record(line) for line in file.read_text(encoding="utf-8").split("\n")]
    articles = [_article(record) for record in records if record.get("name", "").startswith(f"{NAME}/")]
    if not articles:
        return None
    write_bytes(run_dir / PAGE, (_HEAD + "\n".join(articles) + _SCRIPT).encode())
    return run_dir / PAGE


def _record(line: str) -> dict[str, Any]:
    """The record of a line; empty for one that a kill has cut."""
    try:
        found: dict[str, Any] = json.loads(line)
        return found
    except ValueError:
        return {}


def _article(record: dict[str, Any]) -> str:
    rewards = ", ".join(f"{name} {value}" for name, value in record["rewards"].items())
    facts = (
        f"step {record['step']}; reward {record['reward']} ({rewards}); advantage {record['advantage']:.3f}; "
        f"{record['tokens']} tokens, {record['finish']}"
    )
    turns = "".join(f"<p>{html.escape(t['role'])}</p><pre>{html.escape(t['content'])}</pre>" for t in record["prompt"])
    answer = f"<p>answer</p><pre>{html.escape(record['text'])}</pre>"
    return f'<article><p class="facts">{html.escape(facts)}</p>{turns}{answer}</article>'

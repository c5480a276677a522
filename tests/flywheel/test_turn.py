"""A whole turn of the flywheel on a tiny model, and what decides whether the new model replaces the old one."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import faking, says
from model_fixtures import Tiny, decisive
from stored_sessions import answered, rated, records, write_log

from babyllm.__main__ import run as babyllm
from babyllm.chat.load import load_template
from babyllm.endpoint.config import EndpointConfig
from babyllm.errors import UserError
from babyllm.flywheel.flywheel_config import TurnConfig
from babyllm.flywheel.harvest_config import HarvestConfig
from babyllm.flywheel.model_comparison import Compared, by_ratings, by_test, is_accepted
from babyllm.flywheel.turn import Turn
from babyllm.interop.huggingface import save_model
from babyllm.tokenizer import Tokenizer

RIGHT = {"a": "x", "b": "y"}


@pytest.fixture
def current(tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> Path:
    """A link to a tiny model that knows nothing."""
    folder, template = tmp_path / "model", load_template("chatml", tokenizer)
    folder.mkdir()
    save_model(folder, decisive(tiny(max_seq_len=128, n_layers=1)), template.tokenizer)
    template.tokenizer.save(folder, chat_template=template.source)
    (tmp_path / "current").symlink_to(folder)
    return tmp_path / "current"


def log_of_users(tmp_path: Path, n: int) -> Path:
    lines: list[dict[str, Any]] = []
    for i in range(n):
        kind = "ab"[i % 2]
        lines += [answered(str(i), f"{kind * 6} {i}?", "zz"), rated(str(i), -1, correction=RIGHT[kind])]
    return write_log(tmp_path / "log", *lines)


def settings(tmp_path: Path, current: Path, **more: Any) -> TurnConfig:
    config = tmp_path / "train.yaml"
    config.write_text(
        "data: {global_batch: 8, seq_len: 64}\nplan: {peak_lr: 1e-2}\neval_every: 0\nsave_every: 0\nsamples: 0\n"
        "runtime: {processes: 1, device: cpu, dtype: float32, threads: 1}\n"
    )
    old = tmp_path / "old.jsonl"
    old.write_text(json.dumps({"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "w"}]}))
    harvest = HarvestConfig(held_out=0.3, near=1.0)
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_text(json.dumps({"prompt": "aaaaaa bb?", "chosen": "x", "rejected": "zz"}))
    known: dict[str, Any] = {
        "replay": str(old),
        "replay_share": 0.1,
        "repaired": str(repaired),
        "train": str(config),
        "epochs": 8.0,
    }
    return TurnConfig(current=str(current), harvest=harvest, max_new_tokens=4, answers=["x", "y"], **(known | more))


def test_a_turn_replaces_the_model_it_beats(tmp_path: Path, current: Path) -> None:
    """The model learns what users correct, wins on held-out sessions, and the link is set to it, once and for all."""
    log, out, done = log_of_users(tmp_path, 48), tmp_path / "turn", list[str]()
    config = settings(tmp_path, current)

    def runner(stop_at: str = "") -> Callable[[Sequence[str]], None]:
        def run(argv: Sequence[str]) -> None:
            if argv[0] == stop_at:
                raise UserError("stopped here")
            done.append(argv[0])
            babyllm(argv)

        return run

    plan = Turn(log, out, config, runner()).plan()
    assert len(plan) == 4 and "48 sessions, 48 answers, 48 ratings" in plan[0] and not out.exists()
    with pytest.raises(UserError, match="stopped here"):
        Turn(log, out, config, runner("predict")).run()
    assert done == ["sft"] and current.resolve() == tmp_path / "model"
    write_log(log, answered("late", "a question after the beginning?", "zz"))  # the harvest is not made again
    report = Turn(log, out, config, runner()).run()
    assert done == ["sft", "predict", "predict"] and "replace" in str(report.facts[0][1])
    verdict = json.loads((out / "verdict.json").read_text())
    (compared,) = verdict["comparisons"]
    assert compared["old"] == 0.0 and compared["new"] > 0.9 and compared["n"] > 5
    assert current.is_symlink() and os.path.realpath(current) == str(out / "run")
    assert all("(done)" in line for line in Turn(log, out, config, runner()).plan()[:3])
    assert Turn(log, out, config, runner()).run() == report and len(done) == 3
    with pytest.raises(UserError, match="begun with other config"):
        Turn(log, out, settings(tmp_path, current, epochs=1.0), runner())


def test_a_turn_keeps_the_model_that_is_better(tmp_path: Path, current: Path) -> None:
    """A model that loses by the judge does not replace the old one; both answer the same questions."""
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> None:  # stands for training and for answering, which the other test does
        asked.append(argv)
        if argv[0] == "predict":
            answer = "OLD" if argv[1] == str(tmp_path / "model") else "NEW"
            lines = [json.dumps(one | {"prediction": answer}) for one in records(Path(argv[2]))]
            Path(argv[3]).write_text("\n".join(lines), "utf-8")

    def reply(prompt: str) -> str:
        if "OLD" not in prompt:
            return "no label"
        return "Verdict: A" if prompt.index("OLD") < prompt.index("NEW") else "Verdict: B"

    with faking(lambda said, n: says(reply(said))) as judge:
        endpoint = EndpointConfig(url=judge.url, model="judge", temperature=0.0)
        harvest = HarvestConfig(held_out=0.4, near=1.0, unrated="keep", endpoint=endpoint)
        config = TurnConfig(current=str(current), harvest=harvest)
        lines = [answered(str(i), f"{'ab'[i % 2] * 6} {i}?", "fine", session=str(i)) for i in range(40)]
        report = Turn(write_log(tmp_path / "log", *lines), tmp_path / "turn", config, run).run()
    assert "keep the model in use: the old model is better by judge" in str(report.facts[0][1])
    assert current.resolve() == tmp_path / "model" and [argv[0] for argv in asked] == ["sft", "predict", "predict"]


def test_comparisons_have_intervals(tmp_path: Path) -> None:
    """A test compares accuracies, ratings count what is known, and few questions distinguish nothing."""

    def predictions(name: str, answers: str, **more: Any) -> Path:
        file = tmp_path / name
        lines = [
            json.dumps({"prediction": answer, **{k: v[i] for k, v in more.items()}}, ensure_ascii=False)
            for i, answer in enumerate(answers)
        ]
        file.write_text("\n".join(lines), "utf-8")
        return file

    right = ["a"] * 40
    better = by_test(predictions("o", "ab" * 20, reference=right), predictions("n", "aaab" * 10, reference=right))
    assert better is not None and (better.old, better.new, better.n) == (0.5, 0.75, 40)
    assert better.outcome == "new is better" and is_accepted([better], "better")[0]
    few = by_test(predictions("o", "ab", reference=right[:2]), predictions("n", "aa", reference=right[:2]))
    assert few is not None and few.outcome == "not distinguished"
    odd = [predictions(name, "ab", reference=right[:2], question=["a\u2028b", "\x85"]) for name in "on"]
    assert all("\u2028" in file.read_text("utf-8") for file in odd) and by_test(*odd) is not None
    assert not is_accepted([few], "better")[0] and is_accepted([few], "not_worse")[0]
    lost = Compared("judge", 9, None, 0.1, -0.4, -0.5, -0.2)
    assert not is_accepted([better, lost], "not_worse")[0] and not is_accepted([], "not_worse")[0]
    sides: dict[str, Any] = {"references": [["a"], [], [], []], "avoid": [[], ["a"], ["a"], []]}
    old, new = predictions("o", "aaaa", **sides), predictions("n", "abcb", **sides)
    known = by_ratings(old, new, ["a", "b"])
    assert known is not None and (known.old, known.new, known.n) == (1 / 3, 2 / 3, 3)
    assert by_ratings(old, new, []) is None  # what nobody rated is unknown where answers are free


def test_wrong_settings_are_named(tmp_path: Path, current: Path) -> None:
    """A missing file, model or log, or an OUT with other files, is refused before anything is written."""
    log = log_of_users(tmp_path, 2)
    for config, why in (
        (TurnConfig(current=str(current), replay="nowhere.jsonl"), "--replay: nowhere.jsonl does not exist"),
        (TurnConfig(current=str(tmp_path / "none")), "none: does not exist"),
    ):
        with pytest.raises(UserError, match=why):
            Turn(log, tmp_path / "turn", config, babyllm)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        Turn(log, tmp_path / "full", TurnConfig(current=str(current)), babyllm)
    none = TurnConfig(current=str(current), harvest=HarvestConfig(held_out=0.99))
    with pytest.raises(UserError, match="no good answers to train on"):
        Turn(log, tmp_path / "turn", none, babyllm).run()

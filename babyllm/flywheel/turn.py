"""A whole turn of the flywheel: harvest, train with replay, compare, and put the new model in place if it is better.

LOG -> OUT/harvest -> OUT/run -> OUT/answers -> OUT/verdict.json -> the link to the model in use, or nothing

Each step is skipped if its result is there, so a turn that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from babyllm.config import parse
from babyllm.config.values import check
from babyllm.errors import UserError
from babyllm.files import locked, write_bytes, write_json
from babyllm.flywheel.flywheel_config import TurnConfig
from babyllm.flywheel.harvest import BAD, HELD_OUT, PAIRS, SFT, harvest
from babyllm.flywheel.model_comparison import Compared, by_judge, by_ratings, by_test, comparison_table, is_accepted
from babyllm.loading import model_directory
from babyllm.pipeline.output import require_apart
from babyllm.pipeline.report import Fact, Report
from babyllm.pipeline.report_markdown import as_markdown
from babyllm.store.sessions.session_reader import SessionReader

HARVEST, RUN, ANSWERS, VERDICT, SETTINGS = "harvest", "run", "answers", "verdict.json", "turn.json"
NEW, OLD = "new", "old"
Runner = Callable[[Sequence[str]], None]
"""A function that runs `babyllm` with a command line and raises UserError if it fails."""


class Turn:
    """A turn of the flywheel in a directory."""

    def __init__(self, log: Path, out: Path, config: TurnConfig, run: Runner) -> None:
        """Check the settings.

        Args:
            log: log of sessions.
            out: directory of the turn.
            config: settings.
            run: function that runs a command of babyllm.

        Raises:
            UserError: a setting is wrong, a file is missing, or `out` was begun with other settings.
        """
        check(config, "")
        config.harvest.check()
        self._log, self._out, self._config, self._run = log, out, config, run
        for name, files in config.files.items():
            if missing := [file for file in files if not Path(file).exists()]:
                raise UserError(f"--{name}: {missing[0]} does not exist")
        require_apart(out, [log, *(Path(file) for files in config.files.values() for file in files)])
        known = self._known()
        # What the link names may have changed since: by this turn, after its verdict.
        self._old = Path(known["old"]) if known else Path(os.path.realpath(config.current))
        model_directory(self._old)

    def _known(self) -> dict[str, Any] | None:
        """The settings of a turn that has begun here."""
        file = self._out / SETTINGS
        if not file.exists():
            if self._out.exists() and any(not name.startswith(".") for name in os.listdir(self._out)):
                raise UserError(f"{self._out}: holds other files; choose a directory that is new or empty")
            return None
        known: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if changed := [name for name, value in self._settings().items() if known.get(name) != value]:
            raise UserError(f"{self._out}: was begun with other {', '.join(changed)}; choose another OUT")
        return known

    def _settings(self) -> dict[str, Any]:
        config = asdict(self._config)
        config.pop("dry_run")
        settings: dict[str, Any] = json.loads(json.dumps({"log": str(self._log), "config": config}))
        return settings

    def plan(self) -> list[str]:
        """What the turn does, a line a step; nothing is written."""
        config, out = self._config, self._out
        n = SessionReader(self._log).n
        judges = [one.model or "" for one in config.harvest.judges().values()]
        steps = [
            (
                self._is_harvested,
                f"harvest {self._log} ({n['sessions']:,} sessions, {n['answers']:,} answers, {n['ratings']:,} ratings) "
                f"to {out / HARVEST}; a share of {config.harvest.held_out:g} of the sessions is held out; "
                + (f"{' and '.join(judges)} judges" if judges else "rules give the labels"),
            ),
            (
                self._is_trained,
                f"train {self._old} for {config.epochs:g} epochs of what is new, "
                + (
                    f"with a share of {config.replay_share:g} of {', '.join(config.files['replay'])}"
                    if config.files["replay"] and config.replay_share
                    else "without old data (--replay), which it may then forget"
                )
                + f", to {out / RUN}",
            ),
            (
                self._is_compared,
                f"compare it with {self._old} by ratings of held-out sessions"
                + (f", by {config.test}" if config.test else "")
                + (", by the judge" if judges else ""),
            ),
            (False, self._placing()),
        ]
        return [f"{i}. {text}{' (done)' if is_done else ''}" for i, (is_done, text) in enumerate(steps, 1)]

    def _placing(self) -> str:
        current = self._config.current
        rule = "it is better" if self._config.verdict == "better" else "it is not worse"
        if Path(current).is_symlink():
            return f"if {rule}, set the link {current} to {self._out / RUN}"
        return f"say whether {rule}; {current} is a directory and stays (a link would be set to the new model)"

    @property
    def _is_harvested(self) -> bool:
        return (self._out / HARVEST / "report.json").is_file()

    @property
    def _is_trained(self) -> bool:
        return (self._out / ANSWERS).is_dir()

    @property
    def _is_compared(self) -> bool:
        return (self._out / VERDICT).is_file()

    def run(self) -> Report:
        """Do the steps that are left; returns the report of the comparison.

        Raises:
            UserError: a step fails; the same call goes on from there.
        """
        out, config = self._out, self._config
        with self._only_one():
            if not self._is_compared:
                if not (out / SETTINGS).exists():
                    write_json(out / SETTINGS, {**self._settings(), "old": str(self._old)})
                if not self._is_harvested:
                    harvest(self._log, out / HARVEST, config.harvest)
                if not self._is_trained:
                    self._train()
                    (out / ANSWERS).mkdir()
                self._decide(self._compare())
            verdict = json.loads((out / VERDICT).read_text("utf-8"))
            self._place(verdict)
        return self._report(verdict)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._out}: cannot be made ({error.strerror})") from None
        with locked(self._out / ".lock", 0) as is_free:
            if not is_free:
                raise UserError(f"{self._out}: another process makes this turn; wait for its end")
            yield

    # ---- training

    def _train(self) -> None:
        config, out, given = self._config, self._out, self._config.files
        sets: dict[str, dict[str, Any]] = {
            NEW: {"path": [str(out / HARVEST / SFT), *given["also"]], "task": NEW},
            "repaired": {"path": given["repaired"], "prompt": "prompt", "answer": "chosen", "task": NEW},
            OLD: {"path": given["replay"] if config.replay_share else [], "task": OLD},
        }
        counts = {name: {path: _count(Path(path)) for path in one["path"]} for name, one in sets.items()}
        n_new = sum(sum(counts[name].values()) for name in (NEW, "repaired"))
        if not n_new:
            raise UserError(
                f"{out / HARVEST}: has no good answers to train on; collect more ratings, give a judge with "
                "--harvest.endpoint.url, or conversations with --also"
            )
        for name, one in sets.items():
            one["path"] = [os.path.abspath(path) for path in one["path"] if counts[name][path]]
        sets = {name: one for name, one in sets.items() if one["path"]}
        write_bytes(out / "datasets.yaml", yaml.safe_dump(sets, allow_unicode=True, sort_keys=False).encode())
        settings = [f"--config={config.train}"] if config.train else []
        share = 1 - config.replay_share if OLD in sets else 1.0
        flags = [
            *settings,
            f"--run_dir={out / RUN}",
            f"--init_from={self._old}",
            f"--data.registry={out / 'datasets.yaml'}",
            f"--data.path={json.dumps(list(sets))}",
            f"--plan.steps={self._steps(settings, n_new / share)}",
            "--data.held_out=0.0",
        ]
        flags += [f"--data.mix={json.dumps({NEW: share, OLD: 1 - share})}"] if OLD in sets else []
        self._run(["sft", *flags])

    def _steps(self, given: Sequence[str], n_rows: float) -> int:
        """The number of optimizer steps for so many conversations an epoch."""
        from babyllm.training.stages.fine_tuning_config import FineTuneConfig

        known = parse(FineTuneConfig, list(given), prog="babyllm sft")
        return max(1, math.ceil(self._config.epochs * n_rows / known.data.global_batch))

    # ---- comparing

    def _compare(self) -> list[Compared]:
        config, answers = self._config, self._out / ANSWERS
        found: list[Compared | None] = []
        if config.test:
            found.append(by_test(*self._predicted("test", Path(config.test))))
        questions = self._out / HARVEST / HELD_OUT
        if _count(questions):
            files = self._predicted("held_out", questions)
            found.append(by_ratings(*files, config.answers))
            if judges := config.harvest.judges():
                from babyllm.endpoint.client import Client

                with Client(judges, answers / "cache") as client:
                    found.append(by_judge(*files, client.replies, config.harvest.language))
        return [one for one in found if one is not None]

    def _predicted(self, name: str, questions: Path) -> tuple[Path, Path]:
        """The answers of the old and the new model to questions."""
        files = []
        for side, model in ((OLD, self._old), (NEW, self._out / RUN)):
            file = self._out / ANSWERS / f"{name}_{side}.jsonl"
            limit = f"--max_new_tokens={self._config.max_new_tokens}"
            self._run(["predict", str(model), str(questions), str(file), "--temperature=0", limit])
            files.append(file)
        return files[0], files[1]

    def _decide(self, found: Sequence[Compared]) -> None:
        is_better, why = is_accepted(found, self._config.verdict)
        value = {
            "verdict": "replace" if is_better else "keep",
            "why": why,
            "old": str(self._old),
            "new": os.path.abspath(self._out / RUN),
            "comparisons": [one.to_json() for one in found],
        }
        write_bytes(self._out / "report.md", as_markdown(self._report(value)).encode("utf-8", "backslashreplace"))
        write_json(self._out / VERDICT, value)

    def _place(self, verdict: dict[str, Any]) -> None:
        """Set the link to the new model, if it is the better one and the link still names the old one."""
        link = Path(self._config.current)
        if verdict["verdict"] != "replace" or not link.is_symlink() or os.path.realpath(link) != verdict["old"]:
            return
        temporary = link.with_name(f".{link.name}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(verdict["new"])
        os.replace(temporary, link)

    def _report(self, verdict: dict[str, Any]) -> Report:
        out = self._out
        found = [
            Compared(**{name: value for name, value in one.items() if name != "outcome"})
            for one in verdict["comparisons"]
        ]
        facts: list[Fact] = [("verdict", f"{verdict['verdict']} the model in use: {verdict['why']}")]
        facts += [("old model", verdict["old"]), ("new model", verdict["new"])]
        facts += [(f"records of {name}", _count(out / HARVEST / name)) for name in (SFT, BAD, PAIRS, HELD_OUT)]
        return Report("a turn of the flywheel", facts, [comparison_table(found)] if found else [])


def _count(path: Path) -> int:
    """The number of conversations of a file or folder."""
    if path.suffix == ".jsonl" and path.is_file():
        with path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    from babyllm.prediction.questions import find_records, read_records

    return sum(1 for _ in read_records(find_records(path)))

"""Answer the records of a file several times, and make pairs or records to train on of the answers, by a reward.

A rule says what is written: pairs of the best and the worst answer (prompt, chosen, rejected), the best answers as
messages, or all answers with their rewards. With --chosen=data the record's own answer is chosen and the model's is
rejected, for which no reward is needed. A command that was killed goes on where it stopped:

    babyllm sample RUN_DIR prompts.jsonl pairs.jsonl --samples=8 --reward.model=runs/reward
    babyllm sample RUN_DIR chats.jsonl pairs.jsonl --chosen=data
    babyllm sample RUN_DIR sums.jsonl sft.jsonl --rule=best --reward.functions='{exact_match: 1}' --at_least=1
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from babyllm.commands import note, read_as_chosen
from babyllm.commands.answer_flags import AnswerFlags, answering
from babyllm.config.values import Few, Finite, PathText, Rate, Seed
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.files import json_digest, sha256
from babyllm.rollouts.rollout_config import AnswerRewards, JudgeConfig
from babyllm.runtime import Runtime, ordinary_signals, start

if TYPE_CHECKING:
    from babyllm.prediction import Choosing, Rewarding, Sampled, Work
    from babyllm.prediction.sample_rules import Turns

ARGUMENTS = "RUN_DIR IN OUT.jsonl"
_SAMPLES = 4


@dataclass(frozen=True)
class Flags(AnswerFlags):
    """Flags of `babyllm sample`.

    Attributes:
        seed: seed of the draws, from which each record's own is derived; null draws differently each time.
        samples: number of answers to each record; null takes 4, or 1 if no reward chooses among them.
        reward: what answers are scored by, as in train_grpo.py; a reward model that is named alone is the only
            reward. Without any, nothing is scored.
        rule: records to write: pairs (prompt, chosen, rejected), best (messages, to fine-tune on) or all (prompt,
            answers, rewards).
        chosen: chosen answer of a pair: the best of the model's, or the record's own (data).
        at_least: least reward of a best or chosen answer.
        margin: least difference of the two rewards of a pair; equal ones never make a pair.
        cut: whether answers that max_new_tokens cut off are used, too.
        answers: file with all answers, which other rules and rewards can share; null takes OUT.answers.jsonl.
    """

    seed: Seed | None = 0
    samples: Few | None = None
    reward: AnswerRewards = field(default_factory=lambda: AnswerRewards(timeout_s=600.0))
    rule: Literal["pairs", "best", "all"] = "pairs"
    chosen: Literal["best", "data"] = "best"
    at_least: Finite | None = None
    margin: Rate = 0.0
    cut: bool = False
    answers: PathText | None = None


def run(flags: Flags, directory: str, source: str, out: str) -> None:
    """Write what the rule makes of the model's answers to the records of a file, and print the counts.

    Raises:
        UserError: the flags contradict each other, the model, the reward or the input cannot be read, or a file was
            begun with other settings.
    """
    from babyllm.prediction import Choosing, Rule, Sampled, sample_file

    rule = Rule(flags.rule, flags.chosen, flags.at_least, flags.margin, flags.cut)
    samples = _checked(flags, rule.needs_reward)
    choosing = Choosing(rule, flags.format)
    files = Sampled(Path(out), Path(flags.answers) if flags.answers else None)
    with start(flags.runtime) as runtime, ordinary_signals(), read_as_chosen(runtime):
        with leaving_at_once():
            asked, settings = answering(flags, samples, directory, runtime)
        with _rewarding(flags, runtime, files.replies) as rewarding:
            work = sample_file(asked, rewarding, choosing, Path(source), files, runtime, settings, note)
        if runtime.is_main:
            _report(flags, directory, source, files, choosing, work)


def _checked(flags: Flags, needs_reward: bool) -> int:
    """The number of answers to each record.

    Raises:
        UserError: flags contradict each other.
    """
    has_reward = bool(_weights(flags))
    if needs_reward and not has_reward:
        raise UserError(
            f"--rule={flags.rule}: a reward chooses the answers; give --reward.functions or --reward.model, or "
            "--chosen=data for the record's own"
            if flags.rule == "pairs"
            else f"--rule={flags.rule}: a reward chooses the answers; give --reward.functions or --reward.model"
        )
    samples = flags.samples or (_SAMPLES if has_reward or flags.rule == "all" else 1)
    if samples > 1 and flags.temperature == 0:
        raise UserError(f"--samples={samples}: equal answers at temperature 0; give a --temperature above 0")
    if samples == 1 and flags.rule == "pairs" and flags.chosen == "best":
        raise UserError("--samples=1: a pair is the best and the worst of several answers; give --samples=2 or more")
    return samples


@contextmanager
def _rewarding(flags: Flags, runtime: Runtime, replies: Path) -> Iterator[Rewarding | None]:
    """How answers are rewarded, as in the stages that train on them; None without a reward.

    Args:
        flags: flags of the command.
        runtime: ranks, which share what a judge may cost.
        replies: directory of a judge's replies.

    Raises:
        UserError: there is no such reward, or what it needs is missing.
    """
    from babyllm.prediction import Rewarding
    from babyllm.rollouts.rewards.reward_sum import make_rewards

    weights = _weights(flags)
    if not weights:
        yield None
        return
    settings = {"weights": weights, **_settings(flags.reward, weights)}
    rewards = make_rewards(flags.reward.of_rank(runtime.world_size, replies), weights)

    def score(prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[float]:
        return rewards.total(rewards.parts(prompts, answers, records))

    try:
        yield Rewarding(score, ", ".join(weights), settings, flags.format)
    finally:
        rewards.close()


def _weights(flags: Flags) -> dict[str, float]:
    """The weights of the rewards; a reward model that is named alone is the only one."""
    return dict(flags.reward.functions) or ({"reward_model": 1.0} if flags.reward.model else {})


def _settings(options: AnswerRewards, weights: Mapping[str, float]) -> dict[str, Any]:
    """What the rewards depend on beside their weights."""
    found: dict[str, Any] = {name: _source_of(name) for name in weights if ":" in name}
    for name, option in (("format", "pattern"), ("length", "target_length"), ("sql", "databases")):
        if name in weights:
            found[option] = getattr(options, option)
    if "reward_model" in weights and options.model:
        found["reward model"] = _weights_of(options.model)
    if "judge" in weights:
        found["judge"] = _judge_of(options.judge)
    return found


def _weights_of(directory: str) -> str:
    """What the scores of a reward model depend on: its files of weights, and what they are relative to."""
    from babyllm.loading import model_directory
    from babyllm.reward_model import scale_of

    step = model_directory(directory)
    return json_digest([*(sha256(file) for file in sorted(step.glob("*.safetensors"))), *map(str, scale_of(step))])


def _judge_of(config: JudgeConfig) -> dict[str, Any]:
    """What the scores of a judge depend on: what it reads, and who it is."""
    file = config.prompt_file
    judges = [
        [name, *(getattr(one, key) for key in ("url", "model", "temperature", "seed", "body"))]
        for name, one in config.judges().items()
    ]
    text = sha256(Path(file)) if file and Path(file).is_file() else None
    return {"dimensions": config.dimensions, "language": config.language, "prompt": text, "judges": judges}


def _source_of(name: str) -> str | None:
    """What the rewards of a function depend on: the text of its module; None for one without a file.

    Raises:
        UserError: there is no such module.
    """
    module = name.partition(":")[0]
    if (here := os.getcwd()) not in sys.path:  # where the function's own process looks for it
        sys.path.insert(0, here)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UserError(f"reward.functions: {name}: there is no module {module} here; start the command in its folder")
    is_file = spec.origin is not None and Path(spec.origin).is_file()
    return sha256(Path(str(spec.origin))) if is_file else None


def _report(flags: Flags, directory: str, source: str, files: Sampled, choosing: Choosing, work: Work) -> None:
    from babyllm.pipeline.report import Fact, Report, Table, print_report
    from babyllm.prediction import tally

    found = tally(files.last(bool(_weights(flags))), choosing)
    facts: list[Fact] = [("model", directory), ("input", source), ("output", str(files.out))]
    if work.seconds:
        facts += [("tokens drawn", work.n_tokens), ("tokens/s", round(work.n_tokens / work.seconds, 1))]
    if found.rewards:
        facts += [("reward", ", ".join(_weights(flags))), ("mean reward", sum(found.rewards) / len(found.rewards))]
    facts += [("records", found.n_records), ("records written", found.n_written)]
    tables = [
        Table(title, ["reason", unit], [[reason, n] for reason, n in counts.most_common()])
        for title, unit, counts in (
            ("records that were dropped", "records", found.dropped),
            ("answers that were not used", "answers", found.unused),
        )
        if counts
    ]
    print_report(Report("Sampled answers", facts, tables))

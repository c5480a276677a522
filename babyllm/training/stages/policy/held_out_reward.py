"""The rewards of a policy on held-out prompts, drawn with the same seeds at each evaluation: their mean, and some."""

from __future__ import annotations

from pathlib import Path

from babyllm.rollouts.prompt_files import Prompts
from babyllm.rollouts.rollout_stream import Rollouts
from babyllm.rollouts.sample_records import write_page
from babyllm.runtime import Runtime
from babyllm.training.run import Measure, Show
from babyllm.training.stages.policy.policy_run_config import PolicyRunConfig
from babyllm.training.stages.policy.policy_stage import rewards_of
from babyllm.training.state import TrainState

RESULTS = ("all/reward", "all/reward_stderr", "all/length", "all/truncated")


def held_out(config: PolicyRunConfig, prompts: Prompts, stream: Rollouts, runtime: Runtime) -> tuple[Measure, Show]:
    """Two functions, of what held-out prompts are answered.

    One returns the mean reward, its standard error, length and share cut off. The other returns answers to the first
    `config.samples` prompts, drawn as in training, with their rewards; rank 0 writes them.

    Raises:
        UserError: a reward of `reward.held_out` is not known.
    """
    weights = config.reward.functions if config.reward.held_out is None else config.reward.held_out
    rewards = rewards_of(config, weights, runtime)
    asked = prompts.held_out[: config.data.eval_prompts]

    def measure(state: TrainState) -> dict[str, float]:
        if runtime.is_main:
            write_page(Path(config.run_dir))
        if not asked:
            return {}
        found = stream.answering.held_out(asked, rewards, config.rollout.seed)
        known = [answer.reward for answer in found if answer.reward == answer.reward]
        n, total, n_all, tokens, truncated = runtime.sum(
            [
                float(len(known)),
                sum(known),
                float(len(found)),
                float(sum(len(answer.drawn.ids) for answer in found)),
                float(sum(answer.drawn.finish == "length" for answer in found)),
            ]
        )
        lengths = {"all/length": tokens / n_all, "all/truncated": truncated / n_all}
        if not n:
            return lengths
        mean = total / n
        square = runtime.sum([sum((reward - mean) ** 2 for reward in known)])[0]
        error = (square / max(n - 1, 1) / n) ** 0.5
        lines = stream.alarms.evaluated(mean, error) if stream.alarms else []
        if runtime.is_main:
            for line in lines:
                print(line)
        return {"all/reward": mean, "all/reward_stderr": error} | lengths

    def show(state: TrainState) -> list[tuple[str, str]]:
        if not runtime.is_main:
            return []
        shown = prompts.held_out[: config.samples]
        found = stream.answering(shown, range(len(shown)), rewards)
        return [(answer.prompt.text, f"{answer.text} [reward {answer.reward:.3g}]") for answer in found]

    return measure, show

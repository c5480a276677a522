"""Alarms of a run that trains on its own answers, as lines in the log.

numbers of each rollout, of the loss and of evaluations -> compared with the first ones and with limits -> lines
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from babyllm.rollouts.rollout_config import AlarmConfig


@dataclass
class Alarms:
    """What the alarms remember; numbers are the same on every rank.

    Attributes:
        config: limits.
        first: numbers of the first rollout.
        warned: round of the last line, by alarm.
        evaluations: (mean training reward since the evaluation before, held-out reward, its standard error).
        since: rewards of the rollouts since the last evaluation.
    """

    config: AlarmConfig
    first: dict[str, float] = field(default_factory=dict)
    warned: dict[str, int] = field(default_factory=dict)
    evaluations: list[list[float]] = field(default_factory=list)
    since: list[float] = field(default_factory=list)

    def rollout(self, number: int, values: dict[str, float]) -> list[str]:
        """The lines that a rollout causes.

        Args:
            number: number of the rollout.
            values: "flat", "entropy", "length" and "reward" of the rollout, "clipped" of the last step, "kl" in nats
                per token; what is missing is not judged.
        """
        self.first = self.first or dict(values)
        if "reward" in values:
            self.since.append(values["reward"])
        lines = []
        for name, line in self._causes(values):
            if number - self.warned.get(name, -self.config.every) >= self.config.every:
                self.warned[name] = number
                lines.append(f"alarm: {line}")
        return lines

    def _causes(self, now: dict[str, float]) -> Iterator[tuple[str, str]]:
        limits, first = self.config, self.first
        if limits.flat and now.get("flat", 0.0) > limits.flat:
            many = f"{now['flat']:.0%} of the groups have answers of equal reward, which teach nothing"
            yield "flat", f"{many}; take easier or harder prompts, a larger rollout.group or --rollout.resample=2"
        if limits.clipped and now.get("clipped", 0.0) > limits.clipped:
            yield "clipped", f"{now['clipped']:.0%} of the tokens are clipped; lower plan.peak_lr or rollout.epochs"
        if limits.entropy and now.get("entropy", 1.0) < limits.entropy * first.get("entropy", 0.0):
            fell = f"the entropy fell from {first['entropy']:.2f} to {now['entropy']:.2f} nats per token"
            yield "entropy", f"{fell}: answers grow alike; raise loss.clip_high or loss.entropy, or lower plan.peak_lr"
        if limits.length and now.get("length", 0.0) > limits.length * first.get("length", float("inf")):
            grew = f"answers grew from {first['length']:.0f} to {now['length']:.0f} tokens"
            yield "length", f"{grew}; see whether the reward pays for length"
        if limits.kl and now.get("kl", 0.0) > limits.kl:
            far = f"the divergence from the reference is {now['kl']:.2f} nats per token, above alarms.kl={limits.kl:g}"
            yield "kl", f"{far}; raise loss.kl.coefficient"

    def evaluated(self, reward: float, error: float) -> list[str]:
        """The line that an evaluation causes: training reward rose since the first one, this one did not.

        Args:
            reward: mean reward on held-out prompts.
            error: its standard error.
        """
        if not self.since:
            self.evaluations.append([float("nan"), reward, error])
            return []
        train, self.since = sum(self.since) / len(self.since), []
        self.evaluations.append([train, reward, error])
        known = [each for each in self.evaluations if each[0] == each[0]]
        if len(known) < 3:
            return []
        (first, held0, error0) = known[0]
        gain = train - first
        if gain > 2 * (error + error0) and reward - held0 <= 0:
            return [
                f"alarm: the training reward rose by {gain:.3f} and the held-out reward did not ({held0:.3f} to "
                f"{reward:.3f}): the policy may exploit the reward, or know its prompts by heart"
            ]
        return []

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON values."""
        kept = asdict(self)
        del kept["config"]
        kept["evaluations"] = [[None if x != x else x for x in each] for each in self.evaluations]
        return kept

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self.first, self.warned, self.since = dict(state["first"]), dict(state["warned"]), list(state["since"])
        self.evaluations = [[float("nan") if x is None else x for x in each] for each in state["evaluations"]]

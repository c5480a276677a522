"""The stream of a policy: it answers prompts with its present weights, and hands each rollout out a few times.

prompts -> groups of answers -> rewards -> advantages -> rows (n, T) -> micro-batches, `epochs` times

Legend: n answers of this rank, T columns of a row. A group, the answers to one prompt, lies on one rank.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from babyllm.data.batch import Batch, RankRows
from babyllm.data.order.shuffle import shuffled_in_turn
from babyllm.data.row_config import Share
from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import OPTIONS
from babyllm.model.cross_entropy import IGNORE
from babyllm.rollouts.alarms import Alarms
from babyllm.rollouts.answering_prompts import Answered, Answering
from babyllm.rollouts.prompt_files import Prompt
from babyllm.rollouts.rewards.reward_sum import Rewards
from babyllm.rollouts.rollout_config import RolloutConfig
from babyllm.runtime.seeds import derive_seed

Advantages = Callable[["Rollout"], dict[str, Tensor]]
"""Makes the tensors (n, ...) that a loss reads beside tokens, targets and old log-probabilities; all ranks call it."""

_DRAW, _PROMPT = 1, 2  # what a derived seed is for; answers to held-out prompts have another


@dataclass
class Rollout:
    """The answers of this rank, as tensors.

    Attributes:
        tensors: "tokens" and "targets" (n, T) int64, "old" (n, T) float32 log-probabilities in nats, 0 where there is
            no target, "truncated" (n, 1) bool. With a constraint "allowed" (n, T, ceil(V / 8)) uint8, the tokens that
            each target was drawn among.
        rewards: (n,) float64; NaN where there is none.
        answers: the answers themselves, by row.
        numbers: means over all ranks, by name, for the log and the alarms; an advantage function may add some.
    """

    tensors: dict[str, Tensor]
    rewards: Tensor
    answers: list[Answered]
    numbers: dict[str, float] = field(default_factory=dict)


class Rollouts:
    """Batches that the policy writes itself. A rollout is always drawn with the present weights.

    Prompts, draws and groups depend on the seed and on their numbers in the run, not on ranks or micro-batches.
    """

    def __init__(
        self,
        answering: Answering,
        prompts: Sequence[Prompt],
        rewards: Rewards,
        advantages: Advantages,
        config: RolloutConfig,
        share: Share,
        seq_len: int,
        *,
        masks_truncated: bool = False,
        alarms: Alarms | None = None,
        record: Callable[[int, Rollout], None] = lambda step, rollout: None,
        report: Callable[[str], None] = print,
    ) -> None:
        """Begin before the first rollout.

        Args:
            answering: what draws and rewards answers.
            prompts: prompts, the same on every rank.
            rewards: rewards of the answers.
            advantages: function that makes the tensors of the loss.
            config: section `rollout`.
            share: this rank's share of a rollout, in micro-batches.
            seq_len: columns of a row.
            masks_truncated: whether answers that were cut off count in no unit.
            alarms: alarms, whose lines `report` prints; None for none.
            record: function that stores samples of a rollout, given the step that it is for; rank 0 alone calls it.
            report: function that prints a line.

        Raises:
            UserError: groups do not divide evenly over ranks.
        """
        self._mine = share.global_batch // share.world_size
        if self._mine % config.group:
            raise UserError(
                f"data.global_batch={share.global_batch}: does not divide into groups of "
                f"rollout.group={config.group} on {share.world_size} ranks; give a multiple of "
                f"{config.group * share.world_size}"
            )
        self.answering, self._prompts, self._rewards, self._advantages = answering, prompts, rewards, advantages
        self._config, self._share, self._width = config, share, seq_len
        self._masks_truncated, self.alarms, self._record, self._report = masks_truncated, alarms, record, report
        self._runtime = answering.runtime
        self._made_of = {"prompts": _digest(prompts), "rollout.seed": config.seed, "rollout.group": config.group}
        if answering.constraint:
            name = f"rollout.{OPTIONS[answering.constraint.kind]}"
            self._made_of[name] = sha256(answering.constraint.text.encode()).hexdigest()
        self._round, self._epoch, self._step = 0, config.epochs, 0
        self._tensors: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}
        self._times: dict[str, float] = {}
        self._handed_out = time.perf_counter()
        self._clipped: list[tuple[Tensor, Tensor]] = []

    def __iter__(self) -> Iterator[list[Batch]]:
        """The stream itself."""
        return self

    def __next__(self) -> list[Batch]:
        """The micro-batches of this rank's part of the rollout; a new rollout after `epochs` steps."""
        if self._epoch >= self._config.epochs:
            self._new_rollout()
            self._epoch = 0
        self._epoch += 1
        self._step += 1
        return self._batches()

    # ---- a rollout

    def _new_rollout(self) -> None:
        began = time.perf_counter()
        trained_s = began - self._handed_out
        self.answering.seconds = {"sampling": 0.0, "scoring": 0.0}
        answers, n_resampled = self._answers()
        rollout = Rollout(self._rows(answers), torch.tensor([a.reward for a in answers]).double(), answers)
        rollout.numbers = self._measured(rollout, n_resampled)
        rollout.tensors |= self._advantages(rollout)
        self._tensors, self._numbers = rollout.tensors, rollout.numbers
        self._times = self._timed(rollout, trained_s if self._round else 0.0)
        if self.alarms:
            values = dict(self._numbers) | self._clipping()
            for line in self.alarms.rollout(self._round, values):
                if self._runtime.is_main:
                    self._report(line)
        if self._runtime.is_main:
            self._record(self._step + 1, rollout)
        self._round += 1
        self._handed_out = time.perf_counter()

    def _answers(self) -> tuple[list[Answered], int]:
        """The answers of this rank's groups, and how many of them were replaced."""
        size, n_groups = self._config.group, self._share.global_batch // self._config.group
        first = self._share.rank * self._mine // size
        begin = self._round * n_groups + first
        groups = list(range(begin, begin + self._mine // size))
        found = self._groups(groups, [self._prompt(group) for group in groups], 0)
        n_resampled = 0
        for attempt in range(1, self._config.resample + 1):
            flat = [i for i, group in enumerate(found) if is_flat([answer.reward for answer in group])]
            if not flat:
                break
            n_resampled += len(flat)
            numbers = [groups[i] for i in flat]
            others = [self._spare(number, attempt) for number in numbers]
            for i, group in zip(flat, self._groups(numbers, others, attempt), strict=True):
                found[i] = group
        return [answer for group in found for answer in group], n_resampled

    def _prompt(self, number: int) -> Prompt:
        """The prompt of a group of the run: each epoch has all prompts once, in an order of its own."""
        epoch, place = divmod(number, len(self._prompts))
        order = shuffled_in_turn(np.array([place], np.int64), len(self._prompts), self._config.seed, epoch)
        return self._prompts[int(order[0])]

    def _spare(self, number: int, attempt: int) -> Prompt:
        """The prompt that takes the place of a group's own."""
        return self._prompts[derive_seed(self._config.seed, _PROMPT, number, attempt) % len(self._prompts)]

    def _groups(self, numbers: Sequence[int], prompts: Sequence[Prompt], attempt: int) -> list[list[Answered]]:
        size = self._config.group
        seeds = [derive_seed(self._config.seed, _DRAW, number, attempt, i) for number in numbers for i in range(size)]
        found = self.answering([prompt for prompt in prompts for _ in range(size)], seeds, self._rewards)
        return [found[i : i + size] for i in range(0, len(found), size)]

    def _rows(self, answers: Sequence[Answered]) -> dict[str, Tensor]:
        """Tokens, targets, old log-probabilities (n, T), whether answers were cut off (n, 1), what was allowed."""
        shape = len(answers), self._width
        tokens, targets, old = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE), torch.zeros(shape)
        for row, answer in enumerate(answers):
            ids, drawn = answer.prompt.ids, answer.drawn
            whole, begin = [*ids, *drawn.ids], len(ids) - 1
            tokens[row, : len(whole) - 1] = torch.tensor(whole[:-1])
            targets[row, begin : len(whole) - 1] = torch.tensor(drawn.ids, dtype=torch.long)
            old[row, begin : len(whole) - 1] = torch.tensor(drawn.logprobs)
        truncated = torch.tensor([[answer.drawn.finish == "length"] for answer in answers])
        return {"tokens": tokens, "targets": targets, "old": old, "truncated": truncated} | self._allowed(targets)

    def _allowed(self, targets: Tensor) -> dict[str, Tensor]:
        """The tokens that targets (n, T) were drawn among, under a constraint."""
        return {"allowed": self.answering.allowed(targets)} if self.answering.allowed else {}

    # ---- numbers

    def _measured(self, rollout: Rollout, n_resampled: int) -> dict[str, float]:
        """Means over the answers of all ranks."""
        answers, known = rollout.answers, rollout.rewards[~rollout.rewards.isnan()]
        size = self._config.group
        flat = [is_flat(rollout.rewards[i : i + size].tolist()) for i in range(0, len(answers), size)]
        mask = rollout.tensors["targets"] != IGNORE
        own = {
            "reward": (float(known.sum()), len(known)),
            "reward_squared": (float(known.square().sum()), len(known)),
            "length": (float(mask.sum()), len(answers)),
            "truncated": (float(rollout.tensors["truncated"].sum()), len(answers)),
            "unrewarded": (float(len(answers) - len(known)), len(answers)),
            "resampled": (float(n_resampled), len(flat)),
            "entropy": (-float(rollout.tensors["old"].double().sum()), int(mask.sum())),
        }
        if size > 1:
            own["flat"] = (float(sum(flat)), len(flat))
        for name in self._rewards.functions:
            values = [value for answer in answers if (value := answer.parts[name]) is not None]
            own[f"reward/{name}"] = (sum(values), len(values))
        sums = self._runtime.sum([float(x) for pair in own.values() for x in pair])
        found = {name: sums[2 * i] / sums[2 * i + 1] for i, name in enumerate(own) if sums[2 * i + 1]}
        square = found.pop("reward_squared", 0.0)
        return found | {"reward_std": max(square - found.get("reward", 0.0) ** 2, 0.0) ** 0.5}

    def _timed(self, rollout: Rollout, trained_s: float) -> dict[str, float]:
        """Seconds of the slowest part of each kind on average over ranks, and tokens per second of all ranks."""
        n_tokens = float((rollout.tensors["targets"] != IGNORE).sum())
        own = [n_tokens, *self.answering.seconds.values(), trained_s]
        tokens, *seconds = self._runtime.sum(own)
        found = {}
        for name, total in zip(("sampling", "scoring", "training"), seconds, strict=True):
            mean = total / self._runtime.world_size
            found[f"seconds/{name}"] = mean
            if mean:
                uses = self._config.epochs if name == "training" else 1
                found[f"answer_tokens_per_s/{name}"] = uses * tokens / mean
        return found

    def watch_clipping(self, low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor]) -> None:
        """Keep what a micro-batch clipped, as (sum, count), for the alarms."""
        self._clipped.append((low[0] + high[0], low[1]))

    def _clipping(self) -> dict[str, float]:
        """The share of tokens clipped since the last rollout; every rank calls it."""
        own = [float(sum(float(pair[i]) for pair in self._clipped)) for i in (0, 1)]
        self._clipped.clear()
        clipped, count = self._runtime.sum(own)
        return {"clipped": clipped / count} if count else {}

    def metrics(self) -> dict[str, float]:
        """Numbers about the present rollout, the same on every rank."""
        return {f"rollout/{name}": value for name, value in {**self._numbers, **self._times}.items()}

    # ---- batches

    def _batches(self) -> list[Batch]:
        first, size = (self._round - 1) * self._share.global_batch, self._share.micro_batch
        rows = range(first, first + self._share.global_batch)
        return [self._batch(slice(i, i + size), rows) for i in range(0, self._mine, size)]

    def _batch(self, part: slice, rows: range) -> Batch:
        tensors = {name: whole[part] for name, whole in self._tensors.items()}
        mask = tensors["targets"] != IGNORE
        width = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 1
        tensors = {k: x[:, :width].contiguous() if x.shape[1] == self._width else x for k, x in tensors.items()}
        counted = mask & ~tensors["truncated"] if self._masks_truncated else mask
        begins = torch.arange(part.start, part.start + len(mask)) % self._config.group == 0
        of_rows = {"token": counted.sum(1), "sequence": counted.any(1).long(), "group": begins.long()}
        units = {name: int(counts.sum()) for name, counts in of_rows.items()}
        return Batch(tensors, units, rows, of_rows if self._share.is_automatic else None)

    # ---- position

    def leave_out(self, row: int) -> None:
        """Drop the rollout; the next one begins at `row`."""
        self._round, self._epoch, self._tensors = row // self._share.global_batch, self._config.epochs, {}

    def state_dict(self) -> dict[str, Any]:
        """Which rollout and epoch, and the rollout itself while an epoch of it is left."""
        kept = self._tensors if self._epoch < self._config.epochs else {}
        return {
            "round": self._round,
            "epoch": self._epoch,
            "step": self._step,
            "numbers": self._numbers,
            "alarms": self.alarms.state() if self.alarms else None,
            "advantages": getattr(self._advantages, "state", dict)(),
            "rollout": {name: RankRows(tensor) for name, tensor in kept.items() if name != "allowed"},
            "made_of": self._made_of,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on amid a rollout with this rank's rows of it.

        Raises:
            UserError: the run was begun with other prompts, another seed, group or constraint, or is amid a rollout of
                another number of answers or another length.
        """
        before = state["made_of"]
        names = dict.fromkeys([*self._made_of, *before])
        if changed := [name for name in names if before.get(name) != self._made_of.get(name)]:
            raise UserError(
                f"{', '.join(changed)}: not as when the run began, so its order of prompts and draws would be another; "
                "keep them as they were, or choose another --run_dir"
            )
        self._round, self._epoch, self._step = state["round"], state["epoch"], state["step"]
        self._numbers, self._times = dict(state["numbers"]), {}
        if self.alarms and state["alarms"]:
            self.alarms.load(state["alarms"])
        if hasattr(self._advantages, "load"):
            self._advantages.load(state["advantages"])
        begin = self._share.rank * self._mine
        shapes = {tuple(whole.shape) for name, whole in state["rollout"].items() if name == "tokens"}
        if shapes - {(self._share.global_batch, self._width)}:
            raise UserError(
                "data.global_batch, data.seq_len: the run was saved amid a rollout of other numbers "
                f"({' and '.join(map(str, shapes.pop()))}); keep them as they were, or resume from another step"
            )
        self._tensors = {name: whole[begin : begin + self._mine] for name, whole in state["rollout"].items()}
        if self._tensors:
            self._tensors |= self._allowed(self._tensors["targets"])


def is_flat(rewards: Sequence[float]) -> bool:
    """Whether no two known rewards of a group differ, so that it teaches nothing; NaN is unknown."""
    return len({reward for reward in rewards if reward == reward}) < 2


def _digest(prompts: Sequence[Prompt]) -> str:
    """A hash of the ids of prompts, in their order."""
    return sha256(json.dumps([prompt.ids for prompt in prompts]).encode()).hexdigest()

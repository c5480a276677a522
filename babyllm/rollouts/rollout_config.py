"""How rollouts are drawn and rewarded, as sections of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from babyllm.config.values import (
    AnyCount,
    Count,
    Few,
    Finite,
    Members,
    PathText,
    Positive,
    PositiveSeconds,
    Rate,
    Seed,
    expand_paths,
)
from babyllm.endpoint.config import EndpointConfig
from babyllm.endpoint.named_endpoints import named_endpoints
from babyllm.judging.judge_prompts import Language
from babyllm.verification.verify_config import VerifyConfig


@dataclass(frozen=True)
class RolloutConfig:
    """How answers are drawn.

    Attributes:
        group: answers to each prompt; divides data.global_batch over every rank.
        temperature: divisor of the logits. Answers are scored at the same temperature; top-k, top-p and penalties are
            not offered, since the loss could not score them alike.
        schema: JSON schema that every answer fits, as a file or as JSON; null for none. The loss, too, then knows only
            the tokens that fit.
        regex: regular expression that every whole answer matches; null for none.
        choices: list of texts of which every answer is one.
        grammar: file of a grammar that every answer follows, in llguidance's dialect of Lark; null for none.
        epochs: number of steps that each rollout is used for.
        resample: number of times that a group whose rewards are all equal is replaced by one of another prompt.
        slots: largest number of answers that a rank writes together.
        seed: seed of the order of prompts and of the draws.
        samples: number of answers of each rollout that are written to samples.jsonl.
    """

    group: Members = 8
    temperature: Positive = 1.0
    schema: str | None = None
    regex: str | None = None
    choices: list[str] = field(default_factory=list)
    grammar: PathText | None = None
    epochs: Count = 1
    resample: AnyCount = 0
    slots: Few = 64
    seed: Seed = 1
    samples: AnyCount = 4


@dataclass(frozen=True)
class JudgeConfig:
    """A model that scores answers from 1 to 10, for the reward "judge".

    Attributes:
        dimensions: dimensions that are scored, with their weights; the reward is the weighted mean.
        language: language of the built-in text that the judge reads.
        prompt_file: text of your own that the judge reads, with {prompt}, {answer}, {reference}, {dimensions} and
            {form}; null takes the built-in one.
        endpoints: YAML file of several endpoints by name, each with the settings of `endpoint`; null takes that one.
            All answers to a prompt are for the same one.
        endpoint: model that judges, and what that may cost. Replies are stored and never asked for twice: null as its
            cache stores them beside what the command writes.
    """

    dimensions: dict[str, Positive] = field(default_factory=lambda: {"helpful": 1.0})
    language: Language = "en"
    prompt_file: PathText | None = None
    endpoints: PathText | None = None
    endpoint: EndpointConfig = field(default_factory=lambda: EndpointConfig(temperature=0.0))

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    def judges(self) -> dict[str, EndpointConfig]:
        """The endpoints that judge, by name.

        Raises:
            UserError: the file of several endpoints is at fault, or an address or a model is missing.
        """
        return named_endpoints(self.endpoint, self.endpoints)


@dataclass(frozen=True)
class _JudgeOfRank(JudgeConfig):
    """The judge of one of several ranks; each has its part of what each endpoint may cost and be asked at a time."""

    world_size: int = 1
    cache: str = ""

    def judges(self) -> dict[str, EndpointConfig]:
        """The endpoints that judge, by name, with the rank's part of their limits."""
        return {
            name: replace(
                one,
                cache=one.cache or self.cache,
                concurrency=max(1, one.concurrency // self.world_size),
                max_cost=one.max_cost and one.max_cost / self.world_size,
            )
            for name, one in super().judges().items()
        }


R = TypeVar("R", bound="AnswerRewards")


@dataclass(frozen=True)
class AnswerRewards:
    """What answers are rewarded for.

    Attributes:
        functions: weights by name, such as {number_match: 1, format: 0.2}. A name is one of those built in
            (exact_match, number_match, format, length, sql, arithmetic, json_schema, python, reward_model, judge) or
            module:function of your own.
        pattern: regular expression that a whole answer must match, for "format".
        target_length: number of characters, for "length", which is 1 up to there and falls to 0 at twice as many.
        databases: folder of SQLite files, for "sql".
        verify: limits for "arithmetic", "json_schema" and "python", whose records have `expression`, `schema` or tests.
        model: run or directory of a reward model, for "reward_model".
        judge: model that scores answers, for "judge".
        timeout_s: seconds in which a function of your own must return.
    """

    functions: dict[str, Finite] = field(default_factory=dict)
    pattern: str | None = None
    target_length: Count = 200
    databases: PathText | None = None
    model: PathText | None = None
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    timeout_s: PositiveSeconds = 60.0

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    def of_rank(self: R, world_size: int, cache: Path) -> R:
        """The same rewards for one of several ranks, which share what the judge may cost and be asked at a time.

        Args:
            world_size: number of ranks.
            cache: directory of the judge's replies where its endpoint names none.
        """
        return replace(self, judge=_JudgeOfRank(**vars(self.judge), world_size=world_size, cache=str(cache)))


@dataclass(frozen=True)
class RewardConfig(AnswerRewards):
    """What a policy's answers are rewarded for.

    Attributes:
        held_out: as functions, for the held-out prompts alone; null takes the same.
        patience: calls in a row that may fail before the run ends; until then their answers have no reward.
    """

    functions: dict[str, Finite] = field(default_factory=lambda: {"exact_match": 1.0})
    held_out: dict[str, Finite] | None = None
    patience: Count = 3


@dataclass(frozen=True)
class PtxConfig:
    """Text that a policy learns beside its answers, so that it forgets less (Ouyang et al. 2022, equation 2).

    Attributes:
        weight: weight of the mean nats of a token of this text in the loss; 0 for none.
        path: directory of token shards made with the model's tokenizer, or a file or folder of conversations.
        rows: rows in each step, over all ranks.
        seq_len: tokens of a row.
        seed: seed of the order of the rows.
    """

    weight: Rate = 0.0
    path: PathText | None = None
    rows: Members = 16
    seq_len: Members = 128
    seed: Seed = 1

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


@dataclass(frozen=True)
class AlarmConfig:
    """Limits beyond which a line of the log warns; 0 switches an alarm off.

    Attributes:
        flat: share of the groups whose rewards are all equal.
        clipped: share of the tokens whose ratio is clipped.
        entropy: share of the first rollout's entropy that the present one falls below.
        length: factor by which answers are longer than in the first rollout.
        kl: divergence from the reference, in nats per token.
        every: rollouts between two lines of the same alarm.
    """

    flat: Rate = 0.8
    clipped: Rate = 0.3
    entropy: Rate = 0.3
    length: Rate = 2.0
    kl: Rate = 0.5
    every: Count = 10

"""The settings of `babyllm select`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from babyllm.chat.formats import FormatConfig
from babyllm.config.values import Count, Few, Limits, PathText, Seed, Share, expand_paths
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.rollouts.rollout_config import JudgeConfig
from babyllm.runtime.config import RuntimeConfig
from babyllm.selection.numeric.importance import ImportanceConfig

Rule = Literal["top", "bottom", "random", "linear", "logarithmic", "weighted", "k_center", "k_means", "diverse"]
SCORERS = ("text", "ifd", "loss", "embed", "importance", "reward", "judge", "necessity")
MAIN_COLUMN = {
    **{name: name for name in ("ifd", "reward", "judge", "necessity")},
    "loss": "answer_loss",
    "importance": "importance_draw",
}
VECTOR_RULES = ("k_center", "k_means", "diverse")
_LIMIT = re.compile(r"([1-9]\d{0,14}) ?(|records?|tokens?|[kmg]?b)", re.IGNORECASE)
_SIZES = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}

Cosine = Annotated[float, Limits(-1, 1)]
Bound = Annotated[float, Limits(-1e12, 1e12)]


@dataclass(frozen=True)
class SelectConfig:
    """Which records of chat files are kept.

    A share is of all conversations that were read. Random choices depend on a hash of each conversation alone, so they
    are stable, and a smaller share is part of a larger one.

    Attributes:
        scores: scorers: text (lengths, ratios, lexical diversity), ifd (losses of answers after their prompt and
            alone, and their ratios), loss (losses after the prompt), embed (a vector), importance (likeness to
            a target, of documents too), reward, judge, necessity (the
            reward of the model's own answers), field:NAME (a number in the record) or module:function of your own.
        model: run or directory of the language model, for ifd, loss and embed.
        reward: run or directory of the reward model, for reward and necessity.
        predictions: file that `babyllm predict` wrote, with the model's own answers, for necessity.
        judge: model that scores answers, for judge.
        target: files of what is wanted, for importance.
        importance: settings of importance.
        embed: tokens whose last hidden states are averaged, for embed: those of the prompt, the answer, or both.
        answers: answers that ifd and loss read: all that are trained on, or the last of each conversation.
        table: Parquet file with one row for each conversation, in their order; its numbers are scores.
        vectors: file of one vector for each conversation, in their order: .npy, or Parquet with a column of lists.
        vector_column: column of a Parquet file of vectors; null takes the only one.
        quality_rule: file of a fitted rule of quality, whose result is the score quality.
        by: score that ranks the records, or a product such as complexity*quality; null takes the main one of the only
            scorer.
        within: bounds of scores by name, such as {ifd: [0, 1]}; null leaves a side open. Others are dropped.
        rule: rule that keeps: top or bottom (by score), random, linear or logarithmic (random, rarer with the rank),
            weighted (random by `weights`), k_center (each the farthest from those before), k_means (the nearest to the
            centres of clusters), diverse (by score, without those similar to better ones).
        keep: share or number of the conversations that are kept, or a list of them for nested sets, a folder for each;
            null keeps all that the other settings leave. Those of `chosen` are kept besides.
        each: group within which the rule works, with the same share of each: task, or file; null takes all together.
        share: share of each task or file that takes part, by name, such as {skypile: 0.57}; others take part as a
            whole.
        limit: amount that is kept at most, in the order of the rule: a number of records, or such as 10MB or
            5000000tokens.
        chosen: earlier selections, whose conversations are kept too; for k_center they are centres already.
        clusters: number of clusters, for k_means.
        metric: distance of vectors: euclidean or cosine.
        similar: largest cosine of two kept records, for diverse.
        weights: weights of vectors for the rule weighted: k_means (1 over the size of the cluster), k_center (number
            of records around the centre), or neighbours (mean distance to the nearest); null takes the score `by`.
        neighbours: number of nearest records, for the weights of that name.
        takedowns: files of documents to leave out, or directories with a takedowns.jsonl; those of the inputs always
            count.
        seed: seed of random choices.
        format: settings for reading records as conversations.
        work: use of the machine; scorers with a model use one process.
        runtime: device of models.
    """

    scores: list[str] = field(default_factory=list)
    model: PathText | None = None
    reward: PathText | None = None
    predictions: PathText | None = None
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    target: list[PathText] = field(default_factory=list)
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    embed: Literal["prompt", "answer", "both"] = "prompt"
    answers: Literal["all", "last"] = "all"
    table: PathText | None = None
    vectors: PathText | None = None
    vector_column: str | None = None
    quality_rule: PathText | None = None
    by: str | None = None
    within: dict[str, list[Bound | None]] = field(default_factory=dict)
    rule: Rule | None = None
    keep: Count | Share | list[Count | Share] | None = None
    each: Literal["task", "file"] | None = None
    share: dict[str, Share] = field(default_factory=dict)
    limit: str | None = None
    chosen: list[PathText] = field(default_factory=list)
    clusters: Count = 100
    metric: Literal["euclidean", "cosine"] = "euclidean"
    similar: Cosine = 0.9
    weights: Literal["k_means", "k_center", "neighbours"] | None = None
    neighbours: Few = 10
    takedowns: list[PathText] = field(default_factory=list)
    seed: Seed = 1
    format: FormatConfig = field(default_factory=FormatConfig)
    work: WorkConfig = field(default_factory=WorkConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    @property
    def column(self) -> str | None:
        """The score that ranks the records; None without one."""
        if self.by:
            return self.by
        if self.quality_rule:
            return "quality"
        mains = [MAIN_COLUMN.get(name, name.partition(":")[2]) for name in self.scores if name not in ("text", "embed")]
        return mains[0] if len(mains) == 1 else None

    @property
    def chosen_rule(self) -> Rule:
        """The rule; without one, top where there is a score, else random."""
        return self.rule or ("top" if self.column else "random")

    @property
    def amounts(self) -> list[float | None]:
        """The shares (floats) or numbers (integers) that are kept, ascending; [None] for all."""
        return list(self.keep) if isinstance(self.keep, list) else [self.keep]

    def budget(self) -> tuple[int, str] | None:
        """The limit as a number and its unit: "records", "bytes" or "tokens"; None without a limit.

        Raises:
            UserError: it is not valid.
        """
        if self.limit is None:
            return None
        found = _LIMIT.fullmatch(self.limit.strip())
        if not found:
            raise UserError(f"--limit={self.limit}: give a number of records, such as 1000, or 10MB, or 500000tokens")
        number, unit = int(found[1]), found[2].lower()
        if unit in _SIZES:
            return number * _SIZES[unit], "bytes"
        return number, "tokens" if unit.startswith("token") else "records"

    def check(self) -> None:
        """Check that the settings fit each other.

        Raises:
            UserError: a setting is missing or contradicts another; the message names both.
        """
        self.budget()
        for name in self.scores:
            if name not in SCORERS and ":" not in name:
                raise UserError(f"--scores: there is no scorer {name}; choose from {', '.join(SCORERS)}, field:NAME")
        needs = (
            ("model", ("ifd", "loss", "embed")),
            ("reward", ("reward", "necessity")),
            ("predictions", ("necessity",)),
        )
        for setting, names in needs:
            if getattr(self, setting) is None and (asking := [name for name in names if name in self.scores]):
                raise UserError(f"--{setting}: is missing, and the scorer {asking[0]} needs it")
        if ("importance" in self.scores) != bool(self.target):
            raise UserError("--target: the scorer importance needs it, and nothing else does; give both or neither")
        rule = self.chosen_rule
        has_vectors = self.vectors is not None or "embed" in self.scores
        if (rule in VECTOR_RULES or self.weights) and not has_vectors:
            raise UserError(f"--rule={rule}: needs vectors; add embed to --scores, or give --vectors")
        if self.weights and rule != "weighted":
            raise UserError(f"--weights={self.weights}: is for --rule=weighted")
        if rule in ("top", "bottom", "linear", "logarithmic", "diverse") and self.column is None:
            raise UserError(f"--rule={rule}: needs a score that ranks the records; name it with --by")
        if rule == "weighted" and self.weights is None and self.column is None:
            raise UserError("--rule=weighted: needs --weights, or a score that --by names")
        amounts = [amount for amount in self.amounts if amount is not None]
        if amounts != sorted(set(amounts)) or len({type(amount) for amount in amounts}) > 1:
            raise UserError(f"--keep={self.keep}: give growing shares, such as [0.05, 0.1, 1.0], or growing numbers")
        for name, bounds in self.within.items():
            if len(bounds) != 2:
                raise UserError(f"--within: {name}={bounds}: give two bounds, such as [0, 1] or [null, 0.5]")

"""Reports of judgements as plain values: win rates or scores, and how far the judge can be trusted."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from babyllm.judging.agreement import agreement
from babyllm.judging.dimension_scores import ScoredAnswer
from babyllm.judging.pairs import Comparison, Judgement
from babyllm.judging.verdicts import Choice
from babyllm.judging.win_rates import WinRate, length_controlled, win_rate
from babyllm.pipeline.report import Cell, ExampleGroup, Fact, LabelledTexts, Report, Table

_EXAMPLES = 5
_INTERVAL = ("low share", "high share")


def pairs_report(
    comparisons: Sequence[Comparison], facts: Sequence[Fact], people: Mapping[str, Mapping[str, Choice]]
) -> Report:
    """The report of a comparison.

    Args:
        comparisons: pairs and what the judge said of them.
        facts: names and values that come first.
        people: choices of persons by the key of the pair, by the name of their file.
    """
    judged = [comparison for comparison in comparisons if comparison.preference is not None]
    lengths = [statistics.fmean(len(text) for text in side) for side in _sides(comparisons)]
    more: list[Fact] = [("mean characters of A", lengths[0]), ("mean characters of B", lengths[1])]
    tables = [_win_rates(judged), _judge(comparisons)] if any(c.repeats for c in judged) else []
    tables += [_people(people, comparisons)] if people else []
    examples = [
        _examples("Pairs on which the orders disagree", [c for c in comparisons if any(map(_disagrees, c.repeats))]),
        _examples("Pairs with a reply without a verdict", [c for c in comparisons if any(map(_problems, c.repeats))]),
    ]
    return Report("Judgement: A against B", [*facts, *more], tables, None, examples)


def scores_report(
    files: Mapping[str, Sequence[ScoredAnswer]], weights: Mapping[str, float], facts: Sequence[Fact]
) -> Report:
    """The report of scores.

    Args:
        files: scored answers by the name of their file.
        weights: weight of each dimension.
        facts: names and values that come first.
    """
    tables = [_scores(files, weights)]
    if len(files) > 1:
        tables.append(_differences(files, weights))
    problems = Counter(problem for scored in files.values() for one in scored for problem in one.problems)
    if problems:
        tables.append(Table("Replies without a verdict", ("reason", "n"), problems.most_common(8)))
    unclear = [one for scored in files.values() for one in scored if one.problems]
    items = [LabelledTexts(one.answer.prompt, [one.answer.text, *one.texts]) for one in unclear[:_EXAMPLES]]
    return Report("Judgement: scores", facts, tables, None, [ExampleGroup("Answers without a verdict", items)])


def most_frequent_problem(judgements: Sequence[Comparison] | Sequence[ScoredAnswer]) -> tuple[int, str] | None:
    """The number of replies without a verdict and their most frequent reason; None if there are none."""
    found: Counter[str] = Counter()
    for one in judgements:
        found.update(one.problems if isinstance(one, ScoredAnswer) else (p for r in one.repeats for p in _problems(r)))
    return (found.total(), found.most_common(1)[0][0]) if found else None


# ---- pairs


def _sides(comparisons: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    return [c.pair.a for c in comparisons], [c.pair.b for c in comparisons]


def _disagrees(repeat: tuple[Judgement, Judgement]) -> bool:
    ab, ba = repeat
    return ab.choice is not None and ba.choice is not None and ab.choice != ba.choice


def _problems(repeat: tuple[Judgement, Judgement]) -> list[str]:
    return [judgement.problem for judgement in repeat if judgement.problem]


def _win_rates(judged: Sequence[Comparison]) -> Table:
    preferences = [c.preference or 0.0 for c in judged]
    prompts = [c.pair.prompt for c in judged]
    counts = Counter(c.choice for c in judged)
    plain = win_rate(preferences, prompts)
    even = length_controlled(preferences, [len(c.pair.a) - len(c.pair.b) for c in judged], prompts)
    rows: list[Sequence[Cell]] = [("as judged", len(judged), counts["A"], counts["tie"], counts["B"], *_cells(plain))]
    rows.append(("controlled for length", len(judged), None, None, None, *_cells(even)))
    columns = ("win rate of A", "pairs", "A wins", "ties", "B wins", "win share", *_INTERVAL, "verdict")
    return Table("Win rate with its 95 % interval, over prompts", columns, rows)


def _cells(rate: WinRate | None) -> tuple[Cell, ...]:
    return (None, None, None, "the pairs cannot say") if rate is None else (*rate, rate.verdict)


def _judge(comparisons: Sequence[Comparison]) -> Table:
    """How consistent the judge is."""
    repeats = [repeat for c in comparisons for repeat in c.repeats]
    both = [(ab, ba) for ab, ba in repeats if ab.choice and ba.choice]
    decided = [judgement for repeat in repeats for judgement in repeat if judgement.choice in ("A", "B")]
    n_first = sum(judgement.choice == judgement.order[0] for judgement in decided)
    problems = Counter(problem for repeat in repeats for problem in _problems(repeat))
    varied = [c.values for c in comparisons if len(c.values) > 1]
    rows = [
        ("comparisons whose two orders disagree (ties)", *_part(sum(map(_disagrees, both)), len(both))),
        ("verdicts for the answer shown first", *_part(n_first, len(decided))),
        ("replies without a verdict", *_part(problems.total(), 2 * len(repeats))),
        *((f"  because {reason}", *_part(n, 2 * len(repeats))) for reason, n in problems.most_common(5)),
    ]
    if varied:
        rows.append(("pairs whose repeats differ", *_part(sum(len(set(v)) > 1 for v in varied), len(varied))))
        spread = statistics.fmean(statistics.stdev(values) for values in varied)
        rows.append(("mean standard deviation over repeats, of 0 to 1", None, len(varied), spread))
    return Table("The judge", ("what", "n", "of", "share"), rows)


def _part(n: int, of: int) -> tuple[Cell, Cell, Cell]:
    return n, of, n / of if of else None


def _people(people: Mapping[str, Mapping[str, Choice]], comparisons: Sequence[Comparison]) -> Table:
    """What people chose, and how far each agrees with the judge."""
    judge = {c.pair.key: c.choice for c in comparisons if c.repeats}
    prompts = {c.pair.key: c.pair.prompt for c in comparisons}
    rows: list[Sequence[Cell]] = []
    for name, choices in people.items():
        counts, agreed = Counter(choices.values()), agreement(choices, judge)
        values = [{"A": 1.0, "tie": 0.5, "B": 0.0}[choice] for choice in choices.values()]
        rate = _cells(win_rate(values, [prompts[key] for key in choices]))[:3] if values else (None, None, None)
        rows.append((name, counts["A"], counts["tie"], counts["B"], *rate, *agreed))
    columns = ("person", "A wins", "ties", "B wins", "win share", *_INTERVAL, "with judge", "agreement share", "kappa")
    return Table("People, and their agreement with the judge", columns, rows)


def _examples(title: str, comparisons: Sequence[Comparison]) -> ExampleGroup:
    return ExampleGroup(title, [LabelledTexts(c.pair.prompt, list(_texts(c))) for c in comparisons[:_EXAMPLES]])


def _texts(comparison: Comparison) -> Iterator[str]:
    yield f"A: {comparison.pair.a}"
    yield f"B: {comparison.pair.b}"
    for repeat in comparison.repeats[:1]:
        for judgement in repeat:
            yield f"shown {judgement.order}, {judgement.choice or judgement.problem}: {judgement.text}"


# ---- scores


def _scores(files: Mapping[str, Sequence[ScoredAnswer]], weights: Mapping[str, float]) -> Table:
    from babyllm.evaluate.statistics import mean_estimate

    rows: list[Sequence[Cell]] = []
    for name, scored in files.items():
        judged = [one for one in scored if any(one.scores)]
        spreads = [spread for one in judged if (spread := one.spread(weights)) is not None]
        for dimension in (*weights, "total") if judged else ():
            values = [one.means(weights)[dimension] for one in judged]
            mean = mean_estimate(values, [one.answer.prompt for one in judged])
            spread = statistics.fmean(spreads) if spreads and dimension == "total" else None
            rows.append((name, dimension, weights.get(dimension), mean.n, mean.value, *_known(mean.interval), spread))
    columns = ("answers", "dimension", "weight", "n", "mean", "low", "high", "spread of repeats")
    return Table("Scores from 1 to 10 with 95 % intervals, over prompts", columns, rows)


def _differences(files: Mapping[str, Sequence[ScoredAnswer]], weights: Mapping[str, float]) -> Table:
    """The differences of the totals of each file and the first one, on the prompts that both have."""
    from babyllm.evaluate.statistics import paired_difference

    (first, *others), rows = list(files), list[Sequence[Cell]]()
    base = {one.answer.key: one for one in files[first] if any(one.scores)}
    for name in others:
        both = [(base[one.answer.key], one) for one in files[name] if one.answer.key in base and any(one.scores)]
        if both:
            old, new = ([one.means(weights)["total"] for one in side] for side in zip(*both, strict=True))
            found, p = paired_difference(new, old, [one.answer.prompt for one, _ in both])
            rows.append((name, found.n, found.value, *_known(found.interval), p if p == p else None))
        else:
            rows.append((name, 0, None, None, None, None))
    columns = ("answers", "n", "difference", "low", "high", "p")
    return Table(f"Total less that of {first}, on the same prompts", columns, rows)


def _known(interval: tuple[float, float]) -> tuple[Cell, Cell]:
    low, high = interval
    return (low, high) if low == low else (None, None)

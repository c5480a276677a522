"""Judge answers with a model: two files against each other, or each by scores; or make a sheet for people.

babyllm judge A.jsonl B.jsonl OUT --endpoint.url=http://127.0.0.1:8000/v1 --endpoint.model=NAME
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from babyllm.commands import note
from babyllm.config.values import Count, Few, PathText, Positive, Seed
from babyllm.endpoint.config import EndpointConfig, Request
from babyllm.endpoint.shared_budget import BudgetConfig
from babyllm.errors import UserError
from babyllm.judging.answer_files import FieldNames
from babyllm.judging.judge_prompts import Language

if TYPE_CHECKING:
    from babyllm.endpoint.replies import Reply
    from babyllm.judging.answer_files import Answer, Pair
    from babyllm.judging.dimension_scores import ScoredAnswer
    from babyllm.judging.pairs import Ask
    from babyllm.judging.verdicts import Choice
    from babyllm.pipeline.report import Fact, Report

ARGUMENTS = "ANSWERS... OUT"
CACHE, VERDICTS, SHEET = "cache", "verdicts.jsonl", "sheet.html"
RESULTS = (VERDICTS, "report.html", "report.json")
T = TypeVar("T")


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm judge`.

    Attributes:
        method: pairs compares two files in both orders, scores rates each answer from 1 to 10 by dimension; null takes
            pairs for two files.
        dimensions: dimensions of scores with their weights.
        repeats: number of times that each answer or pair is judged.
        language: language of the built-in prompts.
        prompt_file: text of your own that the judge reads, with {prompt}, {reference} and {answer_a}, {answer_b}, or
            for scores {answer}, {dimensions}, {form}; null takes the built-in one.
        n: number of answers or pairs that are drawn; null takes all.
        seed: seed of the draw and of the sheet.
        sheet: whether to write OUT/sheet.html, on which people compare the pairs blindly, and nothing else.
        people: file, or [several], of choices that the sheet has written; their agreement with the judge is reported.
        fields: fields of the records.
        dry_run: whether to print the first prompts and the largest price, and ask nothing.
        endpoints: YAML file of several endpoints by name, each with the settings of `endpoint`; null takes that one.
            All answers to a prompt are for the same one.
        endpoint: model that judges, and what that may cost.
        budget: what all endpoints together may spend on OUT.
    """

    method: Literal["pairs", "scores"] | None = None
    dimensions: dict[str, Positive] = field(default_factory=lambda: {"helpful": 1.0, "honest": 1.0, "harmless": 1.0})
    repeats: Few = 1
    language: Language = "en"
    prompt_file: PathText | None = None
    n: Count | None = None
    seed: Seed = 0
    sheet: bool = False
    people: PathText | list[PathText] = field(default_factory=list)
    fields: FieldNames = field(default_factory=FieldNames)
    dry_run: bool = False
    endpoints: PathText | None = None
    endpoint: EndpointConfig = field(default_factory=lambda: EndpointConfig(temperature=0.0))
    budget: BudgetConfig = field(default_factory=BudgetConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Judge the answers of files and write verdicts and a report to OUT.

    Raises:
        UserError: a file, a flag or the endpoint is at fault, or no reply has a verdict.
    """
    from babyllm.files import write_bytes
    from babyllm.judging.answer_files import read_answers
    from babyllm.judging.sheet import make_sheet, sheet_page
    from babyllm.pipeline.output import require_apart

    *files, out = map(Path, arguments)
    names = [str(file) for file in files]
    if len(set(names)) < len(names):
        raise UserError(f"{names[0]}: is given twice; give each file of answers once")
    method = flags.method or ("pairs" if len(files) == 2 else "scores")
    if method == "pairs" and len(files) != 2:
        raise UserError(f"--method=pairs: compares two files of answers, not {len(files)}")
    if method == "scores" and (flags.sheet or flags.people):
        raise UserError("--sheet and --people: are for pairs; give two files of answers")
    require_apart(out, files)
    answers = [read_answers(file, flags.fields) for file in files]
    if method == "scores":
        _judge_scores(flags, dict(zip(names, answers, strict=True)), out)
        return
    pairs, facts = _pairs(flags, names, *answers)
    if not flags.sheet:
        _judge_pairs(flags, pairs, facts, out)
        return
    sheet = make_sheet(pairs, flags.seed)
    with _written(out, [SHEET]) as work:
        write_bytes(work / SHEET, sheet_page(sheet))
    print(f"{out / SHEET}: {len(sheet.items):,} pairs; open it in a browser, then give its file to --people")


def _pairs(
    flags: Flags, names: Sequence[str], first: Sequence[Answer], second: Sequence[Answer]
) -> tuple[list[Pair], list[Fact]]:
    """The pairs of two files, or as many as are drawn, and what the report says of them."""
    from babyllm.judging.answer_files import matched

    pairs = matched(first, second)
    if not pairs:
        raise UserError(f"{names[0]} and {names[1]}: have no prompt in common; see --fields.id and --fields.prompt")
    facts: list[Fact] = [("A", names[0]), ("B", names[1])]
    facts += [("answers of A without one of B", len(first) - len(pairs))] if len(first) > len(pairs) else []
    facts += [("answers of B without one of A", len(second) - len(pairs))] if len(second) > len(pairs) else []
    pairs = _drawn(pairs, flags)
    n_equal = sum(pair.a == pair.b for pair in pairs)
    return pairs, [*facts, ("pairs", len(pairs)), ("equal answers, ties without asking", n_equal)]


def _judge_pairs(flags: Flags, pairs: Sequence[Pair], facts: Sequence[Fact], out: Path) -> None:
    from babyllm.judging.judge_prompts import judge_prompt
    from babyllm.judging.pairs import Comparison, compare
    from babyllm.judging.report import most_frequent_problem, pairs_report

    people = _people(flags, pairs)
    prompt = judge_prompt("pair", flags.language, _prompt_file(flags))
    if flags.dry_run:
        _dry_run(flags, facts, lambda ask: compare(pairs, prompt, flags.repeats, ask))
        return
    with _written(out, RESULTS) as work:
        if people and not (flags.endpoint.url or flags.endpoints):
            comparisons = [Comparison(pair, []) for pair in pairs]
            spent: list[Fact] = []
        else:
            with _asking(flags, out) as (ask, spent):
                comparisons = compare(pairs, prompt, flags.repeats, ask)
            _note_problems(most_frequent_problem(comparisons), any(c.repeats and c.values for c in comparisons))
        report = pairs_report(comparisons, [*facts, *spent], people)
        _write(work, report, [comparison.to_json() for comparison in comparisons])
    _show(report, out)


def _judge_scores(flags: Flags, answers: Mapping[str, Sequence[Answer]], out: Path) -> None:
    from babyllm.judging.dimension_scores import check_weights, score
    from babyllm.judging.judge_prompts import dimension_lines, judge_prompt
    from babyllm.judging.report import most_frequent_problem, scores_report

    weights = flags.dimensions
    check_weights(weights)
    prompt = judge_prompt("score", flags.language, _prompt_file(flags))
    lines = dimension_lines(weights, flags.language)
    drawn = {name: _drawn(found, flags) for name, found in answers.items()}

    def scored(ask: Ask) -> dict[str, list[ScoredAnswer]]:
        return {name: score(found, prompt, lines, weights, flags.repeats, ask) for name, found in drawn.items()}

    if flags.dry_run:
        _dry_run(flags, [("answers", sum(map(len, drawn.values())))], scored)
        return
    with _written(out, RESULTS) as work:
        with _asking(flags, out) as (ask, spent):
            files = scored(ask)
        every = [one for scored in files.values() for one in scored]
        _note_problems(most_frequent_problem(every), any(any(one.scores) for one in every))
        report = scores_report(files, weights, spent)
        _write(work, report, [{"file": name} | one.to_json(weights) for name in files for one in files[name]])
    _show(report, out)


def _dry_run(flags: Flags, facts: Sequence[Fact], judge: Callable[[Ask], object]) -> None:
    """Print what a function would ask the judge, and what that would cost at most."""
    from babyllm.endpoint.named_endpoints import named_endpoints
    from babyllm.endpoint.price_report import DryRun
    from babyllm.endpoint.replies import Reply

    dry = DryRun(named_endpoints(flags.endpoint, flags.endpoints))

    def ask(requests: Sequence[Request]) -> Iterator[Reply]:
        dry.count(requests, "judge")
        return iter([Reply(error="not asked")] * len(requests))

    judge(ask)
    dry.print(dry.report("judge", facts))


@contextmanager
def _asking(flags: Flags, out: Path) -> Iterator[tuple[Ask, list[Fact]]]:
    """A function that asks the judge, and a list that has the facts of the requests after the block."""
    from babyllm.endpoint.named_endpoints import named_endpoints

    try:
        from babyllm.endpoint.client import Client
    except ImportError as error:
        raise UserError(f'judging needs {error.name}: pip install "babyllm[eval]"') from None
    judges = named_endpoints(flags.endpoint, flags.endpoints)
    if flags.repeats > 1 and any(one.temperature == 0 for one in judges.values()):
        note("repeats at temperature 0 are mostly equal; --endpoint.temperature=1 shows their spread")
    facts: list[Fact] = [(f"judge {name}".strip(), f"{one.model} at {one.url}") for name, one in judges.items()]
    facts += [("language of the prompts", flags.language), ("repeats", flags.repeats)]
    with Client(judges, out / CACHE, budget=flags.budget) as client:
        yield client.replies, facts
    for name, spending in client.spendings.items():
        facts += [(f"{name}: {title}" if name else title, value) for title, value in spending.facts()]


def _note_problems(problem: tuple[int, str] | None, is_any_judged: bool) -> None:
    """Print how many replies have no verdict.

    Raises:
        UserError: none has one.
    """
    if problem and not is_any_judged:
        raise UserError(f"none of the {problem[0]:,} replies has a verdict: {problem[1]}")
    if problem:
        note(
            f"{problem[0]:,} replies have no verdict, most often: {problem[1]}; failed requests are repeated next time"
        )


def _people(flags: Flags, pairs: Sequence[Pair]) -> dict[str, dict[str, Choice]]:
    from babyllm.judging.sheet import make_sheet, read_choices

    files = [flags.people] if isinstance(flags.people, str) else flags.people
    sheet = make_sheet(pairs, flags.seed)
    return {file: read_choices(Path(file), sheet) for file in files}


def _prompt_file(flags: Flags) -> Path | None:
    return Path(flags.prompt_file) if flags.prompt_file else None


def _drawn(items: Sequence[T], flags: Flags) -> list[T]:
    """The items, or `n` of them by the seed, in their order; the same of two files of equal length."""
    if flags.n is None or flags.n >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(flags.seed).sample(range(len(items)), flags.n))]


@contextmanager
def _written(out: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder whose files replace those of an earlier call in OUT, if the body succeeds."""
    from babyllm.pipeline.output import MADE, WORK, discard_work, publish, work_directory

    choices = [file.name for file in out.glob("choices-*.json")]  # of people, who may keep them where the sheet is
    with work_directory(out, [CACHE, SHEET, *RESULTS, *choices]):
        yield out / WORK / MADE
        publish(out, names, [name for name in reversed(names) if (out / name).exists()])
    discard_work(out)


def _write(folder: Path, report: Report, verdicts: Sequence[Mapping[str, Any]]) -> None:
    from babyllm.files import write_bytes
    from babyllm.pipeline.report_html import write_report

    lines = "".join(f"{json.dumps(verdict, ensure_ascii=False)}\n" for verdict in verdicts)
    write_bytes(folder / VERDICTS, lines.encode("utf-8", "backslashreplace"))
    write_report(folder, report)


def _show(report: Report, out: Path) -> None:
    from babyllm.pipeline.report import print_report

    print_report(report)
    print(f"\n{out / 'report.html'} shows this with examples, {out / VERDICTS} what the judge wrote")

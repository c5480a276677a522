"""Make training data with models, by a recipe: instructions, answers, turns, pairs, calls of tools ...

babyllm synth self_instruct OUT --n=200 --endpoint.url=http://127.0.0.1:8000/v1 --endpoint.model=NAME
babyllm synth --list
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from babyllm.chat.formats import FormatConfig
from babyllm.commands import note
from babyllm.config.values import Count, Few, PathText, Seed
from babyllm.endpoint.config import EndpointConfig
from babyllm.endpoint.shared_budget import BudgetConfig
from babyllm.errors import UserError

if TYPE_CHECKING:
    from babyllm.synthesis.recipe import Recipe
    from babyllm.synthesis.synthesise import Job

ARGUMENTS = "[RECIPE] [OUT]"
Paths = PathText | list[PathText]
Texts = list[str]


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm synth`.

    Attributes:
        list: whether to print the recipes and nothing else.
        show: whether to print the recipe, which can be changed and given as a file, and nothing else.
        inputs: file or folder, or [several], that the recipe starts from; see its source in `--list`.
        topics: list of topics, for a recipe that starts from topics.
        against: file or folder, or [several], of conversations or prompts; near-duplicates of them are refused, too.
        n: number of inputs that are drawn, or of items to begin with; null takes all inputs, or one for each task,
            topic or tool.
        language: language of the prompts.
        set: values of the recipe's options, such as '{rounds: 2}'.
        seed: seed of all draws.
        tries: number of times that a request is made whose reply cannot be read.
        structured: whether requests name the JSON schema that is wanted, for servers that hold answers to it.
        dry_run: whether to print the first prompts and the largest price, and ask nothing.
        endpoints: YAML file of several endpoints by name, each with the settings of `endpoint`; null takes that one.
        endpoint: model that is asked.
        budget: what all endpoints together may spend on OUT.
        format: fields of the input records.
    """

    list: bool = False
    show: bool = False
    inputs: Paths = field(default_factory=lambda: [])
    topics: Texts = field(default_factory=lambda: [])
    against: Paths = field(default_factory=lambda: [])
    n: Count | None = None
    language: Literal["en", "zh"] = "en"
    set: dict[str, Any] = field(default_factory=dict)
    seed: Seed = 0
    tries: Few = 1
    structured: bool = False
    dry_run: bool = False
    endpoints: PathText | None = None
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    format: FormatConfig = field(default_factory=FormatConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Make the records of a recipe in OUT.

    Raises:
        UserError: a file, a flag or the endpoint is at fault, or no record was kept.
    """
    from babyllm.synthesis.recipe import BUILT_IN, read_recipe

    if flags.list:
        for name in BUILT_IN:
            recipe = read_recipe(name)[0]
            print(f"{name:<15}{recipe.source:<11}{recipe.about['en']}\n{'':<26}{recipe.about['zh']}")
        return
    if len(arguments) < 1 + (not flags.show):
        raise UserError("usage: babyllm synth RECIPE OUT [--flag=value ...]; `babyllm synth --list` shows the recipes")
    recipe, text = read_recipe(arguments[0])
    if flags.show:
        print(text, end="")
        return
    job, out = _job(flags, recipe, text), Path(arguments[1])
    if not flags.dry_run:
        _synthesise(job, out)
        return
    from babyllm.synthesis.synthesise import dry_run

    dry, report = dry_run(job)
    dry.print(report)


def _synthesise(job: Job, out: Path) -> None:
    from babyllm.endpoint.price_report import print_spendings
    from babyllm.endpoint.shared_budget import NOT_ASKED
    from babyllm.pipeline.report import print_report
    from babyllm.synthesis.synthesise import RECORDS, synthesise

    report, spendings = synthesise(job, out)
    print_spendings(spendings)
    shown = [table for table in report.tables if table.title in ("Steps", "Rejections")]
    print_report(type(report)(report.title, report.facts, shown))
    print(f"\n{out / RECORDS} is for training; {out / 'report.html'} shows more, {out / 'rejected.jsonl'} the rest")
    if any(row[1] == NOT_ASKED for table in shown for row in table.rows):
        note("the budget is used up; the same command with a larger one goes on from here")


def _job(flags: Flags, recipe: Recipe, text: str) -> Job:
    try:
        from babyllm.endpoint.named_endpoints import named_endpoints
        from babyllm.synthesis.sources.recipe_inputs import Inputs
        from babyllm.synthesis.synthesise import Job
    except ImportError as error:
        raise UserError(f'synth needs {error.name}: pip install "babyllm[corpus,eval]"') from None
    if unknown := [name for name in flags.set if name not in recipe.options]:
        raise UserError(
            f"--set: {recipe.name} has no option {unknown[0]}; it has {', '.join(recipe.options) or 'none'}"
        )
    options = {**recipe.options, **flags.set}
    files, against = (
        [Path(one) for one in ([paths] if isinstance(paths, str) else paths)] for paths in (flags.inputs, flags.against)
    )
    inputs = Inputs(files, flags.topics, flags.n, flags.language, flags.seed, flags.format, options)
    return Job(
        recipe=recipe,
        text=text,
        inputs=inputs,
        endpoints=named_endpoints(flags.endpoint, flags.endpoints),
        budget=flags.budget,
        language=flags.language,
        options=options,
        seed=flags.seed,
        structured=flags.structured,
        tries=flags.tries,
        against=against,
    )

"""One recipe from inputs to files: `records.jsonl`, `rejected.jsonl`, a report, and the recipe as it was used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllm.config.values import Seed
from babyllm.endpoint.client import Client
from babyllm.endpoint.config import EndpointConfig, Request
from babyllm.endpoint.price_report import DryRun, is_priced
from babyllm.endpoint.replies import Reply
from babyllm.endpoint.shared_budget import BudgetConfig
from babyllm.endpoint.spending import Spending
from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.pipeline.output import MADE, REJECTED, WORK, discard_work, publish, require_apart, work_directory
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import write_report
from babyllm.pipeline.report_markdown import as_markdown
from babyllm.synthesis.made_items import Item, Rejection
from babyllm.synthesis.recipe import Language, Recipe, Step
from babyllm.synthesis.record_forms import STEP, record_of, rejected_line, unread_line
from babyllm.synthesis.sources.existing_texts import existing_texts
from babyllm.synthesis.sources.recipe_inputs import Found, Inputs, items_of
from babyllm.synthesis.steps.prompt_texts import schema_of, stand_in
from babyllm.synthesis.steps.run_steps import Making
from babyllm.synthesis.synthesis_report import synthesis_report

RECORDS, REST, USED, CACHE = "records.jsonl", "rest.jsonl", "recipe.yaml", "cache"
RESULTS = (RECORDS, REST, REJECTED, USED, "report.md", "report.html", "report.json")
_STAND_IN = "x" * 200  # what a dry run reads in place of a reply's texts


@dataclass(frozen=True)
class Job:
    """A recipe with its inputs and settings.

    Attributes:
        recipe: recipe.
        text: recipe as it is in its file.
        inputs: what it begins with.
        endpoints: endpoints by name.
        budget: what all endpoints together may spend.
        language: language of the prompts.
        options: values of the recipe's options.
        seed: seed of all draws.
        structured: whether requests name the JSON schema that is wanted.
        tries: number of times that a request is made whose reply cannot be read.
        against: files of conversations or prompts that no record may repeat.
    """

    recipe: Recipe
    text: str
    inputs: Inputs
    endpoints: Mapping[str, EndpointConfig]
    budget: BudgetConfig
    language: Language
    options: Mapping[str, Any]
    seed: Seed
    structured: bool
    tries: int
    against: Sequence[Path] = ()

    def making(self, ask: Callable[[Sequence[Request], Step], Iterator[Reply]]) -> Making:
        """The recipe at work with a function that returns replies."""
        models = {name: one.model or "" for name, one in self.endpoints.items()}
        spendings = {name: Spending(one) for name, one in self.endpoints.items()}
        has_temperature = any(one.temperature is not None for one in self.endpoints.values())
        return Making(
            self.recipe,
            self.language,
            self.options,
            ask,
            lambda reply: spendings[reply.endpoint].spent(reply.usage)[0] if reply.usage else 0.0,
            models,
            self.seed,
            self.structured,
            self.tries,
            has_temperature,
        )


def synthesise(job: Job, out: Path) -> tuple[Report, dict[str, Spending]]:
    """Make the records of a job in `out`, in place of an earlier result; what was answered is not asked again.

    Returns:
        The report, and what this call has spent at each endpoint.

    Raises:
        UserError: an input, a setting or an endpoint is at fault, or no record was kept; then the reasons are in `out`.
    """
    require_apart(out, [*job.inputs.files, *job.against])
    found = items_of(job.recipe, job.inputs)
    against = existing_texts(job.against, job.inputs.format)
    with _written(out) as work:
        with Client(job.endpoints, out / CACHE, budget=job.budget) as client:
            making = job.making(lambda requests, step: client.replies(requests))
            making.against = against
            records = _records(making, found.items, job)
        report = synthesis_report(making, records, found, is_priced(job.endpoints), _facts(job))
        rejected = [rejected_line(one, is_priced(job.endpoints)) for one in making.rejections]
        rejected += [unread_line(one) for one in found.unread]
        _write(work, records, rejected, found, job, report)
    if not records:
        reasons = max(making.counts, key=lambda one: sum(one.reasons.values())).reasons
        most = max(reasons, key=lambda name: reasons[name], default="there was none to keep")
        raise UserError(f"{out}: no record was kept, most often because: {most}; {out / REJECTED} has all reasons")
    return report, client.spendings


def dry_run(job: Job) -> tuple[DryRun, Report]:
    """What a job would ask and cost at most, without asking.

    Later steps are asked for stand-in replies, all of which are kept. What was answered before costs nothing again, but
    is in the price.
    """
    found, dry = items_of(job.recipe, job.inputs), DryRun(job.endpoints)

    def ask(requests: Sequence[Request], step: Step) -> Iterator[Reply]:
        dry.count(requests, step.name)
        n = int(making.number(step.expect, step.name))
        text = _STAND_IN
        if step.reply:
            text = json.dumps(stand_in(schema_of(step.reply, making.where(step.name)), _STAND_IN, n))
        for request in requests:
            name = request.endpoints[0] if request.endpoints else next(iter(job.endpoints))
            yield Reply(text, "stop", endpoint=name)

    making = job.making(ask)
    making.checks_rules = False
    making.run(found.items, job.recipe.steps)
    later = ("later steps assume", "replies of 200 characters, of which all are kept")
    return dry, dry.report(f"synth {job.recipe.name}", [("inputs", len(found.items))], [later])


def _records(making: Making, items: Sequence[Item], job: Job) -> list[dict[str, Any]]:
    made = making.run(items, job.recipe.steps)
    counts = making.begin(STEP, len(made))
    records = []
    for item in making.keep([(item, "") for item in made], job.recipe.record.keep, counts):
        record = record_of(item, job.recipe, job.language, job.options, is_priced(job.endpoints))
        if isinstance(record, Rejection):
            making.reject(record, counts)
        else:
            records.append(record)
    counts.n_out += len(records)
    return records


def _facts(job: Job) -> list[tuple[str, str]]:
    facts = [("recipe", job.recipe.name), ("language", job.language)]
    if job.options:
        facts.append(("options", json.dumps(dict(job.options), ensure_ascii=False)))
    if job.against:
        facts.append(("against", ", ".join(map(str, job.against))))
    for name, one in job.endpoints.items():
        facts.append((f"endpoint {name}".strip(), f"{one.model} at {one.url}"))
    return facts


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """A folder whose files replace those of an earlier call in OUT, if the body succeeds."""
    with work_directory(out, [CACHE, *RESULTS]):
        yield out / WORK / MADE
        publish(out, RESULTS, [name for name in reversed(RESULTS) if (out / name).exists()])
    discard_work(out)


def _write(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    rejected: Sequence[Mapping[str, Any]],
    found: Found,
    job: Job,
    report: Report,
) -> None:
    write_bytes(folder / RECORDS, _lines(records))
    write_bytes(folder / REJECTED, _lines(rejected))
    if job.recipe.rest:
        write_bytes(folder / REST, _lines(found.rest))
    write_bytes(folder / USED, job.text.encode())
    write_bytes(folder / "report.md", as_markdown(report).encode("utf-8", "backslashreplace"))
    write_report(folder, report)


def _lines(values: Sequence[Mapping[str, Any]]) -> bytes:
    text = "".join(f"{json.dumps(value, ensure_ascii=False, default=str)}\n" for value in values)
    return text.encode("utf-8", "backslashreplace")

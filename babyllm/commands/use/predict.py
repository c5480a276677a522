"""Answer the records of a file, and write them with the answers to another file, in bounded memory.

Conversations lose their last answer, which becomes the reference; records with a prompt are answered or continued. A
command that was killed goes on where it stopped:

    babyllm predict RUN_DIR chats.jsonl answers.jsonl --metrics=[rouge_l,bleu]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.commands import note, read_as_chosen
from babyllm.commands.answer_flags import AnswerFlags, answering
from babyllm.config.values import Few, PathText, Rate, Seed
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.runtime import ordinary_signals, start

if TYPE_CHECKING:
    from babyllm.prediction import Work

ARGUMENTS = "RUN_DIR IN OUT.jsonl"


@dataclass(frozen=True)
class Flags(AnswerFlags):
    """Flags of `babyllm predict`.

    Attributes:
        temperature: randomness of the draws; 0 takes the most probable token each time.
        seed: seed of the draws, from which each record's own is derived; null draws differently each time.
        samples: number of answers to each record.
        metrics: metrics of the answers against the references, such as [exact,rouge_l,bleu].
        databases: folder of SQLite files; reports whether predicted SQL queries return the right rows.
        json: file to write the numbers to.
    """

    temperature: Rate = 0.0
    seed: Seed | None = 0
    samples: Few = 1
    metrics: list[str] = field(default_factory=list)
    databases: PathText | None = None
    json: PathText | None = None


def run(flags: Flags, directory: str, source: str, out: str) -> None:
    """Write the answers to the records of a file, and print what they are worth.

    Raises:
        UserError: the model or the input cannot be read, or the output was begun with other settings.
    """
    from babyllm.evaluate.answer_metrics.answer_scores import require_metrics

    require_metrics(flags.metrics)
    if flags.samples > 1 and flags.temperature == 0:
        raise UserError(f"--samples={flags.samples}: equal answers at temperature 0; give a --temperature above 0")
    with start(flags.runtime) as runtime, ordinary_signals(), read_as_chosen(runtime):
        with leaving_at_once():
            asked, settings = answering(flags, flags.samples, directory, runtime)
        from babyllm.prediction import predict_file

        work = predict_file(asked, Path(source), Path(out), runtime, settings, note)
        if runtime.is_main:
            _report(flags, directory, source, out, work)


def _report(flags: Flags, directory: str, source: str, out: str, work: Work) -> None:
    from babyllm.evaluate.predictions import evaluate_predictions
    from babyllm.files import write_json
    from babyllm.pipeline.report import Fact, print_report
    from babyllm.runtime.machine import cores

    facts: list[Fact] = [("model", directory), ("input", source), ("output", out)]
    if work.seconds:
        facts += [("tokens drawn", work.n_tokens), ("tokens/s", round(work.n_tokens / work.seconds, 1))]
    databases = Path(flags.databases) if flags.databases else None
    evaluation = evaluate_predictions(Path(out), flags.metrics, facts, databases=databases, workers=cores())
    print_report(evaluation.report)
    if flags.json:
        try:
            write_json(Path(flags.json), evaluation.to_json())
        except OSError as error:
            raise UserError(f"--json: {flags.json} cannot be written ({error.strerror})") from error

"""Answer the records of a file, and write them with the answers to another file, in bounded memory.

Conversations lose their last answer, which becomes the reference; records with a prompt are answered or continued. A
command that was killed goes on where it stopped:

    babyllm predict RUN_DIR chats.jsonl answers.jsonl --metrics=[rouge_l,bleu]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllm.chat.formats import FormatConfig
from babyllm.commands import SamplingFlags, note, note_base_model, read_as_chosen
from babyllm.config.values import Few, PathText, Rate, Seed
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.runtime import Runtime, RuntimeConfig, ordinary_signals, start
from babyllm.runtime.precision import dtype_name

if TYPE_CHECKING:
    from babyllm.loading import ChatModel
    from babyllm.prediction import Answering, Work

ARGUMENTS = "RUN_DIR IN OUT.jsonl"
_WINDOW = 128  # answers that are made as a whole: a killed process loses at most so many


@dataclass(frozen=True)
class Flags(SamplingFlags):
    """Flags of `babyllm predict`.

    Attributes:
        temperature: randomness of the draws; 0 takes the most probable token each time.
        seed: seed of the draws, from which each record's own is derived; null draws differently each time.
        stop: string, or [several], that ends an answer and is not part of it.
        samples: number of answers to each record.
        chat: whether conversations are rendered with the chat template; false continues plain texts; null decides by
            whether the model has a template.
        metrics: metrics of the answers against the references, such as [exact,rouge_l,bleu].
        databases: folder of SQLite files; reports whether predicted SQL queries return the right rows.
        json: file to write the numbers to.
        slots: number of answers that are decoded together.
        format: settings for reading records as conversations.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    temperature: Rate = 0.0
    seed: Seed | None = 0
    stop: str | list[str] = field(default_factory=list)
    samples: Few = 1
    chat: bool | None = None
    metrics: list[str] = field(default_factory=list)
    databases: PathText | None = None
    json: PathText | None = None
    slots: Few = 16
    format: FormatConfig = field(default_factory=FormatConfig)
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


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
            answering, settings = _answering(flags, directory, runtime)
        from babyllm.prediction import predict_file

        work = predict_file(answering, Path(source), Path(out), runtime, settings, note)
        if runtime.is_main:
            _report(flags, directory, source, out, work)


def _answering(flags: Flags, directory: str, runtime: Runtime) -> tuple[Answering, dict[str, Any]]:
    """How records are answered, and the settings that the answers depend on."""
    from babyllm.evaluate.tasks.responses import weights_hash
    from babyllm.files import json_digest
    from babyllm.generation import Sampling
    from babyllm.loading import load_chat_model
    from babyllm.prediction import Answering, Asking

    found = load_chat_model(directory, int8=flags.int8)
    asking = Asking(*_rendering(flags, found, directory), flags.format)
    stop = (flags.stop,) if isinstance(flags.stop, str) else tuple(flags.stop)
    sampling = Sampling(**flags.settings(), stop=stop)
    settings = {
        **asdict(sampling),
        "model": weights_hash(found.model),
        "tokenizer": asking.tokenizer.sha256,
        "chat template": json_digest(asking.template.source) if asking.template else "none",
        "samples": flags.samples,
        "slots": flags.slots,
        "format": asdict(flags.format),
        "device": runtime.device.type,
        "dtype": dtype_name(runtime.reading_dtype),
    }
    model, window = found.model.to(runtime.device), max(1, _WINDOW // flags.samples)
    return Answering(model, asking, sampling, flags.samples, flags.slots, window), settings


def _rendering(flags: Flags, found: ChatModel, directory: str) -> tuple[Any, Any]:
    """The tokenizer, and the chat template or None."""
    if not (found.has_learned if flags.chat is None else flags.chat):
        return found.tokenizer, None
    found.require_template_tokens(directory)
    note_base_model(found, directory)
    template = found.template.allowing(flags.format.allow_special)
    return template.tokenizer, template


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

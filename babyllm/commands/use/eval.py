"""Measure models: results on tasks, perplexity on texts, loss and accuracy on conversations or token data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.commands import read_as_chosen
from babyllm.commands.use.evaluations.flags import Flags
from babyllm.errors import UserError
from babyllm.run_directory import CONFIG
from babyllm.runtime import Runtime, start

if TYPE_CHECKING:
    from babyllm.evaluate.report import Evaluation

ARGUMENTS = "RUN_DIR..."
STORE, MANIFEST = "conversations", "manifest.json"


def run(flags: Flags, *directories: str) -> None:
    """Evaluate the models of run, step or Hugging Face directories and print tables."""
    from babyllm.pipeline.report import print_examples, print_report

    evaluation = evaluated(flags, *directories)
    if evaluation is None:
        return
    print_report(evaluation.report)
    print_examples(evaluation.report)
    _write_files(flags, evaluation)


def evaluated(flags: Flags, *directories: str) -> Evaluation | None:
    """The evaluation of the models of run, step or Hugging Face directories; None on ranks other than 0.

    Raises:
        UserError: a file or flag is at fault; the message names it.
        KeyboardInterrupt: a stop signal arrived.
    """
    with start(flags.runtime) as runtime, read_as_chosen(runtime):
        if flags.tasks:
            from babyllm.commands.use.evaluations.on_tasks import on_tasks

            evaluation = on_tasks(flags, directories, runtime)
        elif flags.texts:
            from babyllm.commands.use.evaluations.on_texts import on_texts

            evaluation = on_texts(flags, directories, runtime)
        elif len(directories) > 1:
            raise UserError(f"{directories[1]}: several models are compared on --tasks or --texts; give some")
        elif flags.needle.language:
            from babyllm.commands.use.evaluations.on_needle import on_needle

            evaluation = on_needle(flags, directories[0], runtime)
        else:
            evaluation = _of_one(flags, directories[0], runtime)
        if runtime.stop_requested:
            raise KeyboardInterrupt
        return evaluation if runtime.is_main else None


def _of_one(flags: Flags, directory: str, runtime: Runtime) -> Evaluation:
    """The evaluation on conversations or token data: those that are given, else those that the run held out."""
    from babyllm.commands.use.evaluations.on_conversations import on_conversations
    from babyllm.commands.use.evaluations.on_tokens import on_run_tokens, on_tokens

    place = Path(directory)
    home = next((p for p in (place, place.parent) if (p / STORE).is_dir() or (p / CONFIG).is_file()), place)
    paths = [Path(p) for p in ([flags.data] if isinstance(flags.data, str) else flags.data or [])]
    if paths and (paths[0] / MANIFEST).is_file():
        return on_tokens(flags, directory, paths[0], flags.seq_len, runtime)
    if paths or (home / STORE).is_dir():
        return on_conversations(flags, directory, home / STORE, paths, runtime)
    return on_run_tokens(flags, directory, home, runtime)


def _write_files(flags: Flags, evaluation: Evaluation) -> None:
    from babyllm.files import write_bytes, write_json
    from babyllm.pipeline.report_html import page
    from babyllm.pipeline.report_markdown import as_markdown

    for name, path in (("json", flags.json), ("markdown", flags.markdown), ("html", flags.html)):
        if not path:
            continue
        try:
            if name == "json":
                write_json(Path(path), evaluation.to_json())
            else:
                write_bytes(Path(path), (page if name == "html" else as_markdown)(evaluation.report).encode())
        except OSError as error:
            raise UserError(f"--{name}: {path} cannot be written ({error.strerror})") from error

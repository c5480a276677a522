"""Label the records of files: task, difficulty, quality, language and safety, by rules, a judge or classifiers.

babyllm label chats.jsonl OUT --endpoint.url=http://127.0.0.1:8000/v1 --endpoint.model=NAME
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from babyllm.chat.formats import FormatConfig
from babyllm.commands import note
from babyllm.endpoint.shared_budget import BudgetConfig
from babyllm.errors import UserError
from babyllm.flywheel.labels.labeller_config import LabellerConfig

ARGUMENTS = "INPUT... OUT"


@dataclass(frozen=True)
class Flags(LabellerConfig):
    """Flags of `babyllm label`.

    Attributes:
        dry_run: whether to print the first prompts and the largest price, and ask nothing.
        budget: what all endpoints together may spend on OUT.
        format: fields of the input records.
    """

    dry_run: bool = False
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    format: FormatConfig = field(default_factory=FormatConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Write the records of files with their labels to OUT.

    Raises:
        UserError: a file, a flag or the endpoint is at fault.
    """
    try:
        from babyllm.flywheel.labels.label_records import RECORDS, dry_run, label_records
    except ImportError as error:
        raise UserError(f'label needs {error.name}: pip install "babyllm[corpus,eval]"') from None
    from babyllm.endpoint.price_report import print_spendings
    from babyllm.endpoint.shared_budget import NOT_ASKED
    from babyllm.pipeline.report import print_report

    *inputs, out = map(Path, arguments)
    if flags.dry_run:
        dry, report = dry_run(inputs, flags, flags.format)
        dry.print(report)
        return
    report, spendings = label_records(inputs, out, flags, flags.budget, flags.format)
    print_spendings(spendings)
    print_report(report)
    print(f"\n{out / RECORDS} has the records with their labels, {out / 'report.html'} this")
    if any(row[0] == NOT_ASKED for table in report.tables for row in table.rows):
        note("the budget is used up; the same command with a larger one goes on from here")

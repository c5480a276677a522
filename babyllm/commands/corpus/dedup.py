"""Write the documents of corpora without exact and near duplicates, and without overlaps with evaluation sets."""

from __future__ import annotations

from pathlib import Path

from babyllm.pipeline.report import print_report
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup

ARGUMENTS = "IN... OUT"
Flags = DedupConfig


def run(flags: DedupConfig, *arguments: str) -> None:
    """Deduplicate the corpora IN into the corpus OUT and print the report."""
    *inputs, out = map(Path, arguments)
    report = dedup(inputs, out, flags)
    if report is None:
        print(f"{out}: is complete, there is nothing to do")
        return
    print_report(report)
    print(f"\n{out / 'report.html'}")

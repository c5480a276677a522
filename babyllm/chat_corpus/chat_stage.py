"""What the stages that write chat files share: the work on all partitions, and the publication of the result.

inputs -> partitions -> work, one process each: a ChatSink -> pieces
pieces of all partitions -> files, rejected.jsonl, report.json, report.html -> chats.json, the commit mark
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from babyllm.chat.reading import find_conversation_partitions
from babyllm.chat_corpus.chat_output import join_chats
from babyllm.errors import UserError
from babyllm.pipeline.output import MADE, REJECTED, publish, rejected_published
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.pipeline.rejections import require_documents, warn_of_rejected
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.prepare.rendered.unused import join_rejected
from babyllm.store.chat_folders import CHATS, write_chat_files
from babyllm.text.readers import WHOLE_FILES, Partition, key_of


@dataclass(frozen=True)
class ChatRun:
    """A stage over chat files, in the work directory of its output.

    Attributes:
        directory: work directory of the output.
        partitions: partitions of the inputs.
        about: what determines the result, as JSON values.
        work: use of the machine.
    """

    directory: Path
    partitions: Sequence[Partition]
    about: dict[str, Any]
    work: WorkConfig

    def run(self, work: Callable[[Partition, Path], Any], folder: str, title: str, more: Any = None) -> list[Any]:
        """The results of `work` for all partitions; `more` is what it depends on besides `about`, as a JSON value."""
        return run_partitions(
            self.partitions,
            work,
            self.directory / folder,
            key=[self.about, key_of(self.partitions), more],
            work=self.work,
            sizes=[partition.size_bytes for partition in self.partitions],
            title=title,
        )

    def folders(self, folder: str) -> list[Path]:
        """The folders of all partitions."""
        return [self.directory / folder / f"{index:05d}" for index in range(len(self.partitions))]

    def publish(
        self,
        out: Path,
        folder: str,
        results: Sequence[Mapping[str, Any]],
        report: Report,
        *,
        n_read: int,
        unreadable: Mapping[str, int],
        reasons: Mapping[str, int],
        tables: Sequence[str] = (),
    ) -> None:
        """Write all files of the output, the commit mark last.

        Args:
            out: directory of the output.
            folder: name of the folder with the partitions' pieces.
            results: results of the partitions.
            report: report on the stage.
            n_read: number of conversations read.
            unreadable: number of records that are not conversations, by reason.
            reasons: number of records that were not kept, by reason.
            tables: names of further files in the folder `made`.

        Raises:
            UserError: nothing is left.
        """
        made, folders = self.directory / MADE, self.folders(folder)
        sources = {source.path: source for partition in self.partitions for source in partition.sources}
        join_rejected(folders, made, sources)
        files = join_chats(folders, [result["pieces"] for result in results], made)
        with rejected_published(out):
            require_conversations(sum(files.values()), reasons, out)
        write_report(made, report)
        write_chat_files(made, files, self.about)
        warn_of_rejected(unreadable, n_read, out / REJECTED)
        publish(out, [*files, REJECTED, *tables, *REPORT_FILES, CHATS])


def identity(inputs: Sequence[Path]) -> list[Any]:
    """JSON values that change when a file is added, removed or changed.

    Raises:
        UserError: an input does not exist, is given twice or holds no chat file.
    """
    sources = {
        source.name: source
        for partition in find_conversation_partitions(inputs, WHOLE_FILES)
        for source in partition.sources
    }
    return [[name, *source.stamp] for name, source in sorted(sources.items())]


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of counts by name."""
    total = Counter[str]()
    for count in counts:
        total.update(count)
    return dict(total)


def require_conversations(n: int, reasons: Mapping[str, int], out: Path) -> None:
    """Check that a conversation is left.

    Raises:
        UserError: `n` is 0.
    """
    try:
        require_documents(n, reasons, out)
    except UserError as error:
        raise UserError(str(error).replace("no document is left", "no conversation is left")) from None


def in_words_of_chats(report: Report) -> Report:
    """The same report, in which a document is called a conversation."""

    def named(text: str) -> str:
        for d, c in (("Document", "Conversation"), ("document", "conversation")):
            text = text.replace(d, c)
        return text

    return Report(
        named(report.title),
        [(named(name), value) for name, value in report.facts],
        [replace(table, title=named(table.title), columns=list(map(named, table.columns))) for table in report.tables],
        report.histograms and [replace(plot, title=named(plot.title)) for plot in report.histograms],
        report.examples and [replace(group, title=named(group.title)) for group in report.examples],
    )

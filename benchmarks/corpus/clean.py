"""How much text `babyllm clean` with its default filters cleans per second of CPU time on one core.

    python -m benchmarks.corpus.clean [FILE ...] [--mb 20]

Without files it reads the sample corpus and, where BABYLLM_DATA has them, the poems. It prints for each input the MB
(10^6 UTF-8 bytes of text read) per second of the whole stage, from a corpus on disk to a corpus and a report, in this
process alone, and of each filter by itself on documents in memory. CPU time counts what the process did, whoever else
uses the machine. Of a large input, its beginning is measured.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from babyllm.documents import Document
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import Part, write_corpus, write_part
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.chain import Removed, build, labels
from babyllm.text.clean.filters.contract import Resources
from babyllm.text.clean.stage import BATCH_DOCUMENTS, clean
from babyllm.text.readers import ReadConfig, find_partitions, read_partition
from benchmarks import figures

# What the usual inputs are called in the record.
TITLES = {"raw.jsonl": "news and reviews", "chinese-poetry.parquet": "poems"}


def first_documents(path: Path, n_bytes: int) -> list[Document]:
    partition = find_partitions([path], ReadConfig(), n_bytes)[0]
    return [record for record in read_partition(partition, ReadConfig()) if isinstance(record, Document)]


def size_mb(documents: Sequence[Document]) -> float:
    return sum(len(document.text.encode()) for document in documents) / 1e6


def measure_stage(documents: Sequence[Document]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        raw.mkdir()
        write_corpus(raw, [Part("part.parquet", write_part(documents, raw / "part.parquet"))], {})
        begin = time.process_time()
        report = clean([raw], Path(folder, "out"), CleanConfig(), work=WorkConfig(workers=1))
        seconds = time.process_time() - begin
    assert report is not None
    facts = {name: float(value) for name, value in report.facts if isinstance(value, int | float)}
    return {
        "mb": round(size_mb(documents), 2),
        "documents": len(documents),
        "mb_per_cpu_s": round(size_mb(documents) / seconds, 2),
        "documents_kept": round(facts["documents kept"] / facts["documents read"], 4),
        "characters_kept": round(facts["characters kept"] / facts["characters read"], 4),
    }


def measure_filters(documents: list[Document]) -> dict[str, float]:
    config = CleanConfig()
    rates = {}
    for label, name in zip(labels(config.filters), config.filters, strict=True):
        step = build(name, config, Resources())
        step(documents[:1])
        size, begin = size_mb(documents), time.process_time()
        answers = [
            a for i in range(0, len(documents), BATCH_DOCUMENTS) for a in step(documents[i : i + BATCH_DOCUMENTS])
        ]
        rates[label] = round(size / max(1e-9, time.process_time() - begin), 1)
        documents = [
            Document(answer, document.domain, document.id)
            for document, answer in zip(documents, answers, strict=True)
            if not isinstance(answer, Removed)
        ]
    return rates


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("inputs", type=Path, nargs="*", metavar="FILE", help="files or folders")
    parser.add_argument("--mb", type=float, default=20, help="of each input, about (default 20)")
    args = figures.parse(parser, mb=1)
    pa.set_cpu_count(1)  # so that all work is this core's
    rates = []
    for path in args.inputs or [figures.sample("raw.jsonl"), *filter(None, [figures.poems()])]:
        documents = first_documents(path, int(args.mb * 1e6))
        stage = measure_stage(documents)
        print(f"{path.name}: {stage}", flush=True)
        for label, rate in measure_filters(documents).items():
            print(f"  {label:12} {rate:10,.1f} MB/s")
        title = TITLES.get(path.name, path.name)
        rates.append(figures.Figure(f"default filters, {title}", stage["mb_per_cpu_s"], "MB per CPU second"))
    figures.write(args, rates)


if __name__ == "__main__":
    main()

"""Bits per byte of `xz -9e` on held-out documents: the figure a language model trained on the same text has to beat.

A general compressor that has seen the training text codes the held-out documents in

    8 * (size(xz(train + held out)) - size(xz(train))) / bytes(held out)

bits per byte. Documents are joined by newlines in the order of the file, and the bytes are those of the texts alone,
as in a model's bits per byte, whose nats include `<eos>` but whose bytes do not. The dictionary of `xz -9e` is 64 MiB:
with more training text than that, the beginning is forgotten.

    python -m benchmarks.corpus.xz_baseline [CORPUS]
"""

import lzma
from pathlib import Path

from babyllm.documents import is_held_out
from babyllm.store.corpus import open_corpus
from benchmarks import figures

UNIT = "bits per byte"


def xz_size(texts: list[str]) -> int:
    data = "".join(text + "\n" for text in texts).encode()
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME))


def measure(texts: list[str], fraction: float) -> dict[str, float]:
    train = [text for text in texts if not is_held_out(text, fraction)]
    held_out = [text for text in texts if is_held_out(text, fraction)]
    held_out_bytes = sum(len(text.encode()) for text in held_out)
    train_xz = xz_size(train)
    added_xz = xz_size(train + held_out) - train_xz
    return {
        "train_documents": len(train),
        "train_bytes": sum(len(text.encode()) for text in train),
        "train_xz_bytes": train_xz,
        "held_out_documents": len(held_out),
        "held_out_bytes": held_out_bytes,
        "held_out_xz_bytes": added_xz,
        "bits_per_byte": 8 * added_xz / held_out_bytes,
    }


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("corpus", type=Path, nargs="?", help="a directory of `babyllm dedup`; default: the sample's")
    parser.add_argument("--fraction", type=float, default=0.02, help="share of documents held out (default 0.02)")
    args = figures.parse(parser)
    documents = list(open_corpus(args.corpus or figures.sample("unique")).documents())
    documents = documents[::20] if args.quick else documents

    groups = {domain: {domain} for domain in dict.fromkeys(document.domain for document in documents)}
    groups["all"] = set(groups)
    columns = ("train_documents", "train_bytes", "held_out_documents", "held_out_bytes", "held_out_xz_bytes")
    print(f"{'domain':10}" + "  ".join((*columns, "bits_per_byte")))
    results = {}
    for name, domains in groups.items():
        results[name] = measure([document.text for document in documents if document.domain in domains], args.fraction)
        row = "  ".join(f"{results[name][column]:{len(column)},}" for column in columns)
        print(f"{name:10}{row}  {results[name]['bits_per_byte']:13.4f}", flush=True)
    figures.write(args, (figures.Figure(f"xz -9e, {name}", x["bits_per_byte"], UNIT) for name, x in results.items()))


if __name__ == "__main__":
    main()

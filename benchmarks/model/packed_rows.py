"""The time of attention in packed rows: under a mask, and each document by itself (`runtime.attention=documents`).

    python -m benchmarks.model.packed_rows [--documents 60 300] [--rows 4x1024 2x2048 1x4096] [--rounds 5]

Forward and backward passes of attention alone, 8 heads with 4 key heads of width 64, rows of random numbers that are
full of documents of one length. Both forms take turns on one thread in float32; `--threads` and `--dtype` change that.
Each pass works out again what queries may look at, as in training. The results of both forms are compared, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import figures

if TYPE_CHECKING:
    import torch

HEADS, KEY_HEADS, WIDTH = 8, 4, 64
FORMS = {"mask": False, "by document": True}


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--documents", nargs="+", type=int, default=[60, 300], help="tokens of a document")
    parser.add_argument("--rows", nargs="+", default=["4x1024", "2x2048", "1x4096"], help="rows x tokens of a pass")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each form")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = figures.parse(parser, rows=["2x256"], rounds=1)
    import torch

    torch.set_num_threads(args.threads)
    found: list[figures.Figure] = []
    print(f"{'rows x tokens':16}{'document':>10}" + "".join(f"{form:>32}" for form in FORMS) + f"{'times':>24}  ms")
    for rows in args.rows:
        n_rows, length = map(int, rows.split("x"))
        for document in args.documents:
            ms = measured(n_rows, length, document, getattr(torch, args.dtype), args.rounds)
            ratios = [a / b for a, b in zip(ms["mask"], ms["by document"], strict=True)]
            spread = "".join(f"{figures.spread(of_form, 0):>32}" for of_form in ms.values())
            print(f"{rows:16}{document:>10}{spread}{figures.spread(ratios, 1):>24}", flush=True)
            title = f"packed rows, {rows} tokens, documents of {document}, {args.dtype}"
            found += [figures.Figure(f"{title}, {form}", median(of_form), "ms") for form, of_form in ms.items()]
            found.append(figures.Figure(f"{title}, mask over by document", median(ratios), "x"))
    figures.write(args, found)


def measured(n_rows: int, length: int, document: int, dtype: torch.dtype, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a forward and a backward pass by form, of each turn after the first."""
    import torch

    from babyllm.model.attention import causal_attention
    from babyllm.model.document_attention import seen_in

    torch.manual_seed(0)
    heads = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    q, k, v, gradient = (torch.randn(n_rows, n, length, WIDTH).to(dtype) for n in heads)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    documents = (torch.arange(length) // document).expand(n_rows, length).contiguous()

    def turn(is_by_document: bool) -> list[torch.Tensor]:
        seen = seen_in(documents, dtype, WIDTH, by_document=is_by_document)
        attended = causal_attention(q, k, v, seen, "documents" if is_by_document else "fused")
        return [attended.detach(), *torch.autograd.grad(attended, inputs, gradient)]

    for one, other in zip(*(turn(is_by_document) for is_by_document in FORMS.values()), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-4 if dtype == torch.float32 else 2e-2)
    ms: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(rounds):
        for form, is_by_document in FORMS.items():
            ms[form].append(_milliseconds(lambda is_by_document=is_by_document: turn(is_by_document)))  # type: ignore[misc]
    return ms


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()

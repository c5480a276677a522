"""A block's forward and backward pass as events of memory, in the order of `babyllm.model`.

norm, queries with keys and values, rotation, attention, its output, sum; norm, gate and up, SwiGLU, down, sum. The
residual stream and its gradient are float32.
"""

from __future__ import annotations

from dataclasses import replace

from babyllm.planning.events.ledger import Held, Ledger
from babyllm.planning.events.product import Kept, Product, products
from babyllm.planning.job import BYTES, Job

BLOCK = 64
"""Queries that attention in blocks computes at a time: `babyllm.model.attention.BLOCK`, which loads torch."""


class Block:
    """The events of one block."""

    def __init__(self, job: Job, *, is_first: bool) -> None:
        self._job, self._is_first = job, is_first
        self._qkv, self._out, self._gate_up, self._down = products(job)
        # The output of attention is made again by no one.
        self._out = replace(self._out, makes_input_again=False)
        self._e = BYTES[job.dtype]
        self._kept = [Kept(), Kept(), Kept(), Kept()]
        self._saved: dict[str, Held] = {}

    def _take(self, ledger: Ledger, width: float, n_bytes: int | None = None) -> Held:
        """(n, width) numbers, in the products' type unless `n_bytes` says otherwise."""
        return ledger.take("activations", self._job.tokens * width * (n_bytes or self._e))

    def forward(self, ledger: Ledger, x: Held, *, is_again: bool = False) -> Held | None:
        """The forward pass.

        Args:
            ledger: the ledger.
            x: the stream at the block's input, which the backward pass frees.
            is_again: whether the backward pass computes the block again, which needs no output.

        Returns:
            The stream at the block's output.
        """
        d = self._job.model.d_model
        dropped: Held | None = None
        if self._is_first and self._job.adapter.rank:
            dropped, x = x, Held("activations", 0)  # nothing before the first update has a gradient
        self._saved["x"] = x
        attended = self._attention(ledger)
        self._saved["between"] = self._sum(ledger)
        ledger.free(dropped)
        gate_up = self._gate_up.forward(ledger, None, self._kept[2])
        opened = self._take(ledger, self._job.model.ff_width)
        if self._down.makes_input_again:
            written = self._down.forward(ledger, None, self._kept[3])
            ledger.free(opened)
        else:
            activated = self._take(ledger, self._job.model.ff_width)
            written = self._down.forward(ledger, activated, self._kept[3])
            self._saved["opened"] = opened
        self._saved["gate_up"] = gate_up
        if self._job.model.dropout:
            # A CPU keeps a factor of each number, CUDA a byte.
            self._saved["dropped"] = self._take(ledger, 2 * d, 1 if self._job.device == "cuda" else None)
        out = None if is_again else self._sum(ledger)
        ledger.free(attended, written)
        return out

    def _sum(self, ledger: Ledger) -> Held:
        """The stream after a sum; what is added in 16 bits is copied first."""
        cast = self._take(ledger, self._job.model.d_model, 4) if self._e < 4 else None
        total = self._take(ledger, self._job.model.d_model, 4)
        ledger.free(cast)
        return total

    def _attention(self, ledger: Ledger) -> Held:
        """From the stream to what attention writes into it, (n, d_model)."""
        width, heads = self._out.inputs, self._qkv.outputs
        qkv = self._qkv.forward(ledger, None, self._kept[0])
        if self._job.model.qk_norm:
            self._saved["unnormed"] = qkv  # their views keep all of it
            normed = self._take(ledger, heads - self._kv_width, 4)
            qkv = self._take(ledger, heads)
            ledger.free(normed)
        self._saved["rotated"] = self._take(ledger, heads)
        if self._e < 4:
            ledger.touch("activations", 2 * 4 * self._job.tokens * width)  # the rotation is computed in float32
        self._saved["statistics"] = ledger.take("activations", self._statistics())
        self._gather(ledger)
        result = self._take(ledger, width)
        if self._job.device == "cuda" and not self._is_in_blocks:
            self._saved["result"] = result  # lies as the next product reads it
            written = self._out.forward(ledger, None, self._kept[1])
        else:
            written = self._out.forward(ledger, self._take(ledger, width), self._kept[1])
            if self._is_in_blocks:
                ledger.free(result)
            else:
                self._saved["result"] = result
        ledger.free(qkv)
        return written

    def _gather(self, ledger: Ledger) -> None:
        """Keys and values of whole rows, where ranks share them: received, put in order, and freed again."""
        n = self._job.parallel.context
        ledger.touch("communication", 2 * n * self._job.tokens * 2 * self._kv_width * self._e if n > 1 else 0)

    @property
    def _kv_width(self) -> int:
        return self._job.model.kv_heads * self._job.model.head_width

    @property
    def _is_in_blocks(self) -> bool:
        return self._job.attention == "blocks" and not self._job.documents and self._job.parallel.context == 1

    def _statistics(self) -> float:
        """Bytes that attention keeps beside its inputs: a number a row, and a mask; or all probabilities."""
        job, T = self._job, self._job.seq_len
        if self._is_in_blocks:
            rows = job.micro_batch * job.model.n_heads
            return rows * self._e * sum(min(BLOCK, T - first) * min(T, first + BLOCK) for first in range(0, T, BLOCK))
        return 4 * job.tokens * job.model.n_heads + (job.tokens * T * self._e if job.documents else 0)

    def backward(self, ledger: Ledger, gradient: Held, trained: list[Held]) -> None:
        """The backward pass: what the forward pass kept is freed, the block's input too.

        Args:
            ledger: the ledger.
            gradient: gradient of the stream, which stays.
            trained: gradients of weights, to which these are added.
        """
        del gradient  # it is changed in place
        self._norm(ledger, self._mlp_backward(ledger, trained), self._gate_up, "between")
        self._norm(ledger, self._attention_backward(ledger, trained), self._qkv, "x")
        ledger.free(*self._saved.values())
        self._saved.clear()

    def _incoming(self, ledger: Ledger) -> Held | None:
        """A copy of the stream's gradient in 16 bits."""
        return self._take(ledger, self._job.model.d_model) if self._e < 4 else None

    def _mlp_backward(self, ledger: Ledger, trained: list[Held]) -> Held:
        f, incoming = self._job.model.ff_width, self._incoming(ledger)
        nothing = Held("activations", 0)
        if self._down.makes_input_again:
            opened, d_activated = self._take(ledger, f), self._take(ledger, f)
            d_gate_up = self._take(ledger, 2 * f)
            self._down.backward_of_weight(ledger, self._kept[3], trained)
            ledger.free(opened, d_activated, incoming)
        else:
            d_activated = self._down.backward(ledger, incoming or nothing, self._kept[3], trained)
            d_gate_up, product = self._take(ledger, 2 * f), self._take(ledger, f)
            ledger.free(product, d_activated, self._saved.pop("opened"))
        ledger.free(self._saved.pop("gate_up"))
        return self._gate_up.backward(ledger, d_gate_up, self._kept[2], trained)

    def _attention_backward(self, ledger: Ledger, trained: list[Held]) -> Held:
        width, heads = self._out.inputs, self._qkv.outputs
        d_result = self._out.backward(ledger, self._incoming(ledger) or Held("activations", 0), self._kept[1], trained)
        d_rotated = self._take(ledger, heads)
        self._gather(ledger)
        if self._is_in_blocks:
            # Three matrices of a block of queries: derivatives by probabilities and scores, and a copy.
            ledger.touch(
                "activations", 3 * self._job.micro_batch * self._job.model.n_heads * BLOCK * self._job.seq_len * self._e
            )
        ledger.free(
            d_result, self._saved.pop("result", None), self._saved.pop("rotated"), self._saved.pop("statistics")
        )
        d_qkv = self._take(ledger, heads)
        if self._e < 4:
            ledger.touch("activations", 2 * 4 * self._job.tokens * width)
        ledger.free(d_rotated)
        return self._qkv.backward(ledger, d_qkv, self._kept[0], trained)

    def _norm(self, ledger: Ledger, gradient: Held, product: Product, place: str) -> None:
        """The backward pass of a norm: its gradient is added to that of the stream, in place."""
        weighted, d_x = self._take(ledger, product.inputs, 4), self._take(ledger, product.inputs, 4)
        ledger.free(weighted, gradient, self._saved.pop(place), d_x)

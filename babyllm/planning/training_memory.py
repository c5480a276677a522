"""The peak memory of one rank of a training job, by part.

weights, moments -> forward pass, block by block -> output layer -> backward pass -> optimizer's step -> peak

The events are those of `babyllm.model` and `babyllm.training.loop`, with every tensor that takes memory for a block or
longer. Loss: that of language modelling.
"""

from __future__ import annotations

from babyllm.model.config import parameter_counts
from babyllm.planning.events.block import Block
from babyllm.planning.events.gathering import NOTHING, Gathering
from babyllm.planning.events.ledger import Held, Ledger, Part
from babyllm.planning.events.muon_memory import muon_step
from babyllm.planning.job import BYTES, Job, block_matrices, recomputed_blocks, trained_counts

CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20, "mps": 64 << 20}
FEWEST_ROWS = 256
"""Chunks of the output layer, as in `babyllm.model.cross_entropy`, which loads torch."""

PROCESS_BYTES = {"cpu": 325 << 20, "cuda": 600 << 20, "mps": 400 << 20}
"""A process with PyTorch before it has a model. CPU: measured, resident after steps of a model of no size. CUDA:
memory of the device that its context and cuBLAS take, from NVIDIA's reports of idle processes; not measured here."""


def training_memory(job: Job) -> dict[Part, float]:
    """The bytes of one rank at the peak of a step, by part; their sum is the peak."""
    return _Step(job).peak()


class _Step:
    """A step of training as it takes and frees memory."""

    def __init__(self, job: Job) -> None:
        self._job, self._ledger = job, Ledger()
        self._gathering = Gathering(job, self._ledger)
        self._keeps_gradients = job.passes > 1 or job.is_replicated
        self._e = BYTES[job.dtype]
        self._is_tied, self._matrix = job.model.tie_embeddings, 4 * job.model.vocab_size * job.model.d_model

    def peak(self) -> dict[Part, float]:
        """Walk through a step in which moments exist; returns the bytes at its peak."""
        job, ledger = self._job, self._ledger
        self._hold_state()
        if self._keeps_gradients:
            gradients = 0 if job.is_outside else 4 * sum(trained_counts(job).values()) / job.shards
            ledger.take("gradients", gradients)
            if job.is_replicated and job.passes > 1:  # in the last pass DDP copies all gradients to its buckets
                ledger.take("communication", gradients)
        self._backward(*self._forward())
        if trained_counts(job)["muon"] and not job.has_outside_step:
            muon_step(job, ledger, job.device)
        return ledger.peak

    def _hold_state(self) -> None:
        """Weights, moments, the average, the process and the inputs of the step."""
        job, ledger = self._job, self._ledger
        counts, shards = trained_counts(job), job.shards
        trained = sum(counts.values())
        ledger.take("process", PROCESS_BYTES[job.device])
        ledger.take("weights", 0 if job.is_outside else weight_bytes(job) / shards)
        if not (job.device != "cpu" and job.parallel.offload != "none"):
            ledger.take("optimizer", 4 * (2 * counts["adamw"] + counts["muon"]) / shards)
        if job.optim.average and not job.is_outside:
            ledger.take("average", 4 * trained / shards)
        ledger.take("activations", 16 * job.tokens)  # tokens and targets
        ledger.take("workspace", 6 * min(job.model.max_seq_len, 1 << 16) * job.model.head_width)  # rotary angles
        if job.documents:
            ledger.take("activations", 16 * job.tokens + 3 * job.tokens * job.seq_len)

    def _forward(self) -> tuple[Held, Held]:
        """The forward pass of blocks and last norm: the stream after the blocks, and what the norm makes of it."""
        job, ledger = self._job, self._ledger
        self._gather_outer()
        x = ledger.take("activations", block_stream(job))
        if job.model.dropout:
            ledger.take("activations", block_stream(job) / (4 if job.device == "cuda" else 1))
        self._blocks: list[tuple[Block, Held, Held, bool]] = []
        for i, is_again in enumerate(recomputed_blocks(job.model.activation_checkpointing, job.model.n_layers)):
            block = Block(job, is_first=i == 0 and not is_again)
            weights = self._gathering.gather(block_bytes(job))
            if is_again:
                out: Held | None = ledger.take("activations", block_stream(job))
            else:
                out = block.forward(ledger, x)
            if not self._gathering.keeps_blocks:
                ledger.free(weights)
            self._blocks.append((block, weights, x, is_again))
            assert out is not None
            x = out
        hidden = ledger.take("activations", block_stream(job))
        return x, hidden

    def _gather_outer(self) -> None:
        """What is outside of blocks, for the forward pass: the output layer is gathered later if it is by itself."""
        apart = 0.0 if self._is_tied else 2.0 * self._matrix
        self._outside = self._gathering.gather(outer_bytes(self._job) - apart)
        if apart:
            self._embedding = self._gathering.gather(self._matrix)
            if not self._gathering.keeps_blocks:
                self._ledger.free(self._embedding)

    def _backward(self, last: Held, hidden: Held) -> None:
        """The output layer, the last norm, all blocks and the embedding."""
        job, ledger = self._job, self._ledger
        output = NOTHING if self._is_tied else self._gathering.gather(self._matrix)
        gradient, of_output = self._output_layer(hidden)
        self._gathering.gather_ahead(block_bytes(job))
        if not self._is_tied and self._gathering.is_on:
            summed = self._gathering.sum_gradients(output, [of_output] if of_output else [], of_output)
            self._settle(*summed)
        weighted, d_x = (ledger.take("activations", block_stream(job)) for _ in range(2))
        ledger.free(weighted, gradient, last)
        if of_output and not self._is_tied:
            if not self._gathering.is_on:
                self._settle(of_output)  # no other gradient is added to it
            of_output = Held("gradients", 0)
        for i, (block, weights, x, is_again) in reversed(list(enumerate(self._blocks))):
            if not self._gathering.keeps_blocks:
                weights = self._gathering.use_ahead(block_bytes(job))
            if i:
                self._gathering.gather_ahead(block_bytes(job))
            if is_again:
                block.forward(ledger, x, is_again=True)
            mine: list[Held] = []
            block.backward(ledger, d_x, mine)
            self._settle(*self._gathering.sum_gradients(weights, mine, mine[0] if mine else None))
        if of_output is not None:
            of_embedding = ledger.take("gradients", self._matrix)
            if self._is_tied:
                ledger.free(of_embedding)  # added to that of the output layer
                self._settle(*self._gathering.sum_gradients(self._outside, [of_output], None))
            else:
                kept = self._embedding if self._gathering.keeps_blocks else NOTHING
                self._settle(*self._gathering.sum_gradients(kept, [of_embedding], of_embedding))
        ledger.free(d_x)
        self._gathering.end_backward()

    def _settle(self, *mine: Held) -> None:
        """New gradients are added to those that are held already; without such they stay."""
        if self._keeps_gradients:
            self._ledger.free(*mine)

    def _output_layer(self, hidden: Held) -> tuple[Held, Held | None]:
        """The losses and their gradients: those of the hidden states, and those of the weight unless it is frozen."""
        job, ledger, e = self._job, self._ledger, self._e
        n, d, V = job.tokens, job.model.d_model, job.model.vocab_size
        is_trained, is_cast = not job.adapter.rank, e < 4
        h = [ledger.take("activations", n * d * e)] if is_cast else [hidden]
        w = ledger.take("workspace", V * d * e) if is_cast else None
        d_hidden = ledger.take("logits", 4 * n * d)
        d_weight = ledger.take("logits", 4 * V * d) if is_trained else None
        shared = ledger.take("logits", 4 * n * d)
        if is_cast:
            ledger.touch("logits", 4 * n * d)
            ledger.free(shared)
            shared = ledger.take("logits", n * d * e)
        self._chunk(is_trained)
        self._gathering.end_forward()
        ledger.free(shared, hidden if is_cast else None)
        scaled = ledger.take("logits", 4 * n * d)
        ledger.free(*h, w, d_hidden)
        if d_weight:
            ledger.free(d_weight)
            d_weight = ledger.take("gradients", 4 * V * d)
        return scaled, d_weight

    def _chunk(self, is_trained: bool) -> None:
        """The peak of the chunks of logits: beside a new chunk, the last one's probabilities are still held."""
        job, ledger, e = self._job, self._ledger, self._e
        n, d, V = job.tokens, job.model.d_model, job.model.vocab_size
        rows = max(FEWEST_ROWS, CHUNK_BYTES[job.device] // (4 * V) // 64 * 64)
        C, has_last = min(n, rows), n > rows
        narrow = 0 if e == 4 and job.device == "cpu" else e
        wide = C * V * (4 + narrow)
        last = C * V * (4 + (e if e < 4 else 0)) if has_last else 0
        ledger.touch("logits", wide + last)
        product = V * d * (e + (4 if job.device == "cpu" else 0)) if is_trained and e < 4 else 0
        ledger.touch("logits", C * V * (4 + (e if e < 4 else 0)) + max(product, C * d * e))


def block_stream(job: Job) -> int:
    """Bytes of the residual stream at one place."""
    return 4 * job.tokens * job.model.d_model


def block_bytes(job: Job) -> float:
    """Bytes of the weights of a block, with a frozen base as it is stored, and its part of an adapter."""
    matrices = list(block_matrices(job.model).values())
    stored = job.adapter.base_bytes * sum(m.size for m in matrices)
    if job.adapter.base == "int8":
        stored += 2 * sum(m.outputs for m in matrices)  # a scale of 16 bits a row
    if job.adapter.rank:
        stored += 4 * trained_counts(job)["adamw"] / job.model.n_layers
    inner = sum(parameter_counts(job.model)[part] for part in ("attention", "mlp", "norms")) - job.model.d_model
    return stored + 4 * (inner / job.model.n_layers - sum(m.size for m in matrices))  # norms and biases


def outer_bytes(job: Job) -> float:
    """Bytes of the weights outside of blocks: the embedding, the output layer, the last norm."""
    counts = parameter_counts(job.model)
    return 4 * (counts["embedding"] + counts["output"] + job.model.d_model)


def weight_bytes(job: Job) -> float:
    """Bytes of the weights of the whole model."""
    return outer_bytes(job) + job.model.n_layers * block_bytes(job)

"""The memory of a model that writes: weights and the cache of keys and values (`babyllm.generation`)."""

from __future__ import annotations

from babyllm.model.config import ModelConfig, parameter_counts
from babyllm.planning.job import BYTES, Kind, Number, block_matrices
from babyllm.planning.training_memory import PROCESS_BYTES

_FEW_ROWS = 3  # up to this many rows at a time, a CPU multiplies the weights as they are (generation.matrix)


def reading_memory(
    model: ModelConfig,
    *,
    slots: int = 1,
    context: int | None = None,
    dtype: Number = "float32",
    int8: bool = False,
    device: Kind = "cpu",
) -> dict[str, float]:
    """The bytes of a model that answers, by part.

    Args:
        model: shape.
        slots: number of requests that run together.
        context: tokens of a prompt and its answer; None takes the model's longest.
        dtype: type of the products, and of keys and values.
        int8: whether all matrices are held in 8 bits.
        device: kind of the device.
    """
    total = sum(parameter_counts(model).values())
    output = model.vocab_size * model.d_model
    in_layers = model.n_layers * sum(m.size for m in block_matrices(model).values())
    embedding_and_norms = total - in_layers - (0 if model.tie_embeddings else output)
    matrices, length = in_layers + output, context or model.max_seq_len
    if int8:
        weights, copies = 4 * embedding_and_norms + matrices + 2 * matrices / model.d_model, 0.0
    else:
        weights = 4 * total
        is_packed = device == "cpu" and dtype == "float32" and slots > _FEW_ROWS
        copies = matrices * (4 if is_packed else BYTES[dtype] if BYTES[dtype] < 4 else 0)
    per_token = 2 * model.n_layers * model.kv_heads * model.head_width * BYTES[dtype]
    return {
        "weights": weights,
        "workspace": copies + 8 * length * model.head_width,
        "cache": per_token * slots * length,
        "logits": 4 * slots * model.vocab_size,
        "process": PROCESS_BYTES[device],
    }

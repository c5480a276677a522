"""The linear layers of a block that share an input: the events of their product and of its backward pass.

Layers that are all plain compute one product of joined weights; where one is more than its weight, each computes its
own (`babyllm.model.linear`). In 16 bits, autocast copies inputs and weights.
Legend: n tokens of a pass, e bytes of the products' type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from babyllm.planning.events.ledger import Held, Ledger
from babyllm.planning.job import BYTES, Job, Matrix, block_matrices


@dataclass
class Kept:
    """What a pass keeps for its backward pass."""

    held: list[Held] = field(default_factory=list)


@dataclass(frozen=True)
class Product:
    """The product of layers that share an input.

    Attributes:
        job: the job.
        matrices: the layers.
        is_normed: whether the input is a normed copy in float32, made for this product alone.
        makes_input_again: whether the backward pass computes the input again (selective checkpointing).
    """

    job: Job
    matrices: Sequence[Matrix]
    is_normed: bool
    makes_input_again: bool

    @property
    def inputs(self) -> int:
        """Width of the input."""
        return self.matrices[0].inputs

    @property
    def outputs(self) -> int:
        """Widths of the outputs, summed."""
        return sum(m.outputs for m in self.matrices)

    @property
    def is_apart(self) -> bool:
        """Whether each layer computes a product of its own."""
        return bool(self.adapted) or self.job.adapter.base != "float32"

    @property
    def adapted(self) -> list[Matrix]:
        """The layers with a low-rank update."""
        return [m for m in self.matrices if self.job.adapter.adapts(m.name)]

    @property
    def is_trained(self) -> bool:
        """Whether the weights themselves are trained."""
        return not self.job.adapter.rank

    @property
    def keeps_input(self) -> bool:
        """Whether the backward pass needs the input."""
        return bool(self.adapted) or (self.is_trained and not self.makes_input_again)

    @property
    def _e(self) -> int:
        return BYTES[self.job.dtype]

    @property
    def _is_cast(self) -> bool:
        return self._e < 4

    def _numbers(self, width: int) -> int:
        """Bytes of (n, width) in the products' type."""
        return self.job.tokens * width * self._e

    def forward(self, ledger: Ledger, given: Held | None, kept: Kept) -> Held:
        """The events of the product.

        Args:
            ledger: the ledger.
            given: the input, which is kept or freed; None where the input is to be normed, or is kept by others.
            kept: what the backward pass will free.

        Returns:
            The output.
        """
        normed = ledger.take("activations", 4 * self.job.tokens * self.inputs) if self.is_normed else given
        out = self._apart(ledger, kept) if self.is_apart else self._joined(ledger, kept)
        if normed and self.keeps_input and not (self.is_normed and self._is_cast):
            kept.held.append(normed)
        else:
            ledger.free(normed)
        return out

    def _joined(self, ledger: Ledger, kept: Kept) -> Held:
        weights = self._weights(ledger)
        cast = ledger.take("activations", self._numbers(self.inputs)) if self.is_normed and self._is_cast else None
        out = ledger.take("activations", self._numbers(self.outputs))
        if cast and self.keeps_input:
            kept.held.append(cast)
        else:
            ledger.free(cast)
        if weights and len(self.matrices) == 1:
            kept.held.append(weights)
        else:
            ledger.free(weights)
        return out

    def _weights(self, ledger: Ledger) -> Held | None:
        """The weights as the product reads them: cast, and joined if they are several; None for what is stored."""
        size = self._e * self.inputs * self.outputs
        cast = ledger.take("workspace", size) if self._is_cast else None
        if len(self.matrices) == 1:
            return cast
        joined = ledger.take("workspace", size)
        ledger.free(cast)
        return joined

    def _apart(self, ledger: Ledger, kept: Kept) -> Held:
        parts = []
        is_copied = self._is_cast and self.is_normed
        for matrix in self.matrices:
            cast = ledger.take("activations", self._numbers(self.inputs)) if is_copied else None
            restored = self._restored(ledger, matrix, kept)
            base = ledger.take("activations", self._numbers(matrix.outputs))
            ledger.free(restored, cast)
            if matrix in self.adapted:
                # Each update has a copy of its own, and the products with A, before and after the scale.
                kept.held.append(ledger.take("activations", self._numbers(self.inputs) if is_copied else 0))
                kept.held.append(ledger.take("activations", self._numbers(self.job.adapter.rank)))
                update = ledger.take("activations", self._numbers(matrix.outputs))
                whole = ledger.take("activations", self._numbers(matrix.outputs))
                ledger.free(base, update)
                base = whole
            parts.append(base)
        if len(parts) == 1:
            return parts[0]
        out = ledger.take("activations", self._numbers(self.outputs))
        ledger.free(*parts)
        return out

    def _restored(self, ledger: Ledger, matrix: Matrix, kept: Kept | None) -> Held | None:
        """The weight of a frozen layer as its product reads it; None where that is the stored one, or a kept copy."""
        base = self.job.adapter.base
        if base == "float32":
            if self._is_cast and kept:
                kept.held.append(ledger.take("workspace", self._e * matrix.size))
            return None
        if base != "bfloat16":
            ledger.touch("workspace", 8 * matrix.size)  # indices or steps, their values, and these times the scales
        whole = ledger.take("workspace", 4 * matrix.size)
        if not self._is_cast:
            return whole
        cast = ledger.take("workspace", self._e * matrix.size)
        ledger.free(whole)
        return cast

    def backward(self, ledger: Ledger, gradient: Held, kept: Kept, trained: list[Held]) -> Held:
        """The events of the backward pass.

        Args:
            ledger: the ledger.
            gradient: gradient of the output, which is freed.
            kept: what the forward pass kept, which is freed.
            trained: gradients of weights, to which these are added.

        Returns:
            The gradient of the input: float32 where the input was a normed copy, else of the products' type.
        """
        if self.is_apart:
            out = self._backward_apart(ledger, gradient, trained)
        else:
            out = self._backward_joined(ledger, gradient, trained)
        ledger.free(*kept.held)
        kept.held.clear()
        if self.is_normed and self._is_cast:
            wide = ledger.take("activations", 4 * self.job.tokens * self.inputs)
            ledger.free(out)
            return wide
        return out

    def backward_of_weight(self, ledger: Ledger, kept: Kept, trained: list[Held]) -> None:
        """The events of the weight's gradient alone, where another operation computes that of the input."""
        size = self.inputs * self.outputs
        narrow = ledger.take("gradients", self._e * size if self.is_trained else 0)
        ledger.free(*kept.held)
        kept.held.clear()
        self._settle(ledger, narrow, trained)

    def _backward_joined(self, ledger: Ledger, gradient: Held, trained: list[Held]) -> Held:
        size, again = self.inputs * self.outputs, None
        if self.makes_input_again and self.is_trained:
            again = ledger.take("activations", 4 * self.job.tokens * self.inputs)
            if self._is_cast:
                cast = ledger.take("activations", self._numbers(self.inputs))
                ledger.free(again)
                again = cast
        narrow = ledger.take("gradients", self._e * size if self.is_trained else 0)
        ledger.free(again)
        is_joined = len(self.matrices) > 1
        if is_joined:
            self._settle(ledger, narrow, trained)
        weights = self._weights(ledger) if is_joined else None
        out = ledger.take("activations", self._numbers(self.inputs))
        ledger.free(weights, gradient)
        if not is_joined:
            self._settle(ledger, narrow, trained)
        return out

    def _settle(self, ledger: Ledger, narrow: Held, trained: list[Held]) -> None:
        """The weights' gradient in the products' type becomes one in theirs."""
        if self.is_trained and self._is_cast:
            trained.append(ledger.take("gradients", 4 * self.inputs * self.outputs))
            ledger.free(narrow)
        elif self.is_trained:
            trained.append(narrow)

    def _backward_apart(self, ledger: Ledger, gradient: Held, trained: list[Held]) -> Held:
        out: Held | None = None
        for matrix in reversed(self.matrices):
            # The engine's order: the update's gradient, then the base's, each added to what is there.
            sources = [None, matrix] if matrix in self.adapted else [matrix]
            for source in sources:
                restored = self._restored(ledger, source, None) if source else None
                mine = ledger.take("activations", self._numbers(self.inputs))
                ledger.free(restored)
                if out is None:
                    out = mine
                else:
                    total = ledger.take("activations", self._numbers(self.inputs))
                    ledger.free(out, mine)
                    out = total
            if matrix in self.adapted:
                width = matrix.inputs + matrix.outputs
                trained.append(ledger.take("gradients", 4 * self.job.adapter.rank * width))
        ledger.free(gradient)
        assert out is not None
        return out


def products(job: Job) -> tuple[Product, Product, Product, Product]:
    """The products of a block: queries, keys and values; the output of attention; gate and up; down."""
    m = block_matrices(job.model)
    is_selective = job.model.activation_checkpointing == "selective"

    def product(*names: str, is_normed: bool) -> Product:
        group = [m[name] for name in names]
        is_plain = job.adapter.base == "float32" and not any(job.adapter.adapts(name) for name in names)
        return Product(job, group, is_normed, is_selective and is_plain)

    return (
        product("q_proj", "k_proj", "v_proj", is_normed=True),
        product("o_proj", is_normed=False),
        product("gate_proj", "up_proj", is_normed=True),
        product("down_proj", is_normed=False),
    )

"""Training a part of a model: the last blocks, named parts alone, or all but named parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from babyllm.config import nearest
from babyllm.config.values import AnyCount
from babyllm.errors import UserError
from babyllm.model.transformer import EMBEDDING, Transformer


@dataclass(frozen=True)
class FreezeConfig:
    """The parts of the model that are not trained.

    An output layer that is tied is the embedding, so it is frozen whenever the embedding is.

    Attributes:
        last_n_layers: number of last blocks to train, with the last norm and an output layer that is not tied; null
            trains all.
        parts: names whose weights are frozen (embed_tokens, layers.0, self_attn, mlp.down_proj, lm_head).
        only: names whose weights alone are trained, such as mlp.down_proj, among those not frozen; empty trains all.
    """

    last_n_layers: AnyCount | None = None
    parts: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)


def freeze(model: Transformer, config: FreezeConfig) -> None:
    """Freeze the parameters that `config` names; frozen ones stay frozen, so call it after `add_lora`.

    A part matches one or several consecutive words of a parameter's dotted name: "layers.1" does not match "layers.10".

    Raises:
        UserError: a part is unknown, `last_n_layers` exceeds the model's layers, or nothing is left to train.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    frozen, only = _known(config.parts, "parts", parameters), _known(config.only, "only", parameters)
    if config.last_n_layers is not None:
        n_frozen = model.config.n_layers - config.last_n_layers
        if not 0 <= n_frozen <= model.config.n_layers:
            raise UserError(
                f"freeze.last_n_layers={config.last_n_layers}: must be from 0 to the model's {model.config.n_layers}"
            )
        frozen += [EMBEDDING, *(f"layers.{i}" for i in range(n_frozen))]
    for name, parameter in parameters.items():
        is_left_out = only and not any(_is_part(part, name) for part in only)
        if is_left_out or any(_is_part(part, name) for part in frozen):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("freeze: nothing is left to train; name fewer parts or more layers")


def _known(parts: Sequence[str], key: str, parameters: Iterable[str]) -> list[str]:
    """The parts without a leading "model.", each of them a part of the model."""
    found = [part.removeprefix("model.") for part in parts]
    for part in found:
        if not any(_is_part(part, name) for name in parameters):
            words = [word for name in parameters for word in (name.removesuffix(".weight"), *name.split("."))]
            raise UserError(
                f"freeze.{key}: {part!r} is not a part of the model; did you mean {nearest(part, words)!r}?"
            )
    return found


def _is_part(part: str, name: str) -> bool:
    return f".{part}." in f".{name}."

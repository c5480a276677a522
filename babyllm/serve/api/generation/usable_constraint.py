"""The check of a request's constraint, before the engine has it."""

from __future__ import annotations

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.generation.constraints.matcher import matcher_of
from babyllm.serve.api.problem import Problem
from babyllm.serve.served_model import ServedModel


def require_usable(constraint: Constraint, model: ServedModel, field: str) -> None:
    """Compile a constraint in the thread of its request, so that the engine finds it ready.

    Args:
        constraint: what the answer may say.
        model: description of the model that answers.
        field: name of the field that asks for it.

    Raises:
        Problem: it is wrong, cannot be met, or is too large.
    """
    try:
        matcher_of(constraint, model.tokenizer, [model.tokenizer.eos_id], model.vocab_size).allowed()
    except UserError as error:
        raise Problem(400, f"{field}: {error}", param=field) from None

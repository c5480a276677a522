"""The models of a server by name: the base, its aliases, and the adapters beside it."""

from __future__ import annotations

from dataclasses import dataclass

from babyllm.serve.api.problem import Problem
from babyllm.serve.api.validation import shown
from babyllm.serve.served_model import ServedModel

ANY = "*"


@dataclass(frozen=True)
class Catalog:
    """The models of a server.

    Attributes:
        models: descriptions of the models; the first is the base, which answers requests that name no model.
    """

    models: tuple[ServedModel, ...]

    @property
    def base(self) -> ServedModel:
        """The model that answers requests that name none."""
        return self.models[0]

    def find(self, name: str | None) -> ServedModel:
        """The model of a name; None stands for the base.

        Raises:
            Problem: there is no such model.
        """
        found = next((model for model in self.models if model.name == name), None)
        if found is not None:
            return found
        if name is None or not {name, ANY}.isdisjoint(self.base.aliases):
            return self.base
        names = " and ".join(repr(model.name) for model in self.models)
        message = f"the model {shown(name)!r} is not here; this server has {names}"
        raise Problem(404, message, param="model", code="model_not_found")

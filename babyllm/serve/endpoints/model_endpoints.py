"""The endpoints that describe the served models."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from babyllm.serve.catalog import ANY, Catalog
from babyllm.serve.endpoints.service import Service, json_response
from babyllm.serve.served_model import ServedModel


class ModelEndpoints:
    """Handlers of the endpoints that describe the models."""

    def __init__(self, service: Service, has_feedback: bool, stored_days: int | None = None) -> None:
        """Take what they describe.

        Args:
            service: objects that the handlers share.
            has_feedback: whether the server stores ratings.
            stored_days: number of days for which the server stores what is said; None if it stores nothing.
        """
        self._service, self._has_feedback, self._stored_days = service, has_feedback, stored_days

    async def models(self, request: Request) -> Response:
        """GET /v1/models, with additional fields for the chat page."""
        catalog = self._service.engine.require_ready()
        model = catalog.base
        about = {
            "name": model.name,
            "feedback": self._has_feedback,
            "stored_days": self._stored_days,
            "chat": model.template is not None,
            "has_learned_chat": model.has_learned_chat,
            "context": model.context,
            "examples": next((one.examples for one in catalog.models if one.examples), ()),
        }
        return json_response({"object": "list", "data": _model_objects(catalog), "babyllm": about})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        name = request.path_params["name"]
        catalog = self._service.engine.require_ready()
        return json_response(_model_object(catalog.find(name), name))

    async def health(self, request: Request) -> Response:
        """GET /health."""
        catalog = self._service.engine.require_ready()
        return json_response({"status": "ok", "model": catalog.base.name})


def _model_objects(catalog: Catalog) -> list[dict[str, Any]]:
    """The objects of all models, each followed by those of its aliases."""
    return [
        _model_object(model, name)
        for model in catalog.models
        for name in (model.name, *(alias for alias in model.aliases if alias != ANY))
    ]


def _model_object(model: ServedModel, name: str) -> dict[str, Any]:
    """The object of a model under one of its names."""
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "babyllm",
        "root": model.name,
        "parent": model.parent or None,
        "max_model_len": model.context,
    }

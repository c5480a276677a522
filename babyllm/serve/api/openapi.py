"""The OpenAPI document of the server, made from the models of its request bodies, and a page that shows it.

The page is plain HTML without a script and loads nothing from the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

OPENAPI_VERSION = "3.1.0"
API_VERSION = "1"  # as in /v1
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;width:100%}td{border-top:1px solid #8886;padding:.3rem;vertical-align:top}"
)


@dataclass(frozen=True)
class Endpoint:
    """One endpoint of the server.

    Attributes:
        method: HTTP method.
        path: path in Starlette's syntax, such as /v1/models/{name:path}.
        handler: function that makes the response.
        summary: one line on what the client gets.
        body: model of the request's JSON body; None for an endpoint without one.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Callable[[Request], Coroutine[Any, Any, Response]]
    summary: str
    body: type[BaseModel] | None = None


def openapi_document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document that describes endpoints.

    Args:
        endpoints: all endpoints of the server.
    """
    bodies = [endpoint.body for endpoint in endpoints if endpoint.body]
    template = "#/components/schemas/{model}"
    names, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=template)
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        operation: dict[str, Any] = {"summary": endpoint.summary, "responses": {"200": {"description": "OK"}}}
        if endpoint.body:
            schema = names[endpoint.body, "validation"]
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
            operation["responses"]["4XX"] = {"description": "An error object of OpenAI, whose message names the field"}
        if "{name" in endpoint.path:
            parameter = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
            operation["parameters"] = [parameter]
        paths.setdefault(endpoint.path.replace(":path", ""), {})[endpoint.method.lower()] = operation
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": "babyllm", "version": API_VERSION},
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {})},
    }


def openapi_page(document: dict[str, Any]) -> str:
    """The document as HTML: each endpoint with the fields of its body.

    Args:
        document: document from `openapi_document`.
    """
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                parts.append(_table(document["components"]["schemas"], reference))
    head = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>API of babyllm</title><style>{STYLE}</style>'
    link = '<p>For programs: <a href="openapi.json">openapi.json</a></p>'
    return f"{head}<h1>API of babyllm</h1>{link}{''.join(parts)}</html>"


def _table(schemas: dict[str, Any], reference: str) -> str:
    """The fields of a model as rows of a table."""
    schema = schemas[reference.rpartition("/")[2]]
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        default = "required" if name in required else f"default {json.dumps(field.get('default'))}"
        cells = (name, _kind(schemas, field), default, field.get("description", ""))
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _kind(schemas: dict[str, Any], field: dict[str, Any]) -> str:
    """The type of a field in words."""
    if reference := field.get("$ref"):
        inner = schemas[reference.rpartition("/")[2]]
        return f"object of {', '.join(inner['properties'])}"
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(_kind(schemas, option) for option in field[union])
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if "items" in field:
        return f"list of ({_kind(schemas, field['items'])})"
    ends = [f"{word} {field[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in field]
    return " ".join([str(field.get("const", field.get("type", "any value"))), *ends])

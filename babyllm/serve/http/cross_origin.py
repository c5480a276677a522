"""Requests from pages of other sites: which origins may send them, and what browsers learn (CORS).

A browser asks first with OPTIONS (a preflight), which carries no key, and hides a response without these headers from
the page. Origins that are named may send credentials of a proxy in front of the server, such as a cookie; "*" may not.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from babyllm.serve.api.problem import Problem, to_json

ALL = "*"
FILES = "file://"
"""Stands for pages opened from files, for which browsers send the origin null."""
EXPOSED = ("Retry-After", "X-Request-Id")


class CrossOriginMiddleware(CORSMiddleware):
    """Answers preflights, and adds the headers of allowed origins to all responses."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Wrap an application.

        Args:
            app: the application.
            origins: origins that are allowed; "*" allows all, "null" pages of files.
        """
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=[ALL],
            allow_headers=[ALL],
            allow_credentials=ALL not in origins,
            allow_private_network=True,
            expose_headers=EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight; a refusal has the API's form and says how to allow the origin."""
        response = super().preflight_response(request_headers)
        origin = request_headers["origin"]
        if response.status_code == 200 or self.is_allowed_origin(origin):
            return response
        problem = origin_problem(origin, 400)
        return Response(to_json(problem.body()), 400, {"vary": "Origin"}, "application/json")


def origin_problem(origin: str, status: int) -> Problem:
    """The error for a page whose origin is not allowed.

    Args:
        origin: origin that its browser sent.
        status: HTTP status code.
    """
    name = FILES if origin == "null" else origin[:100]
    message = f"pages of {name!r} may not send requests: start the server with --allowed_origins={name}"
    return Problem(status, message, code="origin_not_allowed")

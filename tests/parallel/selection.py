"""The cases of tests whose runs are dear: some by default, all in a campaign, and runs of no other cases."""

from collections.abc import Collection, Sequence
from typing import Any

import pytest


def chosen(cases: Sequence[Any], first: Collection[Any]) -> list[Any]:
    """Parameters of a test: the cases that are in `first`, and the others in a campaign."""
    marks = [() if case in first else (pytest.mark.campaign,) for case in cases]
    return [pytest.param(case, marks=mark, id=str(case)) for case, mark in zip(cases, marks, strict=True)]


def asked_for(request: pytest.FixtureRequest, parameter: str, test: str = "") -> set[Any]:
    """The values of a parameter in the tests of a fixture's file that are about to run, or in one of these tests."""
    found = set()
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.path == request.path and test in ("", item.originalname):
            values = item.callspec.params if hasattr(item, "callspec") else {}
            found |= {values[parameter]} if parameter in values else set()
    return found

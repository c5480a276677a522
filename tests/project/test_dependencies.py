"""What is installed, what is declared and what is pinned agree."""

from collections.abc import Iterator
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
OF_TORCH = ("nvidia-", "cuda-", "triton")  # torch's builds for GPUs pin these themselves
# The oldest versions without known holes that reach what babyllm does with them.
SAFE = {
    "h11": "0.16",
    "jinja2": "3.1.6",
    "lxml": "6.1",
    "lxml-html-clean": "0.4.5",
    "protobuf": "6.33.5",
    "pyarrow": "23.0.1",
    "starlette": "0.49.1",
}


@cache
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")
    values: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return values


def declared() -> Iterator[Requirement]:
    """Every requirement of the package and its extras, but for those on its own extras."""
    for text in [*project()["dependencies"], *chain.from_iterable(project()["optional-dependencies"].values())]:
        if not text.startswith("babyllm["):
            yield Requirement(text)


def reached() -> dict[str, str | None]:
    """All distributions that the declared ones need, by name, with their version; None where one is not installed."""
    found: dict[str, str | None] = {}
    seen = set()
    left = list(declared())
    while left:
        requirement = left.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            continue
        found[name] = distribution.version
        for further in map(Requirement, distribution.requires or []):
            if not further.marker or any(further.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                left.append(further)
    return found


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_every_version_is_pinned() -> None:
    """constraints.txt has each distribution that the extras bring, as it is installed, and none besides."""
    installed, pinned = reached(), pins()
    here = {name: version for name, version in installed.items() if version and not name.startswith(OF_TORCH)}
    assert sorted(here.keys() - pinned.keys()) == []
    if None not in installed.values():
        assert sorted(pinned.keys() - here.keys()) == []
    applied = {name: pin for name, pin in pinned.items() if not pin.marker or pin.marker.evaluate()}
    other = [f"{pin} is {here[name]}" for name, pin in applied.items() if name in here and not _admits(pin, here[name])]
    assert other == [], "pip install -c constraints.txt -e '.[test]'"


def _admits(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def test_every_pin_is_allowed() -> None:
    """What is declared admits what is pinned."""
    pinned = pins()
    refused = [
        str(requirement)
        for requirement in declared()
        if not all(_admits(requirement, pin.version) for pin in pinned[canonicalize_name(requirement.name)].specifier)
    ]
    assert refused == []


@pytest.mark.parametrize(("name", "floor"), SAFE.items())
def test_versions_with_known_holes_are_not_taken(name: str, floor: str) -> None:
    """The declared floor of a library that reads what others send is a version that was mended."""
    (requirement,) = (r for r in declared() if canonicalize_name(r.name) == name)
    floors = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
    assert max(floors) >= Version(floor)

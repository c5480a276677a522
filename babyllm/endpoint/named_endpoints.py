"""The endpoints that a command asks: one of its flags, or several of a file by name."""

from __future__ import annotations

from babyllm.endpoint.config import EndpointConfig, address
from babyllm.errors import UserError


def named_endpoints(endpoint: EndpointConfig, file: str | None) -> dict[str, EndpointConfig]:
    """The endpoints by name; a single one has an empty name.

    Args:
        endpoint: settings of the flags `--endpoint.*`.
        file: YAML file of several endpoints by name; None takes that one.

    Raises:
        UserError: both are given, a setting is wrong, or an address or a model is missing.
    """
    if file is None:
        address(endpoint)
        return {"": endpoint}
    if endpoint.url or endpoint.model:
        raise UserError("--endpoints and --endpoint.url: give one of them")
    from babyllm.config.by_name import load_by_name

    found = load_by_name(EndpointConfig, file)
    for one in found.values():
        address(one)
    return found

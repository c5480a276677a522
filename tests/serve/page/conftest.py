"""Fixtures of the chat page: a browser, and a server whose answers are written down."""

from page_fixtures import browser, server, visit  # noqa: F401

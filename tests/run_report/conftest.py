"""Fixtures of this folder's tests."""

from run_report_fixtures import write

__all__ = ["write"]

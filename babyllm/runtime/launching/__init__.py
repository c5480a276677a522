"""Processes of a run: their number, their environment, and the report when one of them fails."""

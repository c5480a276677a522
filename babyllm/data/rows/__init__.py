"""Rows: what one row of a batch holds, as a function of its number."""

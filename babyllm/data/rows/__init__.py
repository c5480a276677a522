"""Rows: the contents of each row of a batch, as a function of its index."""

"""Choosing what to learn from: scores of records, and rules that keep some of them."""

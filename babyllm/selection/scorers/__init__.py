"""Scorers: a batch of conversations in, a number for each conversation and column out, NaN where there is none."""

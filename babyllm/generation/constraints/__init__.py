"""Constrained answers: what an answer may say, as a plain value, and the masks over tokens that keep it to that.

Constraint -> compiled for a tokenizer, by llguidance -> Matcher of one answer: allowed tokens, one step at a time
"""

"""Losses that learn from preferences, each a function of the log-probabilities of answers.

log-probabilities of chosen and rejected answers, of policy and reference -> PREFERENCE_LOSSES -> loss of each pair
"""

"""Losses that raise the reward of what a model writes, and what they are made of.

rewards -> advantages -> per-token loss (POLICY_LOSSES) -> times the weight of a place -> sum over a named unit
log-probabilities of policy and reference -> kl -> the rewards, or the loss
"""

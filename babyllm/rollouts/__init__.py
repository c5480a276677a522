"""Answers that a model writes itself, with their rewards, as batches to train it on.

files -> prompts -> Engine -> answers with log-probabilities -> rewards -> advantages -> batches
"""

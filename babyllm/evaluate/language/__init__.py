"""Evaluation of language models on text: loss, perplexity and bits per byte."""

"""Evaluation of language models on text that was held out."""

from babyllm.evaluate.perplexity import perplexity

__all__ = ["perplexity"]

"""Evaluation of language models on text that was held out.

Models are read in `Runtime.reading_dtype`, unless an autocast is on around the call (`babyllm.runtime.precision`).
"""

from babyllm.evaluate.perplexity import perplexity

__all__ = ["perplexity"]

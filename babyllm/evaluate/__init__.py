"""Evaluation of language models on held-out texts and conversations.

Models run in `Runtime.reading_dtype`, unless the call is inside an autocast (`babyllm.runtime.precision`).
"""

from babyllm.evaluate.language.perplexity import perplexity

__all__ = ["perplexity"]

"""Evaluation of language models on held-out texts, conversations and tasks.

Models run in `Runtime.reading_dtype`, unless the call is inside an autocast (`babyllm.runtime.precision`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babyllm.evaluate.language.perplexity import perplexity

__all__ = ["perplexity"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from babyllm.evaluate.language.perplexity import perplexity  # loads torch, which settings of tasks do not need

    return perplexity

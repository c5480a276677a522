"""Remove documents that repeat others: of corpora, or of a stream as it comes.

    babyllm.dedup("data/clean", "data/unique")                 # the stage: corpora -> a corpus without repetitions
    kept = babyllm.dedup.Online("kept.log")                    # a stream: kept.add(id, text) -> Match, or None if kept

The module can be called: that is `babyllm.text.dedup.stage.dedup`, with the same arguments.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from babyllm.text.dedup.online.kept import Match
from babyllm.text.dedup.online.online import Online

__all__ = ["Match", "Online"]


class _Stage(ModuleType):
    """This module, as a function too."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from babyllm.errors import naming_arguments
        from babyllm.text.dedup.stage import dedup

        with naming_arguments():
            return dedup(*args, **kwargs)


sys.modules[__name__].__class__ = _Stage

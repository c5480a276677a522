"""Running Python that nobody has read: a fresh process without network, files, children or secrets, within limits.

Snippets.run(code) -> worker process (snippet_worker, guarded) -> SnippetResult: output and values, or the reason
"""

from babyllm.sandbox.python.snippets import SnippetLimits, SnippetResult, Snippets

__all__ = ["SnippetLimits", "SnippetResult", "Snippets"]

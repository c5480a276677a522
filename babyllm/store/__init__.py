"""Data on disk: corpora of documents, shards of tokens, conversations."""

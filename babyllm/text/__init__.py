"""Raw text before it becomes tokens: documents, readers, cleaning, deduplication, quality selection (no torch)."""

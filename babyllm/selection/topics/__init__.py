"""Topics of documents: found in a sample, given to all documents of corpora, and used as their domains."""

"""Deduplication over time: the keys and shingles of all documents kept so far, with which new ones are compared.

    new documents' keys -> recall: kept documents that share one, with their keys and shingles -> the usual steps
                        -> growth: the survivors' keys and shingles -> a further generation of the index

The kept corpus itself is never read again. `files` reads and writes sorted Parquet, `kept_index` is the directory.
"""

"""Find documents that repeat others: exactly, nearly, or from evaluation sets.

    Parquet -> trimming (removes `units`: lines and paragraphs that repeat)
            -> normal (folded code points) -> shingles (hashed n-grams) -> minhash | simhash (keys)
            -> candidates (pairs that share a key) -> verify (true Jaccard) -> cluster (union-find) -> results, summary

`stage.dedup` runs all of it. The steps work on numpy arrays of many documents at once (`ragged`), without Python loops
over documents or pairs.
"""

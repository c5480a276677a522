"""Deduplication of a stream: each record is compared with all that were kept before it, and kept or refused.

    texts -> sketches (folded, simplified, sets of shingles, keys of bands)
          -> best match among the kept records: band_table (candidates) -> true Jaccard similarity
          -> record_log (append-only file) or redis_records (shared by several processes) -> acknowledged

`online.Online` is the interface; `babyllm.dedup.Online` is the name to import it by.
"""

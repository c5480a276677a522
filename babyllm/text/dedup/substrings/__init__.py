"""Spans of characters that occur before, in another document or the same one, and their removal.

    texts -> fingerprints (hashes; segments: runs of windows that share an anchor) -> repeats (equal ones, by sorting)
          -> cutting (texts without the spans)

`cutting.cut_substrings` runs all of it.
"""

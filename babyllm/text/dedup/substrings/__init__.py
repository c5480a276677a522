"""Spans of characters that occur before, in another document or the same one, and their removal.

    texts -> fingerprints (segments of successive windows that share an anchor; hashes) -> repeats (equal ones by sorting)
          -> cutting (texts without the spans)

`cutting.cut_substrings` runs all of it.
"""

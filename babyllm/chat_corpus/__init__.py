"""Chat files as a corpus: cleaned, deduplicated, split and selected, and written in the form they came in.

files -> ChatRecord: the fields of a record and its conversation -> kept or rejected -> files of the same form
"""

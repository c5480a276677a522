"""The formats of raw files, each with a reader of its records."""

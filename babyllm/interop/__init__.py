"""Formats of other projects, in and out: names, files, both directions."""

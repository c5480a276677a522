"""Data made by models: recipes that are files, and one engine for all of them.

recipe (YAML) and its source -> Item -> steps: prompt -> ask -> parse -> rules -> Item | Rejection -> records

A result is a function of recipe, inputs, settings and replies. Replies are stored before they are used, so a command
that was killed begins again, finds its replies, and writes the same bytes.
"""

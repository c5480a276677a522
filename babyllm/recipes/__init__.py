"""Corpus recipes: each turns a source into documents, the same ones in the same order every time."""

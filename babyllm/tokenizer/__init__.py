"""Tokenizers: text to ids and back, trained here or brought from elsewhere."""

from babyllm.tokenizer.tokenizer import ROLES, TOKENIZER_FILES, Tokenizer, load_tokenizer

__all__ = ["ROLES", "TOKENIZER_FILES", "Tokenizer", "load_tokenizer"]

"""Tokenizers: text to token ids and back, with vocabularies trained here or elsewhere."""

from babyllm.tokenizer.special_tokens import SpecialTokens
from babyllm.tokenizer.tokenizer import ROLES, TOKENIZER_FILES, Tokenizer, load_tokenizer

__all__ = ["ROLES", "TOKENIZER_FILES", "SpecialTokens", "Tokenizer", "load_tokenizer"]

"""Preparation of texts and conversations: the stores that training reads."""

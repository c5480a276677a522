"""Whether a turn of a conversation follows from those before it, and what becomes of those where none does."""

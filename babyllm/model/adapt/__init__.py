"""Changes of a finished model: LoRA, freezing, weights in fewer bits, more tokens."""

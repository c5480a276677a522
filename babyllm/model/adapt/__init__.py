"""What changes a finished model: LoRA, freezing, stored precisions, more tokens."""

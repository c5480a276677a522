"""The hand-written Llama-style model: shapes, transformer, rotary positions, losses and the key-value cache."""

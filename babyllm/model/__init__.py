"""The hand-written Llama-style model: shapes, transformer, heads, rotary positions, losses and entropies."""

"""Commands that prepare and inspect texts and tokens."""

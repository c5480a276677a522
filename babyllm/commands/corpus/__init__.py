"""Commands that prepare and look at texts and tokens."""

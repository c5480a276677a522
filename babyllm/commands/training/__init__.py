"""Commands that train, and what belongs to training."""

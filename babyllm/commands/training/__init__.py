"""Commands that train, and those that plan or finish a training."""

"""Commands that train, and those that plan, finish or publish a training."""

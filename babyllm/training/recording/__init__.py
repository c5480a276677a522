"""What remains of a run for people to look at: numbers, samples, curves and pictures."""

"""The records of a run that people read: numbers, samples, curves and plots."""

"""The training loop and what surrounds it: state, checkpoints, records, run directories."""

"""The evaluations of `babyllm eval`, one module for each kind of data."""

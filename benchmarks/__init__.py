"""Measurements of babyllm beside its peers and beside bounds: `python -m benchmarks.run` runs all of them."""

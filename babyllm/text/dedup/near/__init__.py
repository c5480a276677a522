"""Near-duplicates: signatures, candidate pairs, verification, clusters."""

"""The order of rows: shuffling, mixing and length buckets as pure functions of seed and row."""

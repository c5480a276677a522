"""The order of rows: shuffling, mixing and length bucketing, as pure functions of the seed and the row's number."""

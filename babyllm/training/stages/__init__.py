"""The training stages: each has its data, its loss and its starting weights."""

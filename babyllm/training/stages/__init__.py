"""The stages of training: each is its data, its loss and its starting weights."""

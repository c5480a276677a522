"""What the log of sessions holds of a request and its answers."""

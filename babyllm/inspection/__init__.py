"""Reports on data, conversations and runs."""

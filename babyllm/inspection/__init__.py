"""Looking at data, conversations and runs."""

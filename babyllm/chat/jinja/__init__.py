"""Chat templates in Jinja: their syntax, a sandbox, and where each message begins and ends."""

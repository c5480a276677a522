"""Chat templates in Jinja: their syntax, a sandbox, and placeholders for the messages' texts."""

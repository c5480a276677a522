"""Whether an answer holds: sums worked out exactly, JSON by its schema, Python and SQL by running them: `verifier`."""

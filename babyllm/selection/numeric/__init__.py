"""Which records are kept, from vectors, scores and texts, by numpy alone: exact, repeatable, in bounded memory."""

"""Models for other people: the files that belong to one, its card, and the hubs it is uploaded to."""

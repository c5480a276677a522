"""From what users said to the next model: harvest stored sessions, train, compare, put the better one in place."""

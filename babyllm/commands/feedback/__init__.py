"""Commands that turn what users said into data and the next model."""

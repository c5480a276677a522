"""What an engine keeps account of: requests, the pages that they share, guesses, and who is read next."""

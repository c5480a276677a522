"""Recognition of text that is not prose: code and tables line by line, and markup."""

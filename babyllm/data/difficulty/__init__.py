"""The difficulty of training rows: rare tokens, long texts, many parts of speech, numbers of a file."""

"""From stored bytes to text: archives, compressions, encodings, lines."""

"""Personal data in texts, found by rules in Chinese and English and replaced by placeholders such as <PHONE>."""

"""The formats of raw files, each as a reader of its records."""

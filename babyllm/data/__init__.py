"""babyllm.data."""

"""Cleaning: filters over documents, and what they did."""

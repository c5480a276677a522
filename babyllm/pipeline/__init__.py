"""Shared parts of the offline commands: partitions, output directories that are complete or absent, reports."""

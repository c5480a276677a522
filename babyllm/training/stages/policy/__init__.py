"""Stages in which a model learns from what it writes itself."""

"""Optimizers: their settings, and how they are made for a model."""

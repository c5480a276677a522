"""Texts with labels: the settings, files and rows of classifiers."""

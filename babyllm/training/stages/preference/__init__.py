"""Stages of training on preferences: reward models, classifiers, and direct preference optimisation."""

"""Stages in which a model trains on its own answers."""

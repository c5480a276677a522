"""Stages that train a policy on its own answers."""

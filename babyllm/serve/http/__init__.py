"""Connections and requests before they reach the API."""

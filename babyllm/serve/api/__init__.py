"""Requests and responses of the API: a subpackage for each group of endpoints, and what they share.

body (pydantic) -> request (ids, limits of the model) -> engine thread -> serializer (JSON, events)

generation: what all endpoints that write text share; chat, completions, feedback: their bodies and serializers.
"""

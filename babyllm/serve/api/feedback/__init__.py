"""POST /v1/feedback."""

"""Serve a model over the HTTP API of OpenAI, with a chat page.

    socket -> middleware, routes -> requests: JSON -> ids -> engine_thread: batching -> serializers: JSON, events

One thread owns the model. The event loop submits requests to it and receives the deltas of their answers.
"""

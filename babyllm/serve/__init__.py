"""A model behind the HTTP API of OpenAI, with a chat page.

    socket -> app: door, routes -> requests: JSON -> ids -> engine_thread: continuous batching -> forms: JSON, events

One thread owns the model. The event loop hands requests over to it and gets the pieces of their answers.
"""

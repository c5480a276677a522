"""The one client of OpenAI-compatible endpoints: concurrent, patient, and never asking twice for what was paid for.

    with Client(EndpointConfig(url="http://127.0.0.1:8000/v1", model="tiny"), Path("replies")) as client:
        for reply in client.replies([Request([{"role": "user", "content": "..."}])]):
            reply.text, reply.finish, reply.usage, reply.error

Request -> Client: which endpoint -> Asking: key -> ReplyCache, else -> Spending and Budget -> Transport, retried
        -> ReplyCache -> Reply

`config`, `shared_budget` and `spending` need no library, `client` needs httpx.
"""

"""Counters and timings of a server for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        # Else each counter gets an additional series with the time of its creation.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "babyllm_requests",
            "Requests by path and status; 499 is a client that went away.",
            ("path", "status"),
            registry=registry,
        )
        self._prompt_tokens = Counter("babyllm_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._asked = Counter(
            "babyllm_prefix_cache_queries", "Prompt tokens of answers that have begun.", registry=registry
        )
        self._cached = Counter(
            "babyllm_prefix_cache_hits", "Those of them that were not read again.", registry=registry
        )
        self._completion_tokens = Counter("babyllm_completion_tokens", "Tokens of completions.", registry=registry)
        self._running = Gauge("babyllm_answers_running", "Answers being written.", registry=registry)
        self._waiting = Gauge("babyllm_answers_waiting", "Answers that wait for a slot.", registry=registry)
        self._first_token = Histogram(
            "babyllm_time_to_first_token_seconds",
            "From a request to its first token.",
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "babyllm_time_per_token_seconds", "From one token to the next.", buckets=PER_TOKEN_S, registry=registry
        )

    def count_request(self, path: str, status: int) -> None:
        """Count a request that has ended."""
        self._requests.labels(path, str(status)).inc()

    def count_prompt(self, n_tokens: int) -> None:
        """Count the prompt tokens of an accepted request."""
        self._prompt_tokens.inc(n_tokens)

    def count_cached(self, n_tokens: int, n_cached: int) -> None:
        """Count the prompt tokens of an answer that has begun, and how many of them were not read again."""
        self._asked.inc(n_tokens)
        self._cached.inc(n_cached)

    def count_token(self, seconds: float, is_first: bool) -> None:
        """Count a token and its time in seconds since the previous token or, for the first token, since the request."""
        self._completion_tokens.inc()
        (self._first_token if is_first else self._per_token).observe(seconds)

    def text(self, n_running: int, n_waiting: int) -> bytes:
        """All metrics in the text format of Prometheus.

        Args:
            n_running: number of answers being written now.
            n_waiting: number of answers that wait for a slot now.
        """
        self._running.set(n_running)
        self._waiting.set(n_waiting)
        return generate_latest(self._registry)

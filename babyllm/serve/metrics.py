"""What a server has done so far, in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Histogram:
    """Counts of values up to each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """The samples of Prometheus: each bound's bucket counts all values up to it."""
        total = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {total}"


class Metrics:
    """Counters of a server; all of it is touched by the event loop alone.

    Attributes:
        requests: by path and status.
        prompt_tokens: of all requests that were taken.
        completion_tokens: drawn for them.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = self.completion_tokens = 0
        self._first_token, self._per_token = Histogram(FIRST_TOKEN_S), Histogram(PER_TOKEN_S)

    def count_token(self, seconds: float, is_first: bool) -> None:
        """Count a token that came this long after the one before it, or the first after its request."""
        self.completion_tokens += 1
        (self._first_token if is_first else self._per_token).add(seconds)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it.

        Args:
            gauges: what is so now, by name, each with what it means.
        """
        lines: list[str] = []

        def head(name: str, kind: str, meaning: str) -> None:
            lines.extend((f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"))

        head("babyllm_requests_total", "counter", "Requests by path and status; 499 is a client that went away.")
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'babyllm_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, count in (("prompt", self.prompt_tokens), ("completion", self.completion_tokens)):
            head(f"babyllm_{name}_tokens_total", "counter", f"Tokens of {name}s.")
            lines.append(f"babyllm_{name}_tokens_total {count}")
        for name, (meaning, value) in gauges.items():
            head(name, "gauge", meaning)
            lines.append(f"{name} {value}")
        for name, meaning, histogram in (
            ("babyllm_time_to_first_token_seconds", "From a request to its first token.", self._first_token),
            ("babyllm_time_per_token_seconds", "From one token to the next.", self._per_token),
        ):
            head(name, "histogram", meaning)
            lines.extend(histogram.lines(name))
        return "\n".join(lines) + "\n"

"""Which of the waiting short prompts are read together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from babyllm.generation.scheduling.prefix_cache import PAGE
from babyllm.generation.scheduling.request import Request


def short_prompts(
    waiting: Iterable[Request],
    n_most: int,
    budget: int,
    context: int,
    cost: Callable[[int, int], int],
    look_up: Callable[[Request], None],
) -> list[Request]:
    """The requests with short prompts that have waited longest, as many as can be read together.

    Args:
        waiting: requests in the order of their turn.
        n_most: largest number of requests.
        budget: largest cost of all of them.
        context: number of tokens that fit into a row.
        cost: function that returns the cost of n tokens after some others, `Decoder.n_first_tokens`.
        look_up: function that sets `n_read` and `is_short` of a waiting request, since pages come and go.
    """
    group, longest, most, alone = list[Request](), 0, 0, 0
    for request in waiting:
        if len(group) == n_most:
            break
        if not request.is_short:
            continue
        look_up(request)
        if not request.is_short or any(_should_follow(request, other) for other in group):
            continue
        own = cost(request.n_unread, request.n_read)
        # Each row is padded to the longest rest, for which it needs room, and attends to the longest prefix.
        n, length = max(longest, request.n_unread), max(most, request.n_read)
        together = cost(n, length) * (len(group) + 1)
        if together > budget:
            break
        if group and (n + length > context or together > 2 * (alone + own)):
            continue  # cheaper in the next group
        longest, most, alone = n, length, alone + own
        group.append(request)
    return group


def _should_follow(request: Request, other: Request) -> bool:
    """Whether a request should wait until another one is read, since that reads most of what it has to read itself."""
    end = request.n_read + max(PAGE, -(-request.n_unread // 2))
    return end < len(request.prompt) and request.prompt[:end] == other.prompt[:end]

"""The metrics of a server in the text format of Prometheus."""

import pytest

pytest.importorskip("prometheus_client")

from babyllm.serve.metrics import Metrics

TEXT = """\
# HELP babyllm_requests_total Requests by path and status; 499 is a client that went away.
# TYPE babyllm_requests_total counter
babyllm_requests_total{path="/health",status="200"} 2.0
# HELP babyllm_prompt_tokens_total Tokens of prompts.
# TYPE babyllm_prompt_tokens_total counter
babyllm_prompt_tokens_total 5.0
# HELP babyllm_prefix_cache_queries_total Prompt tokens of answers that have begun.
# TYPE babyllm_prefix_cache_queries_total counter
babyllm_prefix_cache_queries_total 21.0
# HELP babyllm_prefix_cache_hits_total Those of them that were not read again.
# TYPE babyllm_prefix_cache_hits_total counter
babyllm_prefix_cache_hits_total 12.0
# HELP babyllm_completion_tokens_total Tokens of completions.
# TYPE babyllm_completion_tokens_total counter
babyllm_completion_tokens_total 3.0
# HELP babyllm_answers_running Answers being written.
# TYPE babyllm_answers_running gauge
babyllm_answers_running 1.0
# HELP babyllm_answers_waiting Answers that wait for a slot.
# TYPE babyllm_answers_waiting gauge
babyllm_answers_waiting 4.0
"""


def test_metrics_keep_their_names_and_meanings() -> None:
    """A dashboard finds every series by its name, and a bucket counts all values up to its bound."""
    metrics = Metrics()
    metrics.count_request("/health", 200)
    metrics.count_request("/health", 200)
    metrics.count_prompt(5)
    metrics.count_cached(5, 0)
    metrics.count_cached(16, 12)
    for seconds, is_first in ((0.25, True), (0.001, False), (2.0, False)):
        metrics.count_token(seconds, is_first)
    text = metrics.text(1, 4).decode()
    assert text.startswith(TEXT) and "_created" not in text
    lines = text.splitlines()
    first, later = "babyllm_time_to_first_token_seconds", "babyllm_time_per_token_seconds"
    for sample in (
        *(f'{first}_bucket{{le="0.1"}} 0.0', f'{first}_bucket{{le="0.25"}} 1.0', f"{first}_count 1.0"),
        *(f'{later}_bucket{{le="0.001"}} 1.0', f'{later}_bucket{{le="1.0"}} 1.0', f'{later}_bucket{{le="+Inf"}} 2.0'),
        *(f"{later}_sum 2.001", f"{later}_count 2.0"),
    ):
        assert sample in lines, sample


def test_two_servers_in_one_process_count_apart() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.count_prompt(5)
    assert b"babyllm_prompt_tokens_total 0.0" in other.text(0, 0)

"""Settings, filters and draws of one token."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from babyllm.commands import SamplingFlags
from babyllm.errors import UserError
from babyllm.generation.sampling import Sampler, Sampling, candidates, penalised

LOGITS = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5]


def plain_candidates(logits: Tensor, sampling: Sampling) -> dict[int, float]:
    """Probabilities of what may be drawn, step by step as the papers write it."""
    probs = dict(enumerate((logits.double() / sampling.temperature).softmax(0).tolist()))
    order = sorted(probs, key=lambda i: -probs[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(probs[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if sampling.top_p is None or mass < sampling.top_p or not kept:
            kept.append(i)
        mass += probs[i] / total
    kept = [i for i in kept if probs[i] >= (sampling.min_p or 0) * probs[order[0]]]
    total = sum(probs[i] for i in kept)
    return {i: probs[i] / total for i in kept}


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 40),
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(0, 50),
    top_p=st.none() | st.just(0.0) | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
)
def test_filters_equal_their_definitions(
    seed: int, size: int, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    """What may be drawn, and how probable it is, is what temperature, top_k, top_p and min_p in turn leave."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ids, probs = candidates(logits, sampling)
    assert ids.tolist() == sorted(ids.tolist())
    expected = plain_candidates(logits, sampling)
    # Where rounding decides whether a token is in, either may be right.
    for x in (1 - 1e-9, 1 + 1e-9):
        nudged = replace(sampling, top_p=top_p and min(1.0, top_p * x), min_p=min_p and min(1.0, min_p * x))
        assume(plain_candidates(logits, nudged).keys() == expected.keys())
    assert dict(zip(ids.tolist(), probs.tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)


def test_filters_equal_transformers() -> None:
    """Candidates and probabilities are those of transformers' filters, in their order."""
    from transformers import LogitsProcessorList as Filters
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        logits = torch.randn(1, 300, generator=generator) * 3
        read = torch.randint(300, (1, 30), generator=generator)
        filters = [
            RepetitionPenaltyLogitsProcessor(1.3),
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(40),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.02),
        ]
        expected = Filters(filters)(read, logits.clone())[0].softmax(0)
        seen = torch.zeros(300, dtype=torch.bool)
        seen[read[0]] = True
        ids, probs = candidates(
            penalised(logits[0], seen, 1.3), Sampling(temperature=0.7, top_k=40, top_p=0.9, min_p=0.02)
        )
        assert ids.tolist() == expected.nonzero().squeeze(1).tolist()
        torch.testing.assert_close(probs.float(), expected[ids], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"temperature": 1.0}, 8),
        ({"temperature": 2.0}, 8),
        ({"temperature": 0.5}, 8),
        ({"temperature": 1.0, "top_k": 3}, 3),
        ({"temperature": 0.7, "top_k": 5}, 5),
        ({"temperature": 1.0, "top_p": 0.6}, 2),
        ({"temperature": 2.0, "top_p": 0.6}, 3),
        ({"temperature": 1.0, "top_k": 4, "top_p": 0.85}, 3),
        ({"temperature": 1.0, "min_p": 0.2}, 4),
        ({"temperature": 1.0, "top_k": 1}, 1),
        ({"temperature": 1.0, "top_k": 0}, 8),
        ({"temperature": 1.0, "top_p": 1e-9}, 1),
        ({"temperature": 1.0, "top_p": 0.0}, 1),
        ({"temperature": 1.0, "min_p": 1.0}, 1),
    ],
)
def test_draws_follow_the_filtered_distribution(settings: dict[str, float], kept: int) -> None:
    """Draws are as frequent as the scaled and filtered probabilities say, and what is filtered is never drawn."""
    n = 2000
    sampler = Sampler(Sampling(**{"top_k": None, "seed": 3, **settings}), [], 8)  # type: ignore[arg-type]
    logits = torch.tensor(LOGITS)
    seen = Counter(sampler.draw(logits).id for _ in range(n))
    weights = [math.exp(value / settings["temperature"]) for value in LOGITS[:kept]]
    expected = [n * weight / sum(weights) for weight in weights]
    assert seen.total() == n and seen.keys() <= set(range(kept))
    chi_square = sum((seen[i] - e) ** 2 / e for i, e in enumerate(expected))
    degrees = max(kept - 1, 1)
    limit = degrees * (1 - 2 / (9 * degrees) + 3.1 * math.sqrt(2 / (9 * degrees))) ** 3  # one in a thousand exceeds it
    assert chi_square < limit


def test_what_was_read_or_written_is_less_probable() -> None:
    """The repetition penalty concerns the prompt and the answer so far, whatever the sign of their scores."""
    logits = torch.tensor([2.0, 1.5, 1.2, -0.2])
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=10), [0], 4)
    assert [sampler.draw(logits).id for _ in range(5)] == [1, 2, 0, 0, 0]
    assert penalised(logits, torch.tensor([True, False, False, True]), 2.0).tolist() == pytest.approx(
        [1, 1.5, 1.2, -0.4]
    )


def test_log_probabilities_are_the_models_own() -> None:
    """They belong to the distribution before penalty, temperature and filters; the most probable come first."""
    logits = torch.tensor(LOGITS)
    expected = logits.log_softmax(0).tolist()
    sampler = Sampler(Sampling(temperature=0.3, top_k=2, repetition_penalty=5.0, seed=1, logprobs=3), [0], 8)
    for _ in range(5):
        token = sampler.draw(logits)
        assert token.logprob == pytest.approx(expected[token.id])
        assert [i for i, _ in token.top] == [0, 1, 2]
        assert [value for _, value in token.top] == pytest.approx(expected[:3])
    alone = Sampler(Sampling(logprobs=0), [], 8).draw(logits)
    assert alone.logprob == pytest.approx(expected[alone.id]) and alone.top == ()
    assert len(Sampler(Sampling(logprobs=99), [], 8).draw(logits).top) == 8
    assert Sampler(Sampling(), [], 8).draw(logits)[1:] == (None, (), None)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.4}, {"temperature": 2.0, "top_k": 3, "top_p": 0.9}])
def test_a_token_knows_how_probable_its_draw_was(settings: dict[str, float]) -> None:
    """`drawn` is the log-probability in the distribution that the token was drawn from; 0 without a draw."""
    logits = torch.tensor(LOGITS)
    sampling = replace(Sampling(top_k=None, seed=1, logprobs=0), **settings)
    expected = plain_candidates(logits, sampling)
    sampler = Sampler(sampling, [], 8)
    for _ in range(20):
        token = sampler.draw(logits)
        assert token.drawn == pytest.approx(math.log(expected[token.id]), abs=1e-6)
    assert Sampler(Sampling(temperature=0, logprobs=0), [], 8).draw(logits).drawn == 0


def test_a_seed_repeats_the_draws() -> None:
    """Equal seeds draw the same, other seeds and none something else; torch's own generator is left alone."""
    logits = torch.zeros(1000)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    samplers = [Sampler(Sampling(seed=seed, top_k=None), [], 1000) for seed in (1, 1, 2, None, None)]
    draws = [tuple(sampler.draw(logits).id for _ in range(10)) for sampler in samplers]
    assert draws[0] == draws[1] and len(set(draws[1:])) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e30])
def test_any_temperature_gives_a_distribution(temperature: float) -> None:
    """The smallest temperatures take the most probable token, the greatest draw all alike."""
    ids, probs = candidates(torch.tensor([-1e4, 3.0, 2.0]), Sampling(temperature=temperature, top_k=None))
    assert ids.tolist() == [0, 1, 2]
    assert probs.tolist() == pytest.approx([0, 1, 0] if temperature < 1 else [1 / 3] * 3)


def test_what_the_model_excludes_is_not_drawn() -> None:
    """Scores of minus infinity have no chance, however many candidates are asked for."""
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0])
    sampler = Sampler(Sampling(top_k=3, temperature=5.0, seed=0), [], 4)
    assert {sampler.draw(logits).id for _ in range(50)} == {1, 3}


@pytest.mark.parametrize(
    "settings",
    [
        *({"temperature": value} for value in (-1.0, math.nan, math.inf)),
        {"top_k": -1},
        *({"top_p": value} for value in (-0.1, 1.5, math.nan)),
        *({"min_p": value} for value in (-0.1, 1.1, math.nan)),
        *({"repetition_penalty": value} for value in (0.0, -1.0, math.inf, math.nan)),
        {"max_new_tokens": -1},
        {"stop": ("a", "")},
        {"logprobs": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    """A setting that cannot be is named with the rule it breaks."""
    with pytest.raises(UserError, match=f"^{next(iter(settings))}=.*must"):
        Sampling(**settings)  # type: ignore[arg-type]


def test_commands_draw_as_the_library_does() -> None:
    """What a command's flags leave open is as `Sampling` has it, but for the length of an answer."""
    flags = SamplingFlags()
    assert Sampling(**flags.settings()) == Sampling(max_new_tokens=flags.max_new_tokens)

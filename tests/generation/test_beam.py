"""Beam search against all texts there are, and against transformers'."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import decisive

from babyllm.errors import UserError
from babyllm.generation import beam_search, generate
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]


def model_of(config: ModelConfig, seed: int) -> Transformer:
    return decisive(config, seed)


def texts(size: int, n: int, end: int) -> Iterator[tuple[int, ...]]:
    """All texts of at most `n` tokens that end with `end`, and those of `n` tokens that do not."""
    others = [i for i in range(size) if i != end]
    for length in range(n):
        yield from ((*ids, end) for ids in product(others, repeat=length))
    yield from product(others, repeat=n)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]), n=st.integers(1, 4))
def test_with_enough_beams_the_best_of_all_texts_is_found(tiny: Tiny, seed: int, penalty: float, n: int) -> None:
    """When every text has its beam, the results are the best of all texts, with their scores."""
    model = model_of(tiny(vocab_size=4), seed)
    scores = {}
    for ids in texts(4, n, end=1):
        logprobs = model.logits(torch.tensor([[2, 3, *ids[:-1]]]))[0, 1:].log_softmax(-1)
        total = float(logprobs[range(len(ids)), list(ids)].sum())
        scores[tuple(i for i in ids if i != 1)] = total / len(ids) ** penalty, ids
    best = sorted(scores.values(), reverse=True)[:3]
    found = beam_search(model, [2, 3], num_beams=200, n=3, length_penalty=penalty, max_new_tokens=n, end_ids=[1])
    assert [beam.ids for beam in found] == [tuple(i for i in ids if i != 1) for _, ids in best]
    assert [beam.score for beam in found] == pytest.approx([score for score, _ in best], abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize(("num_beams", "repetition"), [(2, 1.0), (5, 1.0), (5, 1.7)])
def test_results_are_those_of_transformers(
    tiny: Tiny, tmp_path: Path, num_beams: int, repetition: float, penalty: float
) -> None:
    """Texts and scores are what transformers finds with the same weights, prompt and settings."""
    from transformers import AutoModelForCausalLM

    n_early = 0
    for seed in range(4):
        model = model_of(tiny(vocab_size=20), seed)
        save_model(tmp_path, model, None)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
        out = theirs.generate(
            torch.tensor([[5, 6, 7]]),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            do_sample=False,
            length_penalty=penalty,
            repetition_penalty=repetition,
            max_new_tokens=12,
            eos_token_id=[3, 4],
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        expected = []
        for ids in out.sequences[:, 3:].tolist():
            end = next((i for i, token in enumerate(ids) if token in (3, 4)), len(ids))
            expected.append(tuple(ids[:end]))
        found = beam_search(
            model,
            [5, 6, 7],
            num_beams=num_beams,
            n=num_beams,
            length_penalty=penalty,
            repetition_penalty=repetition,
            max_new_tokens=12,
            end_ids=[3, 4],
        )
        assert [beam.ids for beam in found] == expected
        assert [beam.score for beam in found] == pytest.approx(out.sequences_scores.tolist(), rel=2e-6, abs=1e-4)
        n_early += any(len(ids) < 12 for ids in expected)
    assert n_early, "some texts end before the limit"


def test_one_beam_is_greedy(tiny: Tiny) -> None:
    """With a single hypothesis the most probable token is taken each time."""
    model = model_of(tiny(), 0)
    ids = [5, 6]
    for _ in range(10):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    assert list(beam_search(model, [5, 6], num_beams=1, max_new_tokens=10)[0].ids) == ids[2:]


def test_the_text_is_the_best_beams(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """`generate` with beams returns the best texts for each prompt, without drawing, up to a stop string."""
    model = model_of(tiny(), 1)
    settings = {"num_beams": 3, "max_new_tokens": 6}
    expected = []
    for prompt in ("今天", "the"):
        ids = [tokenizer.eos_id, *tokenizer.encode(prompt)]
        found = beam_search(model, ids, num_beams=3, n=2, max_new_tokens=6, end_ids=[tokenizer.eos_id])
        expected += [b"".join(map(tokenizer.token_bytes, beam.ids)).decode(errors="replace") for beam in found]
    assert generate(model, tokenizer, ["今天", "the"], n=2, **settings) == expected  # type: ignore[call-overload]
    assert generate(model, tokenizer, "今天", **settings) == expected[0]  # type: ignore[call-overload]
    penalised = beam_search(
        model,
        [tokenizer.eos_id, *tokenizer.encode("今天")],
        num_beams=3,
        repetition_penalty=5.0,
        max_new_tokens=6,
        end_ids=[tokenizer.eos_id],
    )
    text = generate(model, tokenizer, "今天", repetition_penalty=5.0, **settings)  # type: ignore[call-overload]
    assert text == tokenizer.decode(penalised[0].ids) != expected[0]
    first = expected[0][1]
    stopped = generate(model, tokenizer, "今天", stop=[first], **settings)  # type: ignore[call-overload]
    assert stopped == expected[0].partition(first)[0]


def test_the_context_limits_a_search(tiny: Tiny) -> None:
    """A search goes on to the end of the context at most; a prompt that leaves no room is refused."""
    model = model_of(tiny(max_seq_len=8), 0)
    assert [len(beam.ids) for beam in beam_search(model, [1] * 5, num_beams=2)] == [3]
    for prompt in ([1] * 8, []):
        with pytest.raises(UserError, match=f"a prompt of {len(prompt)} tokens leaves no room in the context of 8"):
            beam_search(model, prompt, num_beams=2)


@pytest.mark.parametrize(
    "settings", [{"n": 3}, {"n": 0}, {"num_beams": 0}, {"max_new_tokens": 0}, {"length_penalty": float("nan")}]
)
def test_impossible_searches_are_refused(tiny: Tiny, settings: dict[str, float]) -> None:
    """More results than beams, no beams, no tokens or a penalty that is not a number are refused."""
    with pytest.raises(UserError, match=f"{next(iter(settings))}="):
        beam_search(model_of(tiny(), 0), [1], **{"num_beams": 2, **settings})  # type: ignore[arg-type]


def test_broken_weights_are_told(tiny: Tiny) -> None:
    """Scores that are not numbers end the search with an error."""
    model = model_of(tiny(), 0)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        beam_search(model, [1], num_beams=2)

"""Drawing text: the distribution drawn from, where it ends, and that characters come whole."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import babyllm
from babyllm.errors import UserError
from babyllm.generation import filter_logits, generate, generate_ids, stream
from babyllm.model.cache import KVCache
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]


def model_of(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


class Constant(Transformer):
    """A model that gives these logits to the first ids after any text, and hardly any chance to the others."""

    first: list[float]

    @torch.no_grad()
    def logits(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        out = torch.full((1, tokens.shape[1], self.config.vocab_size), -1e9)
        out[..., : len(self.first)] = torch.tensor(self.first)
        return out


class Scripted(Transformer):
    """A model that says the ids it was given, one after the other, whatever it reads."""

    script: list[int]

    @torch.no_grad()
    def logits(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        out = torch.full((1, tokens.shape[1], self.config.vocab_size), -1e9)
        out[:, -1, self.script.pop(0)] = 0.0
        return out


def scripted(config: ModelConfig, ids: list[int]) -> Scripted:
    model = Scripted(config)
    model.script = list(ids)
    return model


def test_greedy_takes_the_most_probable_token_each_time(tiny: Tiny) -> None:
    """At temperature 0 every id is the argmax of a plain pass over all that came before it."""
    model = model_of(tiny())
    ids = [5, 6, 7]
    for _ in range(20):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    assert list(generate_ids(model, ids[:3], max_new_tokens=20, temperature=0)) == ids[3:]
    assert len(set(ids[3:])) > 3, "the text says something"


def test_a_seed_repeats_the_text(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Equal seeds give equal texts and leave torch's own generator alone; other seeds and no seed give others."""
    model = model_of(tiny())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    texts = [generate(model, tokenizer, "今天", max_new_tokens=20, seed=seed) for seed in (1, 1, 2, None, None)]
    assert texts[0] == texts[1] and len(set(texts[1:])) == 4
    assert torch.equal(torch.get_rng_state(), before)


LOGITS = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"),
    [
        (1.0, None, None, 8),
        (2.0, None, None, 8),
        (0.5, None, None, 8),
        (1.0, 3, None, 3),
        (0.7, 5, None, 5),
        (1.0, None, 0.6, 2),
        (1.0, None, 0.65, 3),
        (2.0, None, 0.6, 3),
        (1.0, 4, 0.85, 3),
        (1.0, 1, None, 1),
        (1.0, None, 1e-9, 1),
    ],
)
def test_draws_follow_the_filtered_distribution(
    tiny: Tiny, temperature: float, top_k: int | None, top_p: float | None, kept: int
) -> None:
    """Draws are as frequent as the scaled and filtered probabilities say, and what is filtered is never drawn."""
    n = 1000
    model = Constant(tiny(max_seq_len=n + 1))
    model.first = LOGITS
    ids = generate_ids(model, [9], max_new_tokens=n, temperature=temperature, top_k=top_k, top_p=top_p, seed=3)
    seen = Counter(ids)
    weights = [math.exp(value / temperature) for value in LOGITS[:kept]]
    expected = [n * weight / sum(weights) for weight in weights]
    assert seen.total() == n and seen.keys() <= set(range(kept))
    chi_square = sum((seen[i] - e) ** 2 / e for i, e in enumerate(expected))
    degrees = max(kept - 1, 1)
    limit = degrees * (1 - 2 / (9 * degrees) + 3.1 * math.sqrt(2 / (9 * degrees))) ** 3  # one in a thousand exceeds it
    assert chi_square < limit


def test_filters_on_a_worked_example() -> None:
    """top_k counts tokens, top_p the fewest that hold the probability; the rest are minus infinity."""
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.4, 0.3, 0.2, 0.1]]).log()
    kept = filter_logits(logits, 1.0, 2, None).isfinite()
    assert kept.tolist() == [[False, True, False, True], [True, True, False, False]]
    kept = filter_logits(logits, 1.0, None, 0.75).isfinite()
    assert kept.tolist() == [[False, True, True, True], [True, True, True, False]]
    assert torch.equal(filter_logits(logits, 1.0, 9, 1.0), logits)
    assert torch.equal(filter_logits(logits, 0.5, None, None), logits * 2)


TEXT = "今天😀 é\n龘👩‍👩‍👧。x"


def test_stream_gives_whole_characters(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A character spelled in several tokens comes in one piece; the pieces are the text."""
    ids = tokenizer.encode(TEXT)
    assert len(ids) > len(TEXT), "some characters are spread over tokens"
    pieces = list(stream(scripted(tiny(max_seq_len=200), [*ids, tokenizer.eos_id]), tokenizer, "prompt"))
    assert "".join(pieces) == TEXT and len(pieces) > 5
    assert all(pieces) and "\ufffd" not in "".join(pieces)
    assert generate(scripted(tiny(max_seq_len=200), [*ids, tokenizer.eos_id]), tokenizer, "prompt") == TEXT


def test_a_character_cut_off_is_marked(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Where the limit cuts a character, or a model writes broken bytes, one mark stands for it and the rest is kept."""
    ids = tokenizer.encode("今龘")
    model = scripted(tiny(), ids)
    assert list(stream(model, tokenizer, "", max_new_tokens=len(ids) - 1)) == ["今", "\ufffd"]
    broken = [*tokenizer.encode("龘")[:-1], *tokenizer.encode("天"), tokenizer.eos_id]
    assert generate(scripted(tiny(), broken), tokenizer) == "\ufffd天"


def test_special_tokens_are_no_text(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A special token in the middle gives no text and ends nothing."""
    start = tokenizer.special["<|im_start|>"]
    model = scripted(tiny(), [*tokenizer.encode("今"), start, *tokenizer.encode("天"), tokenizer.eos_id])
    assert generate(model, tokenizer) == "今天"


def test_eos_ends_the_text(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """The eos id is not given out and nothing follows it; without one the limit ends the text."""
    script = [20, 21, tokenizer.eos_id, 22]
    assert list(generate_ids(scripted(tiny(), script), [5], eos_id=tokenizer.eos_id, temperature=0)) == [20, 21]
    assert list(generate_ids(scripted(tiny(), script), [5], max_new_tokens=4, temperature=0)) == script
    assert list(generate_ids(scripted(tiny(), script), [5], max_new_tokens=0)) == []


def test_the_prompt_begins_a_document(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A text is read behind one <eos>, as documents are in training, and nothing else is added to it."""
    model = model_of(tiny())
    ids = list(generate_ids(model, [tokenizer.eos_id, *tokenizer.encode("今天 the")], max_new_tokens=8, temperature=0))
    assert tokenizer.eos_id not in ids
    text = b"".join(tokenizer.token_bytes(i) for i in ids).decode(errors="replace")
    assert generate(model, tokenizer, "今天 the", max_new_tokens=8, temperature=0) == text


def test_the_context_is_a_limit(tiny: Tiny) -> None:
    """Prompt and text together fill at most the model's context; a prompt that leaves no room is refused."""
    model = model_of(tiny(max_seq_len=16))
    assert len(list(generate_ids(model, [5] * 15, max_new_tokens=100))) == 1
    assert len(list(generate_ids(model, [5] * 4, max_new_tokens=100))) == 12
    with pytest.raises(UserError, match="a prompt of 16 tokens leaves no room in the context of 16"):
        next(generate_ids(model, [5] * 16))
    with pytest.raises(UserError, match="a prompt of 0 tokens"):
        next(generate_ids(model, []))


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": -1}]
)
def test_settings_out_of_range_are_refused(tiny: Tiny, tokenizer: Tokenizer, settings: dict[str, float]) -> None:
    """A temperature below 0, nothing kept or a negative length is refused."""
    with pytest.raises(UserError, match=next(iter(settings))):
        generate(model_of(tiny()), tokenizer, "x", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_training", [False, True])
def test_generation_leaves_the_model_as_it_was(tiny: Tiny, is_training: bool) -> None:
    """A model in training is read without dropout and is in training again afterwards, also when the reader stops."""
    model = model_of(tiny(dropout=0.5))
    expected = list(generate_ids(model, [5, 6], max_new_tokens=10, temperature=0))
    model.train(is_training)
    assert list(generate_ids(model, [5, 6], max_new_tokens=10, temperature=0)) == expected
    assert model.training == is_training
    ids = generate_ids(model, [5, 6], max_new_tokens=10, temperature=0)
    next(ids)
    ids.close()  # type: ignore[attr-defined]
    assert model.training == is_training
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


def test_generation_in_16_bits(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Under autocast keys and values are kept in 16 bits, and the text is about as probable as without."""
    model = model_of(tiny())
    with torch.autocast("cpu", torch.bfloat16):
        assert generate(model, tokenizer, "今天", max_new_tokens=10, seed=1)
        cache = KVCache(model.config, 1, 20, dtype=torch.bfloat16)
        ids = torch.randint(0, 400, (1, 20), generator=torch.Generator().manual_seed(0))
        parts = torch.cat([model.logits(part, cache) for part in ids.split([8, 1, 11], 1)], 1)
    exact = model.logits(ids)
    assert torch.nn.functional.cosine_similarity(parts, exact, dim=-1).min() > 0.99


def test_the_public_name(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """`babyllm.generate` is this function."""
    assert babyllm.generate is generate

"""Keys and values that were kept: answers stay those of an engine that keeps none, and memory stays bounded."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from engine_fixtures import GREEDY, Answers, model_of, random_prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from babyllm.errors import UserError
from babyllm.generation import Engine, Sampling
from babyllm.generation.decoder import Decoder
from babyllm.generation.sampling import candidates
from babyllm.generation.scheduling.kept_texts import KeptTexts
from babyllm.generation.scheduling.prefix_cache import PAGE, PrefixCache
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer

Tiny = Callable[..., ModelConfig]
BAD = 399  # a token of which the model can only make NaNs
CONTEXT = 128


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Transformer:
    model = model_of(tiny(max_seq_len=CONTEXT))
    with torch.no_grad():
        model.embed_tokens.weight[BAD] = float("nan")
    return model


@dataclass
class Client:
    """Somebody with a conversation: the ids so far, and the request that is being answered."""

    rng: random.Random
    systems: list[list[int]]
    ids: list[int] = field(default_factory=list)
    sampling: Sampling = GREEDY
    number: int | None = None

    def said(self, n: int) -> list[int]:
        words = [self.rng.randrange(BAD) for _ in range(self.rng.randint(1, n))]
        return [*words, BAD] if self.rng.random() < 0.03 else words

    def ask(self, answer: Sequence[int]) -> list[int]:
        """The next prompt: a new conversation, the next turn, an edited one, or the same again."""
        what = self.rng.choice(["next", "next", "edit", "again"]) if self.ids else "new"
        if what == "next":
            self.ids = [*self.ids, *answer, *self.said(20)]
        elif what == "edit":
            self.ids = [*self.ids[: self.rng.randint(1, len(self.ids))], *self.said(12)]
        if what == "new" or len(self.ids) >= CONTEXT - 1:
            self.ids = [*self.rng.choice(self.systems), *self.said(30)]
        temperature = self.rng.choice([0, 0, 1.5])
        n = self.rng.randint(1, 12)
        self.sampling = Sampling(n, temperature=temperature, top_k=None, seed=self.rng.randrange(9))
        return self.ids


class Oracle:
    """Answers of an engine that keeps nothing and answers one prompt at a time."""

    def __init__(self, model: Transformer) -> None:
        self.engine = Engine(model, slots=1, cached_tokens=0, look_up=False)

    def answer(self, prompt: Sequence[int], sampling: Sampling) -> tuple[list[int], str]:
        answers = Answers(self.engine)
        number = answers.submit(prompt, sampling)
        answers.finished()
        return answers.ids(number), answers.finish[number]


def is_tie(model: Transformer, prompt: Sequence[int], sampling: Sampling, ids: Sequence[int]) -> bool:
    """Whether rounding decides the token after `ids`: two are equally probable, or the draw falls between two."""
    logits = model.logits(torch.tensor([[*prompt, *ids]]))[0, -1]
    if sampling.temperature == 0:
        best = logits.topk(2).values
        return float(best[0] - best[1]) < 1e-4
    draws = random.Random(sampling.seed)
    drawn = [draws.random() for _ in range(len(ids) + 1)][-1]
    return float((candidates(logits, sampling)[1].cumsum(0) - drawn).abs().min()) < 1e-6


def mixture(model: Transformer, oracle: Oracle, seed: int, n_turns: int) -> int:
    """Clients that join, leave, edit and ask again, each answer checked; returns the number of tokens not read."""
    rng = random.Random(seed)
    systems = [[rng.randrange(BAD) for _ in range(n)] for n in (3, 20, 50)]
    clients = [Client(random.Random(rng.random()), systems) for _ in range(rng.randint(1, 6))]
    cached = rng.choice([16, 70, 300, None])
    engine = Engine(model, slots=rng.randint(1, 4), prefill_chunk=rng.choice([4, 16, 64]), cached_tokens=cached)
    answers, owners, answered = Answers(engine), dict[int, Client](), dict[int, list[int]]()
    while n_turns or owners:
        for client in clients:
            if n_turns and client.number is None and rng.random() < 0.3:
                prompt = client.ask(answered.get(id(client), []))
                client.number = answers.submit(prompt, client.sampling)
                owners[client.number] = client
                n_turns -= 1
        answers.step()
        for number, client in list(owners.items()):
            finish = answers.finish.get(number)
            if finish is None and rng.random() > 0.02:
                continue
            engine.cancel(number)  # leaves before its end, if it has not ended
            ids, found = answers.ids(number), oracle.answer(client.ids, client.sampling)
            expected = (found[0][: len(ids)], None) if finish is None else found
            if (ids, finish) != expected:
                same = next(i for i, (one, other) in enumerate(zip(ids, found[0], strict=False)) if one != other)
                assert is_tie(model, client.ids, client.sampling, ids[:same]), (seed, client)
            answered[id(client)] = ids
            if finish == "error":
                client.ids = []
            client.number = None
            del owners[number]
    assert engine.is_idle
    return engine.n_cached_tokens


@pytest.mark.parametrize("n_mixtures", [12, pytest.param(1_000, marks=pytest.mark.campaign)])
def test_answers_are_those_of_an_engine_that_keeps_nothing(model: Transformer, n_mixtures: int) -> None:
    """Clients that join, leave, edit and ask again get the same tokens and ends as without the cache, one at a time."""
    oracle = Oracle(model)
    assert sum(mixture(model, oracle, seed, n_turns=20) for seed in range(n_mixtures)) > 100 * n_mixtures


@settings(max_examples=60)
@given(st.data(), st.integers(0, 12))
def test_pages_hold_what_was_saved_in_them(data: st.DataObject, n_pages: int) -> None:
    """A text's beginning is found as long as its pages are in use; each page holds its tokens, and none is in two."""
    cache, contents = PrefixCache(n_pages), dict[int, list[int]]()
    texts = st.lists(st.integers(0, 1), max_size=3 * PAGE).map(lambda ids: [7] * (PAGE - 3) + ids)
    for is_read, ids in data.draw(st.lists(st.tuples(st.booleans(), texts), max_size=25)):
        if is_read:
            if unsaved := cache.reserve(ids):
                assert unsaved.begin % PAGE == 0 and len(set(unsaved.pages)) == len(unsaved.pages) > 0
                for i, page in enumerate(unsaved.pages):
                    begin = unsaved.begin + i * PAGE
                    contents[page] = ids[begin : min(begin + PAGE, unsaved.end)]
            if len(ids) <= n_pages * PAGE:
                assert cache.find(ids).n == len(ids), "the text that was read last is all there"
        found = cache.find(ids)
        held = [token for page in found.pages for token in contents[page]]
        assert ids[: found.n] == held[: found.n] and len(found.pages) == -(-found.n // PAGE)
        assert len(cache) <= n_pages


def test_the_least_recently_used_pages_make_room() -> None:
    """What was asked for again stays, with all that it follows; what nobody asked for goes first."""
    cache = PrefixCache(4)
    first, second, third = ([i] * 2 * PAGE for i in range(3))
    cache.reserve(first)
    cache.reserve(second)
    assert cache.find(first).n == 2 * PAGE
    cache.reserve(third)
    assert [cache.find(ids).n for ids in (first, second, third)] == [2 * PAGE, 0, 2 * PAGE]


def test_texts_share_the_pages_of_their_common_beginning() -> None:
    """Conversations with the same system prompt take its pages once."""
    cache = PrefixCache(100)
    for i in range(8):
        cache.reserve([7] * 4 * PAGE + [i] * PAGE)
    assert len(cache) == 4 + 8


def cached(answers: Answers, prompt: Sequence[int]) -> tuple[int, list[int]]:
    """The number of a prompt's tokens that were not read, and its greedy answer."""
    number, seen = answers.engine.submit(prompt, GREEDY), set[int]()
    ids = []
    while not answers.engine.is_idle:
        for event in answers.engine.step():
            assert event.number == number
            seen.add(event.n_cached)
            ids += [event.token.id] if event.token else []
    assert len(seen) == 1
    return seen.pop(), ids


def test_what_the_last_turn_read_is_not_read_again(model: Transformer) -> None:
    """Of a second turn only the new tokens are read, of an edited one those from the edit on, of the same one the last.

    The last token of the answer was drawn, but not read.
    """
    answers = Answers(Engine(model, slots=1))
    prompt = random_prompt(37, 1)
    n, ids = cached(answers, prompt)
    assert n == 0
    assert cached(answers, prompt) == (36, ids)
    assert cached(answers, [*prompt, *ids, 5, 6])[0] == 37 + len(ids) - 1
    assert cached(answers, [*prompt[:20], *random_prompt(9, 2)])[0] == 20
    assert answers.engine.n_cached_tokens == 36 + 37 + len(ids) - 1 + 20
    assert answers.engine.n_prompt_tokens == 37 + 37 + 37 + len(ids) + 2 + 29


@pytest.mark.parametrize("length", [21, 90])
def test_the_same_prompt_is_read_once(model: Transformer, length: int) -> None:
    """Of equal prompts that are asked together, short or long, each beginning is read by one of them only."""
    engine = Engine(model, slots=4, prefill_chunk=32)
    prompt = random_prompt(length, 1)
    for _ in range(6):
        engine.submit(prompt, replace(GREEDY, max_new_tokens=2))
    while not engine.is_idle:
        engine.step()
    assert engine.n_prompt_tokens - engine.n_cached_tokens <= length + 5 + 5 * PAGE * (length > 32)


def test_nothing_is_kept_of_broken_scores_nor_where_it_is_switched_off(model: Transformer) -> None:
    """A prompt whose scores are NaN leaves no page, nor does any prompt with a cache of 0 tokens."""
    broken, off = Engine(model, slots=1), Engine(model, slots=1, cached_tokens=0)
    for engine, prompt in ((broken, [5] * 40 + [BAD]), (off, [5] * 40)):
        for _ in range(2):
            engine.submit(prompt, GREEDY)
            while not engine.is_idle:
                engine.step()
        assert engine.n_cached_tokens == 0
    with pytest.raises(UserError, match="cached_tokens=-1"):
        Engine(model, cached_tokens=-1)


def test_a_long_prompt_counts_as_its_unread_rest(model: Transformer) -> None:
    """A long prompt of which little is unread has its first token in the next step, as a short one."""
    answers = Answers(Engine(model, slots=3, prefill_chunk=8))
    prompt = random_prompt(80, 1)
    answers.submit(prompt)
    answers.finished()
    answers.submit(random_prompt(100, 2))
    answers.step()
    again = answers.submit([*prompt, 5])
    answers.step()
    assert len(answers.ids(again)) == 1


def test_what_a_row_still_holds_is_not_copied(model: Transformer) -> None:
    decoder, ids, other = Decoder(model, 2, CONTEXT), random_prompt(3 * PAGE, seed=1), random_prompt(2 * PAGE, seed=2)
    kept, end = KeptTexts(decoder, 4 * PAGE), len(ids) - 1

    def logits(row: int) -> torch.Tensor:
        return decoder.read(torch.tensor([ids[-1:]]), row, [end])

    with torch.inference_mode():
        expected = decoder.read(torch.tensor([ids]), 0, [0])
        kept.save(0, ids)
        kept.leave(0, ids)
        decoder.read(torch.tensor([other]), 1, [0])
        decoder.save_pages(1, 0, 2 * PAGE, [0, 1])  # so that a copy of the first pages shows
        assert kept.load([*ids, 5], 0) == len(ids)
        torch.testing.assert_close(logits(0), expected)
        kept.load([*ids, 5], 1)
        assert not torch.allclose(logits(1), expected)
        kept.load([*ids, 5], 0)  # the row was taken, so what it holds is not known any more
        assert not torch.allclose(logits(0), expected)

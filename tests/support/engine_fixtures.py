"""Tiny models with spread scores, their plain greedy answers, and a driver of an engine."""

from collections.abc import Container, Sequence

import torch
from model_fixtures import decisive

from babyllm.generation import Engine, Sampling, Token
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer

GREEDY = Sampling(temperature=0, max_new_tokens=12)


def model_of(config: ModelConfig) -> Transformer:
    return decisive(config)


def plain(model: Transformer, prompt: Sequence[int], n: int, ends: Container[int] = ()) -> list[int]:
    """The greedy answer, each token from a pass over all that comes before it, without a cache."""
    ids = list(prompt)
    while len(ids) < min(len(prompt) + n, model.config.max_seq_len):
        token = int(model.logits(torch.tensor([ids]))[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


def is_greedy(model: Transformer, prompt: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether a plain pass finds each token the most probable one, up to rounding: two may be equally probable."""
    if not ids:
        return True
    scores = model.logits(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
    chosen = scores.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return bool((scores.amax(-1) - chosen < 1e-4).all())


def random_prompt(length: int, seed: int) -> list[int]:
    return torch.randint(0, 400, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Answers:
    """Drives an engine and keeps its events, by number."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokens: dict[int, list[Token]] = {}
        self.finish: dict[int, str] = {}

    def submit(self, prompt: Sequence[int], sampling: Sampling = GREEDY, ends: Container[int] = ()) -> int:
        number = self.engine.submit(prompt, sampling, ends)
        self.tokens[number] = []
        return number

    def step(self) -> None:
        counts = {number: 0 for number in self.tokens}
        for number, token, finish, *_ in self.engine.step():
            assert number not in self.finish, "nothing comes after the end"
            counts[number] += 1
            if token is not None:
                self.tokens[number].append(token)
            if finish:
                self.finish[number] = finish
        assert max(counts.values(), default=0) <= 1, "one token a step"

    def finished(self) -> "Answers":
        while not self.engine.is_idle:
            self.step()
        return self

    def ids(self, number: int) -> list[int]:
        return [token.id for token in self.tokens[number]]

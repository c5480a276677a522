"""Log-probabilities of a prompt's own tokens, chunk by chunk, so that other answers are not delayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from babyllm.errors import UserError
from babyllm.generation.decoder import PREFILL_TOKENS, Decoder
from babyllm.generation.sampling import NO_NUMBERS, Token


def prompt_scores(decoder: Decoder, ids: Sequence[int], k: int) -> Iterator[list[Token]]:
    """The tokens of a prompt in chunks, each token with its log-probability in nats given the tokens before it.

    The first token has no log-probability, since no token precedes it.

    Args:
        decoder: decoder with the weights; a separate cache is allocated.
        ids: token ids of the prompt, at least one.
        k: number of most probable tokens returned at each position.

    Raises:
        UserError: the model's scores are not numbers.
    """
    yield [Token(ids[0])]
    decoder = decoder.beside(1, len(ids))
    for start in range(0, len(ids) - 1, PREFILL_TOKENS):
        targets = list(ids[start + 1 : start + PREFILL_TOKENS + 1])
        with torch.inference_mode(), torch.autocast(decoder.device.type, enabled=False):
            tokens = torch.tensor([ids[start : start + len(targets)]], device=decoder.device)
            logprobs = decoder.read_all(tokens, 0, [start])[0].log_softmax(-1)
            if logprobs.isnan().any():
                raise UserError(NO_NUMBERS)
            top = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
            own = logprobs[torch.arange(len(targets)), torch.tensor(targets)].tolist()
            best = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        yield [
            Token(token, logprob, tuple(zip(names, values, strict=True)))
            for token, logprob, (names, values) in zip(targets, own, best, strict=True)
        ]

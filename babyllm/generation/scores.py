"""Log-probabilities of a prompt's own tokens, part by part, so that answers being written are not held up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from babyllm.errors import UserError
from babyllm.generation.decoder import READ, Decoder
from babyllm.generation.sampling import NO_NUMBERS, Token


def prompt_scores(decoder: Decoder, ids: Sequence[int], k: int) -> Iterator[list[Token]]:
    """The tokens of a prompt in parts, each with its natural log-probability behind those before it.

    The first has none, since nothing stands before it.

    Args:
        decoder: whose weights score it, in rows of its own.
        ids: at least one.
        k: how many of the most probable tokens are told at each place.

    Raises:
        UserError: the model's scores are no numbers.
    """
    yield [Token(ids[0])]
    decoder = decoder.beside(1, len(ids))
    for start in range(0, len(ids) - 1, READ):
        told = list(ids[start + 1 : start + READ + 1])
        with torch.inference_mode(), torch.autocast(decoder.device.type, enabled=False):
            tokens = torch.tensor([ids[start : start + len(told)]], device=decoder.device)
            logprobs = decoder.read_all(tokens, 0, [start])[0].log_softmax(-1)
            if logprobs.isnan().any():
                raise UserError(NO_NUMBERS)
            top = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
            own = logprobs[torch.arange(len(told)), torch.tensor(told)].tolist()
            best = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        yield [
            Token(token, logprob, tuple(zip(names, values, strict=True)))
            for token, logprob, (names, values) in zip(told, own, best, strict=True)
        ]

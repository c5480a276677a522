"""Text from a model: prefill the prompt, decode token by token, stream whole characters.

prompt -> ids -> logits of the last token -> filters -> draw -> bytes -> text, until <eos> or the limit
"""

from __future__ import annotations

import codecs
from collections.abc import Container, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from babyllm.errors import UserError
from babyllm.model.cache import KVCache
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


def filter_logits(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits of the distribution to draw from: scaled by temperature, what the filters exclude at minus infinity.

    Args:
        logits: (..., V) float32.
        temperature: above 0; below 1 sharpens, above 1 flattens.
        top_k: keep this many of the most probable tokens; None keeps all.
        top_p: keep the fewest most probable tokens that hold this probability (Holtzman et al. 2020, section 3.1).

    Returns:
        (..., V) float32.
    """
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = F.softmax(ordered, dim=-1).cumsum(dim=-1) - F.softmax(ordered, dim=-1)
        excluded = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(excluded, float("-inf"))
    return logits


@torch.no_grad()
def generate_ids(
    model: Transformer,
    prompt: list[int],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    seed: int | None = None,
    eos_id: int | Container[int] | None = None,
) -> Iterator[int]:
    """The ids that follow a prompt, one by one as they are drawn.

    Args:
        model: in any mode; it is read in evaluation mode.
        prompt: ids, at least one.
        max_new_tokens: at most this many.
        temperature: 0 takes the most probable token each time.
        top_k: see `filter_logits`.
        top_p: see `filter_logits`.
        seed: of the draws; None draws differently each time.
        eos_id: the id, or any of the ids, that ends the text and is not given out; None never ends early.

    Raises:
        UserError: the prompt leaves no room in the model's context, or a setting is out of range.
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise UserError("temperature must be at least 0, top_k at least 1 and top_p above 0 and at most 1")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens={max_new_tokens}: must be at least 0")
    room = model.config.max_seq_len - len(prompt)
    if room < 1 or not prompt:
        raise UserError(f"a prompt of {len(prompt)} tokens leaves no room in the context of {model.config.max_seq_len}")
    device = model.embed_tokens.weight.device
    generator = torch.Generator("cpu")
    generator.manual_seed(seed) if seed is not None else generator.seed()
    n_new = min(max_new_tokens, room)
    ends: Container[int | None] = (eos_id,) if eos_id is None or isinstance(eos_id, int) else eos_id
    cache = KVCache(model.config, 1, len(prompt) + n_new, device, _compute_dtype(model))
    was_training = model.training
    model.eval()
    try:
        ids = prompt
        for _ in range(n_new):
            logits = model.logits(torch.tensor([ids], device=device), cache)[0, -1].cpu()
            if temperature == 0:
                drawn = int(logits.argmax())
            else:
                probs = F.softmax(filter_logits(logits, temperature, top_k, top_p), dim=-1)
                drawn = int(torch.multinomial(probs, 1, generator=generator))
            if drawn in ends:
                return
            yield drawn
            ids = [drawn]
    finally:
        model.train(was_training)


def _compute_dtype(model: Transformer) -> torch.dtype:
    device = model.embed_tokens.weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.embed_tokens.weight.dtype


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """The text that follows `prompt`, in pieces of whole characters; see `generate_ids` for the settings."""
    ids = generate_ids(
        model,
        [tokenizer.eos_id, *tokenizer.encode(prompt)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        eos_id=tokenizer.eos_id,
    )
    yield from text_pieces(tokenizer, ids)


def text_pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of ids as they come, in pieces of whole characters; what is no character gives U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in ids:
        if piece := decoder.decode(tokenizer.token_bytes(token)):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    seed: int | None = None,
) -> str:
    """The text that follows `prompt`, the prompt not included; see `generate_ids` for the settings."""
    pieces = stream(
        model,
        tokenizer,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    return "".join(pieces)

"""Text from a model: prompts are read, tokens drawn one by one for all of them together, whole characters streamed.

prompts -> ids -> Engine: logits -> filters -> draw -> ids -> AnswerText -> text, until <eos>, a stop text or the limit
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import Literal, overload

from babyllm.errors import UserError
from babyllm.generation.beam import beam_search
from babyllm.generation.engine import Engine, Event
from babyllm.generation.sampling import Sampling, Token
from babyllm.generation.text import AnswerText, text_pieces
from babyllm.model.transformer import Transformer
from babyllm.runtime import derive_seed
from babyllm.tokenizer import Tokenizer

__all__ = [
    "AnswerText",
    "Engine",
    "Event",
    "Sampling",
    "Token",
    "beam_search",
    "generate",
    "generate_ids",
    "stream",
    "text_pieces",
]

# Answers decoded together at most: more read the weights less often for each, and take memory for keys and values.
_SLOTS = 16


def generate_ids(
    model: Transformer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    eos_id: int | Container[int] | None = None,
) -> Iterator[int]:
    """The ids that follow a prompt, one by one as they are drawn; see `Sampling` for the settings.

    Args:
        model: in any mode; it is read as in evaluation mode.
        prompt: ids, at least one.
        max_new_tokens: at most this many.
        temperature: 0 takes the most probable token each time.
        top_k: see `Sampling`.
        top_p: see `Sampling`.
        min_p: see `Sampling`.
        repetition_penalty: see `Sampling`.
        seed: of the draws; None draws differently each time.
        eos_id: the id, or any of the ids, that ends the text and is not given out; None never ends early.

    Raises:
        UserError: the prompt leaves no room in the model's context, or a setting is out of range.
    """
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    ends: Container[int] = () if eos_id is None else (eos_id,) if isinstance(eos_id, int) else eos_id
    engine = Engine(model, slots=1, context=_context(model, [prompt], sampling))
    engine.submit(prompt, sampling, ends)
    while not engine.is_idle:
        for event in engine.step():
            if event.token is not None:
                yield event.token.id


def stream(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """The text that follows `prompt`, in pieces of whole characters; see `Sampling` for the settings."""
    ids = generate_ids(
        model,
        _prompt_ids(tokenizer, prompt),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        eos_id=tokenizer.eos_id,
    )
    yield from text_pieces(tokenizer, ids, Sampling(stop=tuple(stop)).stop)


@overload
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    n: Literal[1] = 1,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
) -> str: ...
@overload
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str] = "",
    *,
    n: int = 1,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
) -> str | list[str]: ...
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str] = "",
    *,
    n: int = 1,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
) -> str | list[str]:
    """The text that follows a prompt, the prompt not included; a list of texts for several prompts or samples.

    Args:
        model: in any mode; it is read as in evaluation mode.
        tokenizer: its own.
        prompt: a text, or several; each is answered as if it were alone.
        n: texts per prompt, adjacent in the list; the best ones of a beam search.
        num_beams: above 1 searches for the most probable text among this many (`beam_search`) and draws nothing: of the
            settings below, only `max_new_tokens` and `stop` matter then.
        length_penalty: of the beam search; above 0 favours long texts.
        max_new_tokens: at most this many.
        temperature: 0 takes the most probable token each time.
        top_k: see `Sampling`.
        top_p: see `Sampling`.
        min_p: see `Sampling`.
        repetition_penalty: see `Sampling`.
        seed: of the draws of each prompt; None draws differently each time.
        stop: texts that end the answer and are not given out.

    Raises:
        UserError: a prompt leaves no room in the model's context, or a setting is out of range.
    """
    if n < 1:
        raise UserError(f"n={n}: must be at least 1")
    sampling = Sampling(
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        seed,
        (stop,) if isinstance(stop, str) else tuple(stop),
    )
    texts = [prompt] if isinstance(prompt, str) else prompt
    prompts = [_prompt_ids(tokenizer, text) for text in texts]
    if num_beams == 1:
        answers = _drawn(model, tokenizer, prompts, n, sampling)
    else:
        answers = [
            "".join(text_pieces(tokenizer, beam.ids, sampling.stop))
            for ids in prompts
            for beam in beam_search(
                model,
                ids,
                num_beams=num_beams,
                n=n,
                length_penalty=length_penalty,
                max_new_tokens=max_new_tokens,
                end_ids=(tokenizer.eos_id,),
            )
        ]
    return answers[0] if isinstance(prompt, str) and n == 1 else answers


def _drawn(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling
) -> list[str]:
    """`n` texts of each prompt, decoded together."""
    if not prompts:
        return []
    engine = Engine(model, slots=min(len(prompts) * n, _SLOTS), context=_context(model, prompts, sampling))
    texts: dict[int, AnswerText] = {}
    for ids in prompts:
        for i in range(n):
            seed = sampling.seed if sampling.seed is None or i == 0 else derive_seed(sampling.seed, i)
            number = engine.submit(ids, replace(sampling, seed=seed), (tokenizer.eos_id,))
            texts[number] = AnswerText(tokenizer, sampling.stop)
    pieces: dict[int, list[str]] = {number: [] for number in texts}
    while not engine.is_idle:
        for number, token, finish in engine.step():
            if token is not None:
                pieces[number].append(texts[number].add(token.id))
            if finish:
                pieces[number].append(texts[number].end())
            elif texts[number].is_stopped:
                engine.cancel(number)
    return ["".join(pieces[number]) for number in texts]


def _prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A text begins behind an <eos>, as documents do in training."""
    return [tokenizer.eos_id, *tokenizer.encode(prompt)]


def _context(model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling) -> int:
    """Tokens there must be room for: as few as can be, for room takes memory."""
    return max(2, min(max(map(len, prompts)) + sampling.max_new_tokens, model.config.max_seq_len))

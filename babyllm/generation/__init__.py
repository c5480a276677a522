"""Text from a model: prompts are read together, tokens are drawn one by one, whole characters are streamed.

prompts -> ids -> Engine: logits -> filters -> draw -> ids -> AnswerText -> text, until <eos>, stop string or limit
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, overload

from babyllm.errors import UserError
from babyllm.generation.beam import beam_search
from babyllm.generation.engine import Engine, Event, Finish
from babyllm.generation.sampling import Sampling, Token
from babyllm.generation.text import AnswerText, text_pieces
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

__all__ = [
    "AnswerText",
    "Completion",
    "Engine",
    "Event",
    "Sampling",
    "Token",
    "answers",
    "beam_search",
    "completions",
    "generate",
    "generate_ids",
    "stream",
    "text_pieces",
]

# Most answers decoded together. More would share each reading of the weights, but take more memory.
_SLOTS = 16


class Completion(NamedTuple):
    """A finished answer and its finish reason.

    Attributes:
        text: text of the answer, without the stop string that ended it.
        tokens: drawn tokens, including those of a stop string, but not an end token.
        finish: "stop" for an end token or a stop string, "length" for the limit, "error" for an answer that could not
            go on.
        error: why it could not go on; else empty.
    """

    text: str
    tokens: list[Token]
    finish: Finish
    error: str = ""


@overload
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    n: Literal[1] = 1,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    max_length: int | None = None,
    **settings: Any,
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
    max_length: int | None = None,
    **settings: Any,
) -> str | list[str]: ...
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str] = "",
    *,
    n: int = 1,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    max_length: int | None = None,
    **settings: Any,
) -> str | list[str]:
    """The text that follows a prompt, without the prompt; a list of texts for several prompts or `n` above 1.

    Args:
        model: a model in any mode; it runs as in evaluation mode, in the dtype of `babyllm.runtime.precision`.
        tokenizer: tokenizer of the model.
        prompt: one text or several; each is continued as if it were alone.
        n: number of texts per prompt, adjacent in the list; with beam search the best `n`.
        num_beams: number of beams; above 1 selects beam search (`beam_search`), which does not sample. It uses only the
            settings `max_new_tokens`, `repetition_penalty` and `stop`, and refuses penalties, biases and constraints.
        length_penalty: exponent of a text's length in tokens in the beam search; above 0 favours long texts.
        max_length: largest number of tokens of a prompt and its text together; None for the model's context.
        settings: fields of `Sampling`: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `min_p`, penalties,
            `logit_bias`, `constraint`, `seed` for each prompt, and `stop`, one string or several.

    Raises:
        UserError: a prompt leaves no room in the model's context, a setting is out of range, or the scores are not
            numbers.
        TypeError: a setting is unknown.
    """
    if n < 1:
        raise UserError(f"n={n}: must be at least 1")
    sampling = _sampling(settings)
    texts = [prompt] if isinstance(prompt, str) else prompt
    prompts = [_prompt_ids(tokenizer, text) for text in texts]
    if num_beams == 1:
        requests = [(ids, each) for ids in prompts for each in _within(sampling, ids, max_length).several(n)]
        found = [answer.text for answer in answers(model, tokenizer, requests, (tokenizer.eos_id,))]
    else:
        _require_plain(sampling)
        found = [
            "".join(text_pieces(tokenizer, beam.ids, sampling.stop))
            for ids in prompts
            for beam in beam_search(
                model,
                ids,
                num_beams=num_beams,
                n=n,
                length_penalty=length_penalty,
                repetition_penalty=sampling.repetition_penalty,
                max_new_tokens=_within(sampling, ids, max_length).max_new_tokens,
                end_ids=(tokenizer.eos_id,),
            )
        ]
    return found[0] if isinstance(prompt, str) and n == 1 else found


def stream(
    model: Transformer, tokenizer: Tokenizer, prompt: str, *, max_length: int | None = None, **settings: Any
) -> Iterator[str]:
    """The text that follows `prompt`, streamed in pieces of whole characters; settings and errors as for `generate`."""
    sampling = _sampling(settings)
    read = _prompt_ids(tokenizer, prompt)
    ids = generate_ids(model, read, _within(sampling, read, max_length), (tokenizer.eos_id,), tokenizer)
    yield from text_pieces(tokenizer, ids, sampling.stop)


def generate_ids(
    model: Transformer,
    prompt: Sequence[int],
    sampling: Sampling,
    end_ids: Collection[int] = (),
    tokenizer: Tokenizer | None = None,
) -> Iterator[int]:
    """The token ids that follow a prompt, one by one as they are drawn.

    Args:
        model: a model in any mode; it runs as in evaluation mode.
        prompt: token ids, at least one.
        sampling: settings of the draws; `stop` has no effect on ids.
        end_ids: ids of tokens that end the text, in addition to the model's (`Transformer.end_ids`).
        tokenizer: tokenizer of the model, which a constraint needs.

    Raises:
        UserError: the prompt leaves no room in the model's context, or the answer cannot go on.
    """
    context = _context(model, [(prompt, sampling)])
    engine = Engine(model, slots=1, context=context, cached_tokens=0, tokenizer=tokenizer)
    yield from engine.answer(prompt, sampling, end_ids)


def answers(
    model: Transformer,
    tokenizer: Tokenizer,
    requests: Sequence[tuple[Sequence[int], Sampling]],
    end_ids: Collection[int],
) -> list[Completion]:
    """The answers to prompts, decoded together, each as if it were alone; in the order of the requests.

    Args:
        model: a model in any mode; it runs as in evaluation mode.
        tokenizer: tokenizer of the model.
        requests: token ids of each prompt, at least one, and the settings of its draws.
        end_ids: ids of tokens that end an answer, in addition to the model's (`Transformer.end_ids`).

    Raises:
        UserError: a prompt leaves no room in the model's context, or the scores are not numbers.
    """
    found = completions(model, tokenizer, requests, end_ids)
    if error := next((answer.error for answer in found if answer.error), ""):
        raise UserError(error)
    return found


def completions(
    model: Transformer,
    tokenizer: Tokenizer,
    requests: Sequence[tuple[Sequence[int], Sampling]],
    end_ids: Collection[int],
    *,
    lead: str = "",
    slots: int = _SLOTS,
) -> list[Completion]:
    """As `answers`, but an answer that cannot go on ends with the finish reason "error".

    Args:
        model: a model in any mode; it runs as in evaluation mode.
        tokenizer: tokenizer of the model.
        requests: token ids of each prompt, at least one, and the settings of its draws; those given first begin first.
        end_ids: ids of tokens that end an answer, in addition to the model's (`Transformer.end_ids`).
        lead: text that is left out at the beginning of an answer (`babyllm.chat.session.answer_lead`).
        slots: largest number of answers that are decoded together.

    Raises:
        UserError: a prompt leaves no room in the model's context.
    """
    if not requests:
        return []
    engine = Engine(model, slots=min(len(requests), slots), context=_context(model, requests), tokenizer=tokenizer)
    texts: dict[int, AnswerText] = {}
    for ids, sampling in requests:
        texts[engine.submit(ids, sampling.after(lead), end_ids)] = AnswerText(tokenizer, sampling.stop, lead)
    pieces: dict[int, list[str]] = {number: [] for number in texts}
    tokens: dict[int, list[Token]] = {number: [] for number in texts}
    finishes: dict[int, Finish] = {}
    errors: dict[int, str] = {}
    while not engine.is_idle:
        for event in engine.step():
            number, token, finish = event[:3]
            if token is not None:
                tokens[number].append(token)
                pieces[number].append(texts[number].add(token.id))
            if texts[number].is_stopped:
                finishes[number] = "stop"
                engine.cancel(number)
            elif finish:
                finishes[number], errors[number] = finish, event.error
                pieces[number].append(texts[number].end())
    return [
        Completion("".join(pieces[number]), tokens[number], finishes[number], errors.get(number, ""))
        for number in texts
    ]


def _sampling(settings: dict[str, Any]) -> Sampling:
    """The settings of a caller, whose `stop` may be a single string."""
    stop = settings.get("stop") or ()
    return Sampling(**{**settings, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})


def _within(sampling: Sampling, prompt: Sequence[int], max_length: int | None) -> Sampling:
    """The settings of an answer that ends within a number of tokens, those of the prompt included.

    Raises:
        UserError: the prompt leaves no room.
    """
    if max_length is None:
        return sampling
    if len(prompt) >= max_length:
        raise UserError(f"max_length={max_length}: the prompt alone has {len(prompt)} tokens; raise it")
    return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, max_length - len(prompt)))


def _require_plain(sampling: Sampling) -> None:
    """Refuse settings that beam search does not have.

    Raises:
        UserError: one of them is set.
    """
    for name in ("frequency_penalty", "presence_penalty", "logit_bias", "constraint"):
        if getattr(sampling, name):
            raise UserError(f"{name}: beam search has none; leave it out, or use num_beams=1")


def _prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a text, after the one that begins texts."""
    return [tokenizer.begin_id, *tokenizer.encode(prompt)]


def _context(model: Transformer, requests: Sequence[tuple[Sequence[int], Sampling]]) -> int:
    """The number of tokens that the longest request needs; a longer cache would only take memory."""
    longest = max(len(ids) + max(1, sampling.max_new_tokens) for ids, sampling in requests)
    return max(2, min(longest, model.config.max_seq_len))

"""Requests for answers in the form that the engine thread takes, and what all endpoints check before they make one.

A field that would change the answer is never ignored: an unknown field is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from babyllm.chat.tools.reasoning import Begin
from babyllm.chat.tools.tool_formats import ToolFormat
from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.generation.sampling import Sampling
from babyllm.serve.api.generation.generation_body import GenerationBody, SamplingBody
from babyllm.serve.api.generation.usable_constraint import require_usable
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.validation import UNSUPPORTED
from babyllm.serve.served_model import ServedModel

# Below this temperature a draw is the most probable token, except for ties in rounding.
LEAST_TEMPERATURE = 1e-4


class Limits(NamedTuple):
    """What a server accepts.

    Attributes:
        slots: largest number of answers to one prompt.
        capacity: largest number of answers of a request.
    """

    slots: int
    capacity: int


@dataclass(frozen=True)
class ChoiceRequest:
    """One answer of a response, which the API calls a choice.

    Attributes:
        prompt: token ids of the prompt.
        sampling: settings of the draws, including stop strings.
        end_ids: ids of tokens that end the answer.
        lead: text that is left out if the answer begins with it.
        echo: text of the prompt, with which the answer begins; None to leave the prompt out.
        n_unseen: number of ids at the prompt's beginning that the server has added to the client's text.
    """

    prompt: list[int]
    sampling: Sampling
    end_ids: frozenset[int]
    lead: str = ""
    echo: str | None = None
    n_unseen: int = 0


@dataclass(frozen=True)
class GenerationRequest:
    """A request in the form that the engine thread takes.

    Attributes:
        choices: answers in the order of the response's choices.
        n_prompt_tokens: number of tokens of all prompts, each prompt counted once.
        is_stream: whether the answer is sent as a stream of deltas.
        has_usage: whether a stream ends with the token counts.
        logprobs: number of alternatives sent with each token; None sends no log-probabilities.
        begin: what each answer begins with; "content" if reasoning is not split off.
        has_reasoning: whether reasoning that is split off is sent.
        form: how calls of functions are written, which are split off too; None leaves them in the content.
    """

    choices: list[ChoiceRequest]
    n_prompt_tokens: int
    is_stream: bool
    has_usage: bool
    logprobs: int | None
    begin: Begin = "content"
    has_reasoning: bool = True
    form: ToolFormat | None = None


def check_counts(body: GenerationBody, limits: Limits) -> None:
    """Check the fields of several answers and of streams against the server and each other.

    Raises:
        Problem: one of them is not accepted; the message names it.
    """
    if body.n > limits.slots:
        raise Problem(400, f"n must be a whole number from 1 to {limits.slots}", param="n")
    # With best_of equal to n, all answers are returned, so it changes nothing.
    if body.best_of not in (None, body.n):
        raise Problem(400, f"best_of is not supported here (only {body.n})", param="best_of", code=UNSUPPORTED)
    if body.stream_options.include_usage and not body.stream:
        raise Problem(400, "stream_options needs stream to be true", param="stream_options")


def sampling_of(
    body: SamplingBody, model: ServedModel, max_new_tokens: int, logprobs: int | None, lead: str = ""
) -> Sampling:
    """The settings of the draws of one answer.

    Args:
        body: checked body.
        model: description of the model that answers.
        max_new_tokens: largest number of tokens of the answer.
        logprobs: number of alternatives sent with each token; None sends no log-probabilities.
        lead: text that the model writes before the answer.

    Raises:
        Problem: the settings do not go together.
    """
    try:
        return Sampling(
            max_new_tokens=max_new_tokens,
            temperature=0.0 if body.temperature < LEAST_TEMPERATURE else body.temperature,
            top_k=max(0, body.top_k),
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            frequency_penalty=body.frequency_penalty,
            presence_penalty=body.presence_penalty,
            logit_bias=_biases(body, model),
            constraint=_constraint(body, model, lead),
            seed=body.seed,
            stop=body.stops(),
            logprobs=logprobs,
        )
    except UserError as error:
        raise Problem(400, str(error)) from None


def _biases(body: SamplingBody, model: ServedModel) -> tuple[tuple[int, float], ...]:
    if wrong := [i for i in body.logit_bias if i >= model.vocab_size]:
        message = f"logit_bias: {wrong[0]} is not a token id; the vocabulary has {model.vocab_size}"
        raise Problem(400, message, param="logit_bias")
    return tuple(body.logit_bias.items())


def _constraint(body: SamplingBody, model: ServedModel, lead: str) -> Constraint | None:
    """What the answer may say, which is compiled here so that the engine finds it ready."""
    given = body.constraints()
    if not given:
        return None
    name, constraint = given[0][0], given[0][1].after(lead)
    if len(given) > 1:
        message = f"{name} and {given[1][0]} both say what the answer may say; give one of them"
        raise Problem(400, message, param=name)
    require_usable(constraint, model, name)
    return constraint

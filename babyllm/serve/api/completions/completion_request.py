"""Body of /v1/completions -> ids -> GenerationRequest."""

from __future__ import annotations

from babyllm.serve.api.completions.completion_body import CompletionBody
from babyllm.serve.api.generation.generation_request import (
    ChoiceRequest,
    GenerationRequest,
    Limits,
    check_counts,
    sampling_of,
)
from babyllm.serve.api.prompt_limits import require_context
from babyllm.serve.api.text_prompts import prompts_of
from babyllm.serve.served_model import ServedModel


def completion_request(body: CompletionBody, model: ServedModel, limits: Limits) -> GenerationRequest:
    """The request of a body of /v1/completions; see `chat_request`."""
    check_counts(body, limits)
    prompts = prompts_of(body.prompt, model, limits.capacity // body.n, "prompt")
    ends = frozenset([model.tokenizer.eos_id])
    choices = []
    for prompt in prompts:
        require_context(len(prompt.ids), model, 1 if body.max_tokens else 0, "prompt")
        echo = prompt.text if body.echo else None
        limit = min(body.max_tokens, model.context - len(prompt.ids))
        for sampling in sampling_of(body, model, limit, body.logprobs).several(body.n):
            choices.append(ChoiceRequest(prompt.ids, sampling, ends, echo=echo, n_unseen=prompt.n_unseen))
    n_tokens = sum(len(prompt.ids) for prompt in prompts)
    return GenerationRequest(choices, n_tokens, body.stream, body.stream_options.include_usage, body.logprobs)

"""Body of /v1/embeddings -> ids -> EmbeddingRequest; embeddings -> JSON."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from babyllm.serve.api.embeddings.embedding_body import EmbeddingBody
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.prompt_limits import require_context
from babyllm.serve.api.text_prompts import Prompt, prompts_of
from babyllm.serve.api.validation import UNSUPPORTED
from babyllm.serve.served_model import ServedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from babyllm.generation.pooling import Pooling

MAX_INPUTS = 2048


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts to embed.

    Attributes:
        prompts: the texts as ids; those that precede a client's text do not count.
        pooling: what is made of the hidden states of a text's tokens.
        is_normalized: whether an embedding is divided by its length.
        is_base64: whether an embedding is sent as bytes in base64.
    """

    prompts: list[Prompt]
    pooling: Pooling
    is_normalized: bool
    is_base64: bool


def embedding_request(body: EmbeddingBody, model: ServedModel) -> EmbeddingRequest:
    """The request of a body of /v1/embeddings.

    Args:
        body: checked body.
        model: description of the model that reads the texts.

    Raises:
        Problem: a text is empty or too long, or there are too many.
    """
    if body.dimensions not in (None, model.width):
        message = f"dimensions is not supported here (only {model.width})"
        raise Problem(400, message, param="dimensions", code=UNSUPPORTED)
    prompts = prompts_of(body.input, model, MAX_INPUTS, "input")
    for prompt in prompts:
        if len(prompt.ids) == prompt.n_unseen:
            raise Problem(400, "input must not have empty texts", param="input")
        require_context(len(prompt.ids), model, 0, "input")
    return EmbeddingRequest(prompts, body.pooling, body.normalize, body.encoding_format == "base64")


def embedding_response(request: EmbeddingRequest, model: ServedModel, vectors: NDArray[np.float32]) -> dict[str, Any]:
    """The response with the embeddings of a request.

    Args:
        request: the request.
        model: description of the model that read the texts.
        vectors: (n, D) embeddings of the texts.
    """
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode() if request.is_base64 else vector.tolist(),
        }
        for index, vector in enumerate(vectors.astype("<f4", copy=False))
    ]
    n_tokens = sum(len(prompt.ids) for prompt in request.prompts)
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": data, "model": model.name, "usage": usage}

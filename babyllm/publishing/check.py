"""Proof that an exported model is the model it was made from, and that other programs read it alike.

source, exported file -> logits of both, read here                   -> largest difference
exported file         -> ids of texts and 64 greedy tokens, here and by transformers or llama.cpp -> equal, or an error

What rounds inside the other program may decide between two tokens that are almost equally likely; such a tie is
reported and is not an error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.generation import generate_ids
from babyllm.generation.sampling import Sampling
from babyllm.interop.open_model import OpenModel, load_open
from babyllm.model.transformer import Transformer
from babyllm.progress import ProgressLine
from babyllm.tokenizer import Tokenizer

N_TOKENS = 64
TEXTS = ("今天天气很好，我们去", "Once upon a time, there was", "def mean(x):\n    return ", "2024 年的 3 个问题：😀\n")
# The largest gap between the two best logits that the other program's rounding may close. llama.cpp rounds activations
# to the type of the weights.
_TIES = {"float32": 1e-3, "bfloat16": 1e-3, "float16": 1e-3, "F32": 1e-3, "F16": 5e-2, "Q8_0": 0.3}
# The largest difference of a logit from the source's, over the spread of all logits: that of rounding, many times over.
_LARGEST = {"float32": 1e-5, "bfloat16": 0.3, "float16": 0.05, "F32": 1e-5, "F16": 0.05, "Q8_0": 0.3}

Continue = Callable[[list[int]], list[int]]
"""A program's greedy continuation of a prompt: ids -> `N_TOKENS` ids."""


class Reader(NamedTuple):
    """Another program, with an exported model.

    Attributes:
        name: name in messages.
        encode: function from a text to its ids, nothing added.
        go_on: function from a prompt's ids to the ids of `N_TOKENS` greedy tokens.
    """

    name: str
    encode: Callable[[str], list[int]]
    go_on: Continue


def prompts(tokenizer: Tokenizer, context: int) -> list[list[int]]:
    """The ids of the check's texts, each after the id that begins texts, cut where a context has no more room."""
    room = context - N_TOKENS
    return [[tokenizer.begin_id, *tokenizer.encode(text)][:room] for text in TEXTS] if room > 0 else []


def logits_of(model: Transformer, asked: Sequence[list[int]]) -> list[Tensor]:
    """The logits (T, V) after each token of each prompt."""
    return [model.logits(torch.tensor([ids]))[0] for ids in asked]


def checked(
    exported: OpenModel, kind: str, source: Sequence[Tensor], asked: Sequence[list[int]], reader: Reader | None
) -> Iterator[str]:
    """The findings about an exported model, in a sentence each.

    Args:
        exported: the model as it was written.
        kind: type of its weights.
        source: logits of the model it was made from.
        asked: ids of the prompts.
        reader: another program with the exported model; None if it is not installed.

    Raises:
        UserError: the exported model computes other logits, or the other program other ids.
    """
    model = load_open(exported)
    pairs = list(zip(logits_of(model, asked), source, strict=True))
    largest = max(((found - wanted).abs().max().item() for found, wanted in pairs), default=0.0)
    spread = max((wanted.std().item() for _, wanted in pairs), default=1.0)
    if largest > _LARGEST[kind] * spread:
        raise UserError(f"{exported.where}: its logits differ from the source's by {largest:.3g}; nothing was exported")
    yield f"logits differ from the source's by at most {largest:.2g}, where their spread is {spread:.2g}"
    if reader is not None:
        _require_same_ids(exported, reader)
        yield f"{reader.name} encodes texts to the same ids and {_compared(model, kind, asked, reader)}"


def _require_same_ids(exported: OpenModel, reader: Reader) -> None:
    for text in TEXTS:
        mine, theirs = exported.tokenizer.encode(text), reader.encode(text)
        if mine != theirs:
            raise UserError(f"{exported.where}: {reader.name} encodes {text!r} to {theirs}, not {mine}; not exported")


def _compared(model: Transformer, kind: str, asked: Sequence[list[int]], reader: Reader) -> str:
    """What the comparison of greedy tokens found."""
    gaps: list[float] = []
    progress = ProgressLine(f"{reader.name}: prompts continued", len(asked), output=sys.stderr)
    for number, ids in enumerate(asked):
        progress.show(number)
        mine, theirs = go_on(model, ids), reader.go_on(ids)
        if mine == theirs:
            continue
        same = next(i for i, (one, other) in enumerate(zip(mine, theirs, strict=True)) if one != other)
        logits = logits_of(model, [[*ids, *mine[:same]]])[0][-1]
        gap = (logits[mine[same]] - logits[theirs[same]]).item()
        if gap > _TIES[kind]:
            raise UserError(
                f"{model.origin}: {reader.name} continues otherwise after {same} of {N_TOKENS} greedy tokens, where "
                f"the logits are {gap:.2g} apart; not exported"
            )
        gaps.append(gap)
    progress.show(len(asked))
    progress.end()
    tied = f"; after the others two tokens were tied, within {max(gaps):.2g}" if gaps else ""
    return f"writes the same {N_TOKENS} greedy tokens after {len(asked) - len(gaps)} of {len(asked)} prompts{tied}"


def go_on(model: Transformer, ids: list[int]) -> list[int]:
    """The ids of `N_TOKENS` greedy tokens after a prompt, ends of texts included."""
    before, model.end_ids = model.end_ids, frozenset()
    try:
        return list(generate_ids(model, ids, Sampling(N_TOKENS, temperature=0)))
    finally:
        model.end_ids = before


def transformers_reader(directory: Path) -> Reader | None:
    """Transformers with the model of a Hugging Face directory, computing in float32; None if it is not installed."""
    if find_spec("transformers") is None:
        return None
    transformers: Any = import_module("transformers")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    fixed = transformers.GenerationConfig(max_new_tokens=N_TOKENS, do_sample=False, pad_token_id=0)

    def go_on(ids: list[int]) -> list[int]:
        with torch.inference_mode():
            found = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), generation_config=fixed)
        written: list[int] = found[0, len(ids) :].tolist()
        return written

    model.generation_config = fixed
    return Reader("transformers", lambda text: tokenizer.encode(text, add_special_tokens=False), go_on)


def llama_cpp_reader(file: Path, context: int) -> Reader | None:
    """llama.cpp with the model of a GGUF file and a cache in float32; None if llama-cpp-python is not installed."""
    if find_spec("llama_cpp") is None:
        return None
    llama_cpp: Any = import_module("llama_cpp")
    model: Any = llama_cpp.Llama(
        str(file),
        n_ctx=context,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        n_threads=1,  # several wait for each other in busy loops, which takes minutes beside other work
        n_threads_batch=1,
        verbose=False,
    )

    def go_on(ids: list[int]) -> list[int]:
        written = model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
        return [int(token) for token, _ in zip(written, range(N_TOKENS), strict=False)]

    return Reader("llama.cpp", lambda text: list(model.tokenize(text.encode(), add_bos=False, special=False)), go_on)

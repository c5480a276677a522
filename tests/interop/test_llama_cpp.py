"""llama.cpp reads what is exported: the same ids of texts, the same logits, the same greedy answers.

Run these with `pytest -m llama_cpp`; llama-cpp-python is built from source in a few minutes.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interop_fixtures import TEXTS

from babyllm.generation import generate_ids
from babyllm.generation.sampling import Sampling
from babyllm.interop.gguf.container import read_header
from babyllm.interop.gguf.convert import open_gguf, write_gguf
from babyllm.interop.gguf.pre_tokenizers import SPLITS
from babyllm.interop.gguf.tokenizer_keys import read_vocabulary
from babyllm.interop.open_model import in_memory, load_open
from babyllm.model.config import RopeScaling
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

pytestmark = pytest.mark.llama_cpp

N_TOKENS = 64
TIE = 1e-3  # a gap of logits that rounding can close
F32 = 0  # type of keys and values
SHAPES = {
    "llama": {"max_seq_len": 256},
    "wide heads": {"head_dim": 24, "tie_embeddings": True},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 24},
    "linear": {"rope_scaling": RopeScaling("linear", 4.0)},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 16)},
    "yarn, attention": {"rope_scaling": RopeScaling("yarn", 4.0, 32, attention_factor=1.25)},
    "llama3": {"rope_scaling": RopeScaling("llama3", 8.0, 16, low_freq_factor=0.5, high_freq_factor=3.0)},
}
QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "中国的首都是哪里？",
    "用一句话介绍你自己。",
    "Say <|im_end|> and stop.",
    "def fib(n):",
]
STARTS = ["Once upon a time", "今天天气很好，", "<|im_start|>", "1 + 1 = "]


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """`opened(path)`: a file in llama.cpp, with float32 keys and values and plain attention."""
    llama_cpp = pytest.importorskip("llama_cpp")
    models = []

    def build(path: Path, **settings: Any) -> Any:
        # The library would put its own numbers in place of the file's.
        settings |= {"yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0}
        settings |= {"type_k": F32, "type_v": F32, "flash_attn": False, "n_threads": 1, "n_threads_batch": 1}
        models.append(llama_cpp.Llama(str(path), verbose=False, n_ctx=256, n_batch=256, **settings))
        return models[-1]

    yield build
    for model in models:
        model.close()


def first_difference(model: Transformer, reference: Any, prompt: Sequence[int]) -> float | None:
    """The gap of logits at which two greedy answers part; None if they are equal."""
    model.end_ids = frozenset()
    ours = list(generate_ids(model, prompt, Sampling(temperature=0, max_new_tokens=N_TOKENS)))
    assert len(ours) == N_TOKENS
    reference.reset()
    reference.eval(list(prompt))
    for i, token in enumerate(ours):
        theirs = int(np.argmax(reference.scores[reference.n_tokens - 1]))
        if theirs != token:
            with torch.no_grad():
                logits = model.logits(torch.tensor([[*prompt, *ours[:i]]]))[0, -1]
            return float(logits[token] - logits[theirs])
        reference.eval([token])
    return None


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_equal(
    tmp_path: Path,
    opened: Callable[..., Any],
    random_model: Callable[..., Transformer],
    tokenizer: Tokenizer,
    shape: str,
) -> None:
    """Each architecture, with each way to stretch positions, has the logits of the model that was written."""
    model = random_model(**SHAPES[shape])
    write_gguf(tmp_path / "a.gguf", in_memory(model, tokenizer))
    reference = opened(tmp_path / "a.gguf", logits_all=True)
    tokens = torch.randint(0, 400, (1, 64), generator=torch.Generator().manual_seed(1))
    reference.eval(tokens[0].tolist())
    with torch.no_grad():
        expected = model.logits(tokens)[0].numpy()
    assert np.abs(reference.scores[:64] - expected).max() < 1e-3


@pytest.mark.parametrize("name", ["tokenizer", "byte_level"])
def test_small_vocabularies_encode_alike_and_answer_alike(
    tmp_path: Path,
    opened: Callable[..., Any],
    random_model: Callable[..., Transformer],
    request: pytest.FixtureRequest,
    name: str,
) -> None:
    """A SentencePiece and a byte-level vocabulary have equal ids, and ten prompts equal answers of 64 tokens."""
    tokenizer = request.getfixturevalue(name)
    model = random_model(max_seq_len=256)
    write_gguf(tmp_path / "a.gguf", in_memory(model, tokenizer))
    reference = opened(tmp_path / "a.gguf", logits_all=True)
    for text in TEXTS:
        assert reference.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)
    special = [[tokenizer.special["<|im_start|>"]], [tokenizer.eos_id], [tokenizer.special["<|im_end|>"], 20]]
    for prompt in [*special, *(tokenizer.encode(text) for text in (*TEXTS, "a"))]:
        gap = first_difference(model, reference, prompt)
        assert gap is None or gap < TIE


@pytest.mark.parametrize("name", SPLITS)
def test_each_split_encodes_as_llama_cpp_does(
    tmp_path: Path,
    opened: Callable[..., Any],
    random_model: Callable[..., Transformer],
    byte_level: Tokenizer,
    name: str,
) -> None:
    """A file with the name of a split is encoded alike by both."""
    from babyllm.interop.gguf.container import TensorSource, write_file
    from babyllm.interop.gguf.container import read_tensor as read

    write_gguf(tmp_path / "a.gguf", in_memory(random_model(), byte_level))
    header = read_header(tmp_path / "a.gguf")
    sources = [TensorSource(n, p.shape, lambda n=n: read(header, n)) for n, p in header.tensors.items()]
    write_file(tmp_path / "b.gguf", {**header.metadata, "tokenizer.ggml.pre": name}, sources, "F32")
    tokenizer = read_vocabulary(read_header(tmp_path / "b.gguf")).tokenizer
    reference = opened(tmp_path / "b.gguf", vocab_only=True)
    for text in TEXTS:
        assert reference.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)


def test_a_real_model_answers_alike(tmp_path: Path, opened: Callable[..., Any], smollm2: Path) -> None:
    """SmolLM2, imported and exported in F32, answers ten prompts with the same 64 tokens."""
    foreign = open_gguf(smollm2)
    model, tokenizer = load_open(foreign), foreign.tokenizer
    write_gguf(tmp_path / "a.gguf", foreign, "F32")
    reference = opened(tmp_path / "a.gguf", logits_all=True)
    start, end = tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]
    prompts = [tokenizer.encode(text) for text in STARTS]
    for question in QUESTIONS:
        prompts.append([start, *tokenizer.encode(f"user\n{question}"), end, *tokenizer.encode("\n"), start])
        prompts[-1] += tokenizer.encode("assistant\n")
        theirs = reference.tokenize(question.encode(), add_bos=False, special=False)
        assert theirs == tokenizer.encode(question)
    for prompt in prompts:
        gap = first_difference(model, reference, prompt)
        assert gap is None or gap < TIE

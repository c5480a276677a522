"""SmolLM2-135M-Instruct, a real model in GGUF, with transformers' reading of the same file as the judge."""

from pathlib import Path

import pytest
import torch
from interop_fixtures import TEXTS

from babyllm.__main__ import run
from babyllm.chat.messages import Message
from babyllm.interop.gguf.convert import open_gguf
from babyllm.interop.open_model import load_open

pytestmark = pytest.mark.slow


def test_logits_and_ids_equal_those_of_transformers(smollm2: Path) -> None:
    """Logits agree within 1e-4, ids are equal on English, Chinese, code, emoji and what looks like special tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    foreign = open_gguf(smollm2)
    place = {"pretrained_model_name_or_path": smollm2.parent, "gguf_file": smollm2.name}
    reference = AutoTokenizer.from_pretrained(**place)
    for text in TEXTS[:-1]:  # transformers does not split all numbers into digits, as this vocabulary does
        assert foreign.tokenizer.encode(text) == reference(text, split_special_tokens=True)["input_ids"]
    tokens = torch.tensor([foreign.tokenizer.encode("".join(TEXTS[:2]))])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32).eval()(tokens).logits
        found = load_open(foreign).logits(tokens)
    assert (found - expected).abs().max() < 1e-4 * max(expected.abs().max().item() / 10, 1)


def test_it_answers_after_its_import(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes a directory that chats: the capital of France is Paris, and the answer ends."""
    from babyllm.generation import generate_ids
    from babyllm.generation.sampling import Sampling
    from babyllm.loading import load_chat_model

    run(["import", str(smollm2), str(tmp_path / "out"), "--dtype=bfloat16"])
    assert "try it: babyllm chat" in capsys.readouterr().out
    chat = load_chat_model(tmp_path / "out")
    assert chat.has_learned and not chat.missing
    prompt = chat.template.prompt([Message("user", "What is the capital of France?")])
    ids = list(generate_ids(chat.model, prompt, Sampling(temperature=0, max_new_tokens=32)))
    assert "Paris" in chat.tokenizer.decode(ids) and len(ids) < 32

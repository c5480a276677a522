"""Models written for other programs: what is in the folder, and that what is wrong is not written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import babyllm
from babyllm.__main__ import run
from babyllm.chat.load import load_template
from babyllm.errors import UserError
from babyllm.interop.directory import open_directory
from babyllm.interop.gguf.container import read_header
from babyllm.interop.gguf.convert import open_gguf
from babyllm.interop.huggingface import load_model, save_model
from babyllm.interop.open_model import load_open
from babyllm.interop.peft import save_adapter
from babyllm.loading import load
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.publishing.check import N_TOKENS, Reader, checked, go_on, logits_of, prompts
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def chat_model(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., ModelConfig], tokenizer: Tokenizer
) -> Path:
    """A directory with a model of random weights that chats; not to be changed."""
    directory = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    model = Transformer(tiny(max_seq_len=128))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    template = load_template("chatml", tokenizer)
    save_model(directory, model, tokenizer, chat_template=template.source, end_ids=template.end_ids)
    return directory


def test_a_16_bit_copy_is_sharded_and_read_by_transformers(
    chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of at most the size asked for, an index, the tokenizer with its template, a card; 64 tokens are equal."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "copy"
    run(["export", str(chat_model), str(out), "--shard_gb=0.00003", "--card.license=mit"])
    printed = capsys.readouterr().out
    assert "Hugging Face directory, bfloat16: logits differ from the source's by at most 0." in printed
    assert "transformers encodes texts to the same ids and writes the same 64 greedy tokens after 4 of 4" in printed
    shards = sorted(out.glob("model-*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert all(shard.stat().st_size < 30_000 + 2_000 for shard in shards)
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.dtype == torch.bfloat16
    source = load_model(chat_model)
    assert torch.equal(theirs.model.norm.weight, source.norm.weight.bfloat16())
    assert AutoTokenizer.from_pretrained(out).chat_template and "license: mit" in (out / "README.md").read_text()


def test_gguf_files_come_with_a_modelfile(chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file for each format, named after the folder; F32 holds the weights themselves; ollama gets a template."""
    out = tmp_path / "small"
    run(["export", str(chat_model), f"{out}/", "--gguf=[Q8_0, F32]", "--check=false"])
    assert f"ollama create NAME -f {out}/Modelfile" in capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == [
        *("Modelfile", "README.md", "small-F32.gguf", "small-Q8_0.gguf")
    ]
    exact, source = load_open(open_gguf(out / "small-F32.gguf")).state_dict(), load_model(chat_model).state_dict()
    assert all(torch.equal(exact[name], tensor) for name, tensor in source.items())
    text = (out / "Modelfile").read_text()
    assert text.startswith("FROM ./small-Q8_0.gguf\n") and '"<|im_end|>\\n<|im_start|>assistant\\n"' in text
    assert 'PARAMETER stop "<|im_end|>"' in text and 'PARAMETER stop "</s>"' in text
    assert read_header(out / "small-F32.gguf").metadata["general.name"] == "small"


def test_a_notebook_exports_and_imports(chat_model: Path, tmp_path: Path) -> None:
    """One call writes what another reads back: the same logits, template and ends."""
    findings = babyllm.export_model(chat_model, tmp_path / "out", gguf=["F32"], check=False)
    assert findings == ["out-F32.gguf: not checked"]
    again = babyllm.import_model(tmp_path / "out" / "out-F32.gguf", tmp_path / "again")
    model, source = babyllm.load(again)[0], babyllm.load(chat_model)[0]
    tokens = torch.arange(20)[None]
    assert torch.equal(model.logits(tokens), source.logits(tokens)) and model.end_ids == source.end_ids
    with pytest.raises(UserError, match="gguf"):
        babyllm.export_model(chat_model, tmp_path / "no", gguf=["Q4_K_M"])


def test_an_adapter_is_merged_into_its_base(chat_model: Path, tmp_path: Path) -> None:
    """The exported model of an adapter computes what base and adapter compute together."""
    from babyllm.model.adapt.lora import lora_layers

    model = add_lora(load_model(chat_model), LoraConfig(rank=2)).eval()
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(std=0.2)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", model, str(chat_model))
    run(["export", str(tmp_path / "adapter"), str(tmp_path / "merged"), "--dtype=float32", "--check=false"])
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(load(tmp_path / "merged")[0].logits(tokens), model.logits(tokens), rtol=0, atol=1e-4)


def test_nothing_is_left_of_an_export_that_cannot_be(
    tiny: Callable[..., ModelConfig], tmp_path: Path, tokenizer: Tokenizer, chat_model: Path
) -> None:
    """An existing target, a value too large for float16, and an odd template are refused in one line each."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(UserError, match="full: already exists; choose another directory"):
        run(["export", str(chat_model), str(tmp_path / "full")])
    (tmp_path / "large").mkdir()
    model = Transformer(tiny())
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    save_model(tmp_path / "large", model, tokenizer, chat_template="{{ messages | length }}")
    for flags, message in (
        (["--dtype=float16"], "'model.norm.weight' holds a value that is too large for float16"),
        (["--gguf=[F32]"], "leave it out with --modelfile=false"),
    ):
        with pytest.raises(UserError, match=message):
            run(["export", str(tmp_path / "large"), str(tmp_path / "out"), *flags])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "large"]


def test_a_program_that_reads_otherwise_is_noticed(chat_model: Path) -> None:
    """Other ids, other greedy tokens and other logits fail the check; two tokens as likely as each other do not."""
    exported = open_directory(chat_model)
    model = load_open(exported)
    asked = prompts(exported.tokenizer, 128)
    expected = logits_of(model, asked)

    def found(encode: Callable[[str], list[int]], answer: Callable[[list[int]], list[int]], kind: str = "F32") -> str:
        return "; ".join(checked(exported, kind, expected, asked, Reader("another", encode, answer)))

    def odd(ids: list[int]) -> list[int]:
        return [*go_on(model, ids)[:9], 7, *[0] * (N_TOKENS - 10)]

    encode = exported.tokenizer.encode
    assert "the same 64 greedy tokens after 4 of 4 prompts" in found(encode, lambda ids: go_on(model, ids))
    with pytest.raises(UserError, match=r"another encodes '今天天气很好，我们去' to \[\], not"):
        found(lambda text: [], odd)
    with pytest.raises(UserError, match="another continues otherwise after 9 of 64 greedy tokens, where the logits"):
        found(encode, odd)
    with pytest.raises(UserError, match="its logits differ from the source's by"):
        list(checked(exported, "F32", [one + 1 for one in expected], asked, None))
    no_choice = replace(exported, read=lambda name: exported.read(name) * (name != "lm_head.weight"))
    encode, expected = exported.tokenizer.encode, [torch.zeros_like(one) for one in expected]
    tied = "; ".join(checked(no_choice, "F32", expected, asked, Reader("another", encode, lambda ids: [9] * N_TOKENS)))
    assert "after 0 of 4 prompts; after the others two tokens were tied, within 0" in tied

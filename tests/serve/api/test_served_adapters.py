"""LoRA adapters that are served beside their base."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import Tiny, stirred
from serve_fixtures import CHAT, COMPLETE, Loaded, Server, asking, serving, talkative

from babyllm.chat.messages import USER, Message
from babyllm.commands.use.serve import Flags, run
from babyllm.errors import UserError
from babyllm.generation import Sampling, generate_ids, text_pieces
from babyllm.interop.huggingface import load_model, save_model
from babyllm.interop.peft import save_adapter
from babyllm.loading import load_chat_adapter, load_chat_model
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.adapt.token_rows import train_token_rows
from babyllm.serve.served_model import load_served_adapter, load_served_model
from babyllm.tokenizer import Tokenizer

CONFIGS = {"all": LoraConfig(rank=4), "some": LoraConfig(rank=2, alpha=30.0, targets=["q_proj", "down_proj"])}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, tokenizer: Tokenizer) -> dict[str, Path]:
    """Directories of a base and its adapters, one of which has rows of its own in the embedding."""
    folder = tmp_path_factory.mktemp("adapters")
    places = {name: folder / name for name in ("base", *CONFIGS, "rows", "other")}
    for name in places:
        places[name].mkdir()
    for name in ("base", "other"):
        model = talkative(tiny(max_seq_len=128, d_model=32 if name == "base" else 16))
        save_model(places[name], model, tokenizer)
        tokenizer.save(places[name])
    for seed, (name, config) in enumerate({**CONFIGS, "rows": LoraConfig(rank=3)}.items()):
        model = load_model(places["base"])
        if name == "rows":
            model = train_token_rows(model, {"embed_tokens": [tokenizer.special["<|im_end|>"], 70]})
        stirred(add_lora(model, config))
        torch.manual_seed(seed)
        save_adapter(places[name], model, str(places["base"]))
    return places


def load_all(places: dict[str, Path]) -> list[Loaded]:
    """The base and all its adapters."""
    base = str(places["base"])
    model, described = load_served_model(base, None, None)
    adapters = (*CONFIGS, "rows")
    return [(model, described), *(load_served_adapter(str(places[n]), n, model, base, described) for n in adapters)]


@pytest.fixture(scope="module")
def family(places: dict[str, Path]) -> Iterator[Server]:
    torch.set_num_threads(1)
    with serving(lambda: load_all(places)) as server:
        yield server


def test_each_adapter_answers_as_its_merged_model(family: Server, places: dict[str, Path]) -> None:
    """Token for token, in chats and completions, while others write beside it; all answers differ."""
    names, texts = ["base", *CONFIGS, "rows"], ["今天", "the model", "x", "天气"]
    expected: dict[tuple[str, str], tuple[str, str]] = {}
    for name in names:
        merged = load_chat_model(places[name])
        for text in texts:
            draws = Sampling(max_new_tokens=12, temperature=0)
            asked = merged.template.prompt([Message(USER, text)])
            begun = [merged.tokenizer.begin_id, *merged.tokenizer.encode(text)]
            answers = [
                list(generate_ids(merged.model, ids, draws, ends))
                for ids, ends in ((asked, merged.template.end_ids), (begun, ()))
            ]
            chat, plain = ("".join(text_pieces(merged.tokenizer, ids)) for ids in answers)
            expected[name, text] = chat, plain

    def ask(key: tuple[str, str]) -> tuple[str, str]:
        name, text = key
        chat = family.post(CHAT, asking(text, model=name))
        plain = family.post(COMPLETE, {"prompt": text, "model": name, "max_tokens": 12, "temperature": 0})
        assert chat.json()["model"] == name
        return chat.json()["choices"][0]["message"]["content"], plain.json()["choices"][0]["text"]

    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(expected, pool.map(ask, expected), strict=True))
    assert found == expected
    assert len({found[name, "今天"] for name in names}) == len(names)


def test_adapters_are_listed_with_their_base(family: Server) -> None:
    """A request that names none goes to the base."""
    listed = {one["id"]: one["parent"] for one in family.get("/v1/models").json()["data"]}
    assert listed == {"base": None, "all": "base", "some": "base", "rows": "base"}
    assert family.post(CHAT, asking("x")).json()["model"] == "base"
    with family.openai() as client:
        assert client.models.retrieve("some").id == "some"


def test_embeddings_are_those_of_the_adapter(family: Server, places: dict[str, Path]) -> None:
    """The mean of the merged model's hidden states."""
    merged = load_chat_model(places["rows"])
    ids = merged.tokenizer.encode("the model")
    with torch.no_grad():
        hidden: Any = merged.model(torch.tensor([[merged.tokenizer.begin_id, *ids]]), returns=("hidden",))["hidden"]
    asked = {"input": "the model", "model": "rows", "normalize": False}
    found = family.post("/v1/embeddings", asked).json()["data"][0]["embedding"]
    torch.testing.assert_close(torch.tensor(found), hidden[0, 1:].mean(0), atol=1e-4, rtol=1e-4)


def test_an_adapter_takes_little_memory_of_its_own(places: dict[str, Path]) -> None:
    """Its frozen weights are those of the base, before and after the base has been used."""
    (base, _), *adapters = load_all(places)
    generate_ids(base, [5], Sampling(max_new_tokens=1))
    storages = {weight.untyped_storage().data_ptr() for weight in base.parameters()}
    for model, described in adapters:
        own = {name for name, weight in model.named_parameters() if weight.untyped_storage().data_ptr() not in storages}
        assert all("lora_" in name or "rows" in name or "token_ids" in name for name in own), described.name


def test_what_is_no_adapter_of_the_base(places: dict[str, Path]) -> None:
    """A whole model, an adapter of another base and names that are taken are refused in one line."""
    base = load_chat_model(places["other"]).model
    with pytest.raises(UserError, match=r"some: was trained on .*base, not on .*other"):
        load_chat_adapter(places["some"], base, places["other"])
    with pytest.raises(UserError, match=r"other: holds a whole model"):
        load_chat_adapter(places["other"], base, places["other"])
    where = str(places["base"])
    for flags in (
        Flags(adapters={"base": str(places["some"])}),
        Flags(adapters={"a": str(places["some"])}, aliases="a"),
        Flags(adapters={"a": str(places["some"])}, int8=True),
    ):
        with pytest.raises(UserError, match="--adapters"):
            run(flags, where)

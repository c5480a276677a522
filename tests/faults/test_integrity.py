"""Damage to files: no flipped bit changes what is read in silence, and whole files are not read twice."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from model_fixtures import model_of, some_tokens, stirred, unread
from safetensors.torch import load_file, save_file
from training_fixtures import tiny_config, tiny_state

import babyllm
from babyllm import run_directory
from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import Supervise, load_template
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import open_pretraining_data
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.files import read_sealed_json, sha256, write_sealed_json
from babyllm.integrity import MEMORY, TICK_NS, Ids, examine
from babyllm.interop.held_base import hold_base
from babyllm.interop.huggingface import save_model
from babyllm.interop.peft import save_adapter
from babyllm.model.adapt.lora import LoraConfig, add_lora, merge_lora
from babyllm.model.config import ModelConfig
from babyllm.model.heads import transformer_of
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.prepare.vocabulary import learn_vocabulary
from babyllm.prepare.vocabulary_config import VocabularyConfig
from babyllm.runtime import Runtime
from babyllm.store.conversations import ConversationStore
from babyllm.store.corpus import open_corpus
from babyllm.store.shard_writer import ShardWriter
from babyllm.store.shards import MANIFEST, open_tokens
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from tests.support.disk_fixtures import store_corpus

Read = Callable[[Path], Any]


@pytest.fixture(params=[48, pytest.param(300, marks=pytest.mark.campaign)])
def n_flips(request: pytest.FixtureRequest) -> int:
    """How many bits are turned over."""
    n: int = request.param
    return n


@contextmanager
def flipped(file: Path, bit: int) -> Iterator[None]:
    """The file with one bit turned over."""
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(whole)


def settle() -> None:
    """Let the clock of the disk go on, so that what is read now may be remembered."""
    time.sleep(2 * TICK_NS / 1e9)


def read_corpus(directory: Path) -> Any:
    corpus = open_corpus(directory)
    return corpus.about, corpus.domains(), list(corpus.documents())


def read_tokens(directory: Path) -> Any:
    data = open_tokens(directory)
    streams = [data.stream("train"), data.stream("val")]
    return data.manifest, [stream.read(0, len(stream)).tolist() for stream in streams]


def make_store(directory: Path, tokenizer: Tokenizer) -> None:
    rng = random.Random(3)
    file = directory.parent / "chats.jsonl"
    lines = [{"instruction": "".join(rng.choices("今天气很好", k=5)), "output": "书" * i} for i in range(1, 40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    template = load_template("chatml", tokenizer)
    prepare_conversations(
        [file], directory, template, FormatConfig(), seq_len=96, supervise=Supervise(), work=WorkConfig(workers=1)
    )


def read_store(directory: Path) -> Any:
    store = ConversationStore.open(directory)
    return store.manifest, store.ids.tolist(), store.turns.tolist(), store.index.tolist()


def read_model(directory: Path) -> Any:
    model, tokenizer = babyllm.load(directory)
    weights = {name: tensor.tolist() for name, tensor in merge_lora(model).state_dict().items()}
    return model.config, weights, tokenizer.sha256, tokenizer.special, tokenizer.eos_id


def damage(directory: Path, read: Read, names: list[str], n_flips: int) -> int:
    """How many flips of a bit, each file of `names` in turn, change what is read without an error."""
    rng = random.Random(5)
    expected, silent = read(directory), 0
    for i in range(n_flips):
        file = directory / names[i % len(names)]
        with flipped(file, rng.randrange(8 * file.stat().st_size)):
            try:
                silent += read(directory) != expected
            except UserError as error:
                assert str(directory) in str(error), "the error names the place"
    assert read(directory) == expected
    return silent


def names_in(directory: Path, *without: str) -> list[str]:
    hidden = (".", "report", "rejected", *without)
    return sorted(file.name for file in directory.iterdir() if file.is_file() and not file.name.startswith(hidden))


def test_a_corpus_never_changes_in_silence(tmp_path: Path, n_flips: int, corpus: list[Document]) -> None:
    """No flipped bit of a corpus's files or its description changes a document or a count."""
    store_corpus(tmp_path, [corpus[:150], corpus[150:]])
    assert damage(tmp_path, read_corpus, names_in(tmp_path), n_flips) == 0


def test_pages_of_parquet_never_change_in_silence(tmp_path: Path, n_flips: int, corpus: list[Document]) -> None:
    """What goes bad in a corpus after it was found whole is noticed where its pages are read."""
    store_corpus(tmp_path, [corpus[:150], corpus[150:]])
    parts = open_corpus(tmp_path)
    assert damage(tmp_path, lambda _: list(parts.documents()), ["0.parquet", "1.parquet"], n_flips) == 0


def test_token_data_never_changes_in_silence(tmp_path: Path, n_flips: int, token_dir: Path) -> None:
    """No flipped bit of a shard or the manifest changes an id or a count."""
    shutil.copytree(token_dir, tmp_path, dirs_exist_ok=True)
    assert damage(tmp_path, read_tokens, names_in(tmp_path, "tokenizer"), n_flips) == 0


def test_a_store_never_changes_in_silence(tmp_path: Path, n_flips: int, tokenizer: Tokenizer) -> None:
    """No flipped bit of a store of conversations or its description changes an id or a turn."""
    make_store(tmp_path / "store", tokenizer)
    assert damage(tmp_path / "store", read_store, names_in(tmp_path / "store", "token", "chat"), n_flips) == 0


def test_a_step_never_changes_in_silence(tmp_path: Path, n_flips: int, data: Path, runtime: Runtime) -> None:
    """No flipped bit of a step directory changes the model or the tokenizer that is loaded from it."""
    state = tiny_state(tiny_config(data), runtime)
    checkpoint.save(state, tmp_path, Tokenizer.load(data), keep=1)
    step = run_directory.latest(tmp_path)
    assert step is not None
    assert damage(step, read_model, names_in(step, "optimizer"), n_flips) == 0


def test_an_adapter_never_changes_in_silence(tmp_path: Path, n_flips: int, data: Path, runtime: Runtime) -> None:
    """No flipped bit of an adapter's step directory changes the model that is loaded from it."""
    state = tiny_state(tiny_config(data), runtime)
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", state.model, Tokenizer.load(data))
    state.model = stirred(add_lora(babyllm.load(tmp_path / "base")[0], LoraConfig(rank=2)))
    checkpoint.save(state, tmp_path / "run", Tokenizer.load(data), keep=1)
    step = run_directory.latest(tmp_path / "run")
    assert step is not None
    assert damage(step, read_model, names_in(step, "optimizer"), n_flips) == 0


def test_a_held_base_never_changes_in_silence(tmp_path: Path, n_flips: int, data: Path, runtime: Runtime) -> None:
    """No flipped bit of the base that a run holds changes the model that is loaded by its adapter, or from it."""
    state, tokenizer = tiny_state(tiny_config(data), runtime), Tokenizer.load(data)
    (tmp_path / "mine").mkdir()
    save_model(tmp_path / "mine", state.model, tokenizer)
    hold_base(tmp_path / "run", tmp_path / "mine", unread(transformer_of(state.model)), tokenizer)
    base = tmp_path / "run" / "base"
    state.model = stirred(add_lora(babyllm.load(base)[0], LoraConfig(rank=2)))
    checkpoint.save(state, tmp_path / "run", tokenizer, keep=1)
    assert damage(base, lambda _: read_model(tmp_path / "run"), names_in(base), n_flips) == 0
    assert damage(base, read_model, names_in(base), n_flips) == 0


@pytest.mark.parametrize("kind", ["tokens", "training"])
def test_a_tokenizer_never_changes_in_silence(
    tmp_path: Path, n_flips: int, token_dir: Path, tokenizer: Tokenizer, kind: str
) -> None:
    """No flipped bit of a tokenizer beside token data, or where it was trained, makes it another one in silence."""
    place = tmp_path / "place"
    if kind == "tokens":
        shutil.copytree(token_dir, place)
    else:
        words = "".join(json.dumps({"text": f"今天 the model {i}"}) + "\n" for i in range(50))
        (tmp_path / "words.jsonl").write_text(words, encoding="utf-8")
        learn_vocabulary([tmp_path / "words.jsonl"], place, VocabularyConfig(vocab_size=300), work=WorkConfig(1))
    assert damage(place, lambda path: Tokenizer.load(path).sha256, ["tokenizer.model"], n_flips) == 0
    elsewhere = tmp_path / "elsewhere"
    Tokenizer.load(place).save(elsewhere)
    assert Tokenizer.load(place / "tokenizer.json").vocab_size == Tokenizer.load(elsewhere).vocab_size


def test_a_damaged_record_of_a_step_is_told(tmp_path: Path, data: Path, runtime: Runtime) -> None:
    """Loading a model whose resume.json is damaged says so; a copy of its files without one loads."""
    checkpoint.save(tiny_state(tiny_config(data), runtime), tmp_path, Tokenizer.load(data), keep=1)
    step = tmp_path / "step_00000000"
    (step / "generation_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"generation_config\.json: is missing or not as it was saved"):
        babyllm.load(tmp_path)
    (step / "resume.json").write_text("{}")
    with pytest.raises(UserError, match=r"resume\.json: is damaged .*; use another step"):
        babyllm.load(tmp_path)
    (step / "resume.json").unlink()
    babyllm.load(step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, tiny: Callable[..., ModelConfig], tokenizer: Tokenizer, dtype: torch.dtype, value: float
) -> None:
    """A weight of a model or an adapter that is NaN or infinite is an error which names the tensor."""
    save_model(tmp_path, model_of(tiny()), tokenizer)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_adapter(adapter, stirred(add_lora(model_of(tiny()), LoraConfig(rank=2))), str(tmp_path))
    assert babyllm.load(adapter)[0].logits(some_tokens(tiny())).isfinite().all()
    for folder, file, part in ((adapter, "adapter_model", "lora_B"), (tmp_path, "model", "down_proj")):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / f"{file}.safetensors").items()}
        name = next(name for name in tensors if part in name)
        tensors[name].view(-1)[-1] = value
        save_file(tensors, folder / f"{file}.safetensors")
        with pytest.raises(UserError, match=rf"{file}\.safetensors: tensor '{name}' holds NaN or infinity"):
            babyllm.load(folder)


def test_ids_outside_the_vocabulary_are_told(tmp_path: Path) -> None:
    """A shard with an id that the vocabulary does not have is named with it when the data is opened."""
    writer = ShardWriter(tmp_path, 100, 2, "abc")
    writer.append(np.array([5, 100, 2]), np.array([[3, 9]]), "web", "train")
    writer.finish()
    with pytest.raises(UserError, match=r"web-train-00000\.bin: holds id 100, outside the vocabulary of 100"):
        open_tokens(tmp_path)


def test_a_run_does_not_begin_on_damaged_shards(tmp_path: Path, data: Path, runtime: Runtime) -> None:
    """Rank 0 compares the shards before a run begins; other ranks leave that to it."""
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    config = DataConfig(path=str(tmp_path), seq_len=16)
    with flipped(next(tmp_path.glob("*.bin")), 4):
        with pytest.raises(UserError, match="its sha256"):
            open_pretraining_data(config, runtime=runtime)
        open_pretraining_data(config, runtime=replace(runtime, rank=1))


def test_whole_files_are_read_once(tmp_path: Path, token_dir: Path) -> None:
    """What was found is remembered beside the files, and read again for `verify` or when a file changed."""
    shutil.copytree(token_dir, tmp_path, dirs_exist_ok=True)
    settle()
    open_tokens(tmp_path)
    memory = read_sealed_json(tmp_path / MEMORY)
    assert sorted(memory["files"]) == sorted(file.name for file in tmp_path.glob("*.bin"))
    name = next(iter(memory["files"]))
    memory["files"][name][1]["sha256"] = "something else"
    write_sealed_json(tmp_path / MEMORY, memory)
    with pytest.raises(UserError, match=rf"{name}: its sha256"):
        open_tokens(tmp_path)  # only what is remembered is wrong
    open_tokens(tmp_path, verify=True)
    open_tokens(tmp_path)
    write_sealed_json(tmp_path / MEMORY, memory)
    os.utime(tmp_path / name)
    open_tokens(tmp_path)


def test_a_copy_is_read_again(tmp_path: Path, token_dir: Path) -> None:
    """What is remembered of a directory is not believed of its copy, whose times may be the same."""
    shutil.copytree(token_dir, tmp_path / "data")
    settle()
    open_tokens(tmp_path / "data")
    assert (tmp_path / "data" / MEMORY).is_file()
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    file = next((tmp_path / "copy").glob("*.bin"))
    times = file.stat()
    with flipped(file, 0):
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        settle()
        with pytest.raises(UserError, match=rf"{file.name}: its sha256"):
            open_tokens(tmp_path / "copy")


@pytest.mark.parametrize("in_the_way", [False, True])
def test_files_are_checked_without_a_memory(tmp_path: Path, token_dir: Path, in_the_way: bool) -> None:
    """Where nothing can be remembered, or what is remembered is damaged, files are read each time, without a word."""
    shutil.copytree(token_dir, tmp_path, dirs_exist_ok=True)
    memory = tmp_path / MEMORY
    memory.unlink(missing_ok=True)
    memory.mkdir() if in_the_way else memory.write_text('{"files": {"a": 1}}')
    settle()
    open_tokens(tmp_path)
    with flipped(next(tmp_path.glob("*.bin")), 3), pytest.raises(UserError, match="its sha256"):
        open_tokens(tmp_path)


def test_several_large_files_are_read_whole(tmp_path: Path) -> None:
    """Digests and largest ids are those of whole files, whatever their length and however many there are."""
    rng = np.random.default_rng(0)
    for i, n in enumerate((0, 1, (1 << 21) - 1, 1 << 21, (1 << 21) + 1, 5_000_000)):
        rng.integers(0, 1000 + i, n, np.uint16).tofile(tmp_path / f"{i}.bin")
    found = examine(tmp_path, {f"{i}.bin": Ids("<u2") for i in range(6)})
    for name, finding in found.items():
        ids = np.fromfile(tmp_path / name, np.uint16)
        assert finding.largest == (ids.max() if len(ids) else -1)
        assert finding.sha256 == sha256(tmp_path / name)


def test_descriptions_without_a_digest_open(tmp_path: Path, token_dir: Path, corpus: list[Document]) -> None:
    """Manifests and corpora that other tools or earlier versions wrote, without digests, are read as they are."""
    shutil.copytree(token_dir, tmp_path / "tokens")
    store_corpus(tmp_path, [corpus[:150], corpus[150:]])
    expected = read_tokens(tmp_path / "tokens"), read_corpus(tmp_path)
    for file in (tmp_path / "tokens" / MANIFEST, tmp_path / "corpus.json"):
        value = json.loads(file.read_text(encoding="utf-8"))
        del value["sha256"]
        for part in value.get("parts", []):
            del part["sha256"]
        file.write_text(json.dumps(value), encoding="utf-8")
    assert (read_tokens(tmp_path / "tokens"), read_corpus(tmp_path)) == expected


def test_a_damaged_page_of_a_table_is_rejected(tmp_path: Path) -> None:
    """In a Parquet file of a user a page that is not what its checksum says costs its row group, and is counted."""
    schema = pa.schema([("text", pa.string())])
    texts = [f"document number {i}, of some length" for i in range(300)]
    file = tmp_path / "a.parquet"
    with pq.ParquetWriter(file, schema, compression="none", write_page_checksum=True) as table:
        for first in range(0, 300, 100):
            table.write_table(pa.table([texts[first : first + 100]], schema=schema))

    def records() -> list[Any]:
        found = find_partitions([file], ReadConfig(), 1 << 20)
        return [record for partition in found for record in read_partition(partition, ReadConfig())]

    assert [record.text for record in records()] == texts
    with flipped(file, 8 * file.read_bytes().index(b"number 150")):
        found = records()
    (lost,) = [record for record in found if isinstance(record, Rejected)]
    assert "damaged: the rest of this row group is lost" in lost.reason
    assert [record.text for record in found if isinstance(record, Document)] == texts[:100] + texts[200:]

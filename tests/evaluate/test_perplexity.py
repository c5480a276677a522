"""Held-out loss and bits per byte against sums made document by document."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from babyllm.documents import Document, is_held_out
from babyllm.evaluate import perplexity
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.prepare.encode import write_tokens
from babyllm.runtime import Runtime
from babyllm.store.shard_writer import ShardWriter
from babyllm.store.shards import TokenData, open_tokens
from babyllm.tokenizer import Tokenizer

Tiny = Callable[..., ModelConfig]


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=400, n_layers=2, d_model=32, n_heads=4, max_seq_len=128)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def data(token_dir: Path) -> TokenData:
    return open_tokens(token_dir)


def nats_of(model: Transformer, ids: list[int], eos_id: int) -> float:
    """What a document costs, read whole after an <eos>, its own <eos> included."""
    row = torch.tensor([eos_id, *ids, eos_id])
    logits = model.logits(row[None, :-1])[0].double()
    return float(F.cross_entropy(logits, row[1:], reduction="sum"))


def test_equals_a_sum_document_by_document(
    model: Transformer, data: TokenData, corpus: list[Document], tokenizer: Tokenizer, runtime: Runtime
) -> None:
    """Loss is nats per token and bits per byte is over the text's UTF-8 bytes, for each domain and for all."""
    result = perplexity(model, data, runtime, seq_len=128, token_bytes=tokenizer.byte_lengths())
    held_out = [d for d in corpus if is_held_out(d.text, 0.1)]
    for name, domains in {"news": {"news"}, "reviews": {"reviews"}, "all": {"news", "reviews"}}.items():
        texts = [d.text for d in held_out if d.domain in domains]
        ids = [tokenizer.encode(text) for text in texts]
        nats = sum(nats_of(model, document, tokenizer.eos_id) for document in ids)
        assert result[f"{name}/loss"] == pytest.approx(nats / sum(len(d) + 1 for d in ids), rel=1e-6)
        n_bytes = sum(len(text.encode()) for text in texts)
        assert result[f"{name}/bpb"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)
    assert len(result) == 6


@pytest.mark.parametrize("batch_tokens", [1, 100, 1000])
def test_does_not_depend_on_the_batch(
    model: Transformer, data: TokenData, tokenizer: Tokenizer, runtime: Runtime, batch_tokens: int
) -> None:
    """Rows that share a forward pass, and their padding, do not change the result."""
    token_bytes = tokenizer.byte_lengths()
    whole = perplexity(model, data, runtime, seq_len=24, token_bytes=token_bytes)
    parts = perplexity(model, data, runtime, seq_len=24, token_bytes=token_bytes, batch_tokens=batch_tokens)
    assert parts == pytest.approx(whole, rel=1e-6)


def long_documents(directory: Path, lengths: Sequence[int]) -> tuple[TokenData, list[list[int]]]:
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 400, n).tolist() for n in lengths]
    writer = ShardWriter(directory, 400, 2, "")
    writer.add([5], "text", "train", 1)
    for ids in documents:
        writer.add(ids, "text", "val", len(ids))
    writer.finish()
    return open_tokens(directory), documents


@pytest.mark.parametrize("seq_len", [1, 2, 7, 8, 16])
def test_long_documents_are_read_in_rows_that_overlap_by_half(
    tmp_path: Path, model: Transformer, runtime: Runtime, seq_len: int
) -> None:
    """Each token is scored once; after the first row, with at least half a row before it and never more than one."""
    data, documents = long_documents(tmp_path, [0, 1, 6, 7, 8, 9, 15, 16, 17, 40])
    result = perplexity(model, data, runtime, seq_len=seq_len)
    nats, n_tokens, step = 0.0, 0, seq_len - seq_len // 2
    for document in documents:
        ids = [2, *document, 2]
        for target in range(1, len(ids)):
            row = max(0, math.ceil((target - seq_len) / step))  # the first row that reaches this target
            before = ids[row * step : target]
            assert len(before) <= seq_len and (row == 0 or len(before) > seq_len // 2)
            log_probs = model.logits(torch.tensor([before]))[0, -1].double().log_softmax(-1)
            nats, n_tokens = nats - float(log_probs[ids[target]]), n_tokens + 1
    assert result["text/loss"] == pytest.approx(nats / n_tokens, rel=1e-6)
    assert result["all/loss"] == result["text/loss"]


def test_a_model_that_knows_nothing(data: TokenData, tokenizer: Tokenizer, tiny: Tiny, runtime: Runtime) -> None:
    """Equal chances for every token cost ln V nats each, and the bytes are those of the manifest."""
    model = Transformer(tiny())
    torch.nn.init.zeros_(model.lm_head.weight)
    result = perplexity(model, data, runtime, seq_len=16, token_bytes=tokenizer.byte_lengths())
    for domain in data.domains("val"):
        tokens = len(data.stream("val", domain))
        assert result[f"{domain}/loss"] == pytest.approx(math.log(400))
        bits = tokens * math.log2(400) / data.text_bytes("val", domain)
        assert result[f"{domain}/bpb"] == pytest.approx(bits)
    assert model.training, "the model is in the mode it was in"


def test_bytes_are_counted_or_known(
    tmp_path: Path, model: Transformer, data: TokenData, tokenizer: Tokenizer, runtime: Runtime
) -> None:
    """The bytes of whole domains are known without a tokenizer; bits per byte are left out where they are not."""
    counted = perplexity(model, data, runtime, seq_len=64, token_bytes=tokenizer.byte_lengths())
    assert perplexity(model, data, runtime, seq_len=64) == pytest.approx(counted)
    writer = ShardWriter(tmp_path, 400, 2, "")
    for domain, split in (("a", "train"), ("a", "val"), ("b", "val"), ("b", "val")):
        writer.add([5, 6, 7], domain, split, 3)  # type: ignore[arg-type]
    writer.finish()
    partly = perplexity(model, open_tokens(tmp_path), runtime, seq_len=64, max_tokens=4)
    assert partly.keys() == {"a/loss", "a/bpb", "b/loss", "all/loss"}


def test_max_tokens_reads_whole_documents_from_the_start(tmp_path: Path, model: Transformer, runtime: Runtime) -> None:
    """Documents are read until the limit is reached, the one that reaches it to its end."""
    data, documents = long_documents(tmp_path, [10, 5, 8, 30])
    nats = [nats_of(model, ids, 2) for ids in documents]
    sizes = [len(ids) + 1 for ids in documents]
    for limit, n in ((1, 1), (11, 1), (12, 2), (17, 2), (18, 3), (26, 3), (27, 4), (1000, 4), (None, 4)):
        result = perplexity(model, data, runtime, seq_len=128, max_tokens=limit)
        assert result["text/loss"] == pytest.approx(sum(nats[:n]) / sum(sizes[:n]), rel=1e-6), limit


def test_nothing_to_read_gives_nothing(
    tmp_path: Path, model: Transformer, data: TokenData, tokenizer: Tokenizer, runtime: Runtime
) -> None:
    """Without held-out documents, or when none is asked for, there is no result rather than 0 or NaN."""
    write_tokens([Document("今天")], tokenizer, tmp_path, held_out=0.0)
    assert perplexity(model, open_tokens(tmp_path), runtime, seq_len=16) == {}
    assert perplexity(model, data, runtime, seq_len=16, max_tokens=0) == {}


def test_a_stream_without_a_last_eos(tmp_path: Path, model: Transformer, runtime: Runtime) -> None:
    """What stands after the last <eos> of a foreign file is a document as well."""
    ids = [5, 6, 2, 7, 8, 9]
    for name in ("train", "val"):
        np.array(ids, "<u2").tofile(tmp_path / f"{name}.bin")
    result = perplexity(model, open_tokens(tmp_path, vocab_size=400), runtime, seq_len=16)
    last = model.logits(torch.tensor([[2, 7, 8]]))[0].double()
    nats = nats_of(model, [5, 6], 2) + float(F.cross_entropy(last, torch.tensor([7, 8, 9]), reduction="sum"))
    assert result["text/loss"] == pytest.approx(nats / 6, rel=1e-6)


class OneOfTwo(Runtime):
    """A rank of two that keeps its own sums instead of adding the other's."""

    def sum(self, values: Sequence[float]) -> list[float]:
        self.sums = [*getattr(self, "sums", []), *values]
        return [1.0] * len(values)


def test_ranks_share_the_rows(model: Transformer, data: TokenData, tokenizer: Tokenizer, runtime: Runtime) -> None:
    """Both ranks' sums together are those of one process, and each reads a part."""
    options = {"seq_len": 16, "token_bytes": tokenizer.byte_lengths(), "batch_tokens": 256}
    ranks = [OneOfTwo(**{**vars(runtime), "world_size": 2, "rank": rank}) for rank in (0, 1)]
    for rank in ranks:
        perplexity(model, data, rank, **options)  # type: ignore[arg-type]
    alone = OneOfTwo(**vars(replace(runtime)))
    perplexity(model, data, alone, **options)  # type: ignore[arg-type]
    assert [a + b for a, b in zip(ranks[0].sums, ranks[1].sums, strict=True)] == pytest.approx(alone.sums, rel=1e-6)
    assert all(min(rank.sums) > 0 for rank in ranks)

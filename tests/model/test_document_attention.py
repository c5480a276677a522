"""Attention within the documents of packed rows."""

from typing import Any

import pytest
import torch
from model_fixtures import Tiny, model_of
from torch import Tensor

from babyllm.model.attention import attention_form, causal_attention, plain_attention, set_attention
from babyllm.model.document_attention import Spans, attend_by_document, block_mask, seen_in, seen_in_part
from babyllm.parallel.forms import PACKED, choose_forms
from babyllm.runtime import Runtime

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LENGTHS = [[1, 130, 69, 100], [300], [256, 44], [128, 1, 1, 170]]  # of documents; the last is padding
T, H, K, W = 300, 4, 2, 16
PARTS = range(50, 100), range(200, 250)  # those of the second of three ranks


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the computation under test runs."""
    return torch.device(request.param)


def numbered(lengths: list[list[int]]) -> Tensor:
    """The numbers of documents (B, T), from 0, and -1 for the last one of each row."""
    rows = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]
    return torch.stack([row.masked_fill(row == row.max(), -1) for row in rows])


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(len(LENGTHS), heads, T, W, generator=generator) for heads in (H, K, K, H)]


def each_alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula, applied to one document at a time."""
    rows = []
    for row, lengths in enumerate(LENGTHS):
        parts = zip(*(torch.split(x[row : row + 1], lengths, dim=2) for x in (q, k, v)), strict=True)
        rows.append(torch.cat([plain_attention(*part) for part in parts], dim=2))
    return torch.cat(rows)


def results(attend: object, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The values and the gradients of queries, keys and values, on the CPU in float32."""
    q, k, v, gradient = (x.to(device, dtype) for x in inputs())
    leaves = [x.requires_grad_() for x in (q, k, v)]
    attended = attend(*leaves)  # type: ignore[operator]
    return [x.detach().float().cpu() for x in (attended, *torch.autograd.grad(attended, leaves, gradient))]


@pytest.mark.parametrize("by_document", [False, True])
def test_a_document_sees_itself_alone(device: torch.device, by_document: bool) -> None:
    """Values and gradients are those of the formula for each document by itself; in 16 bits on a GPU nearly."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    seen = seen_in(numbered(LENGTHS).to(device), dtype, W, by_document=by_document)
    assert isinstance(seen, Tensor) != by_document
    found = results(lambda q, k, v: causal_attention(q, k, v, seen, "documents"), device, dtype)
    expected = results(each_alone, torch.device("cpu"), torch.float32)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-5 if dtype is torch.float32 else 0.05)


@pytest.mark.parametrize("form", ["mask", "documents", "row"])
def test_a_part_of_a_row_sees_what_it_sees_in_the_row(
    device: torch.device, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries of two parts of a row have the values and gradients that the formula has at their places."""
    monkeypatch.setattr("babyllm.model.document_attention._LATE", 48)  # so that the parts are long
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    places = torch.cat([torch.arange(part.start, part.stop) for part in PARTS])
    if form == "row":
        seen: Any = seen_in_part(T, PARTS, dtype, device)
    else:
        seen = seen_in(numbered(LENGTHS).to(device), dtype, W, by_document=form == "documents", parts=PARTS)
    assert isinstance(seen, Tensor) == (form == "mask")
    whole = plain_attention if form == "row" else each_alone
    here = places.to(device)
    found = results(lambda q, k, v: _put(causal_attention(q[:, :, here], k, v, seen, "fused"), here), device, dtype)
    expected = results(lambda q, k, v: _put(whole(q, k, v)[:, :, places], places), torch.device("cpu"), torch.float32)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-5 if dtype is torch.float32 else 0.05)


def _put(attended: Tensor, places: Tensor) -> Tensor:
    """The values (B, H, Q, W) at their places of a row, with zeros elsewhere."""
    return attended.new_zeros(*attended.shape[:2], T, W).index_copy(2, places, attended)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_blocks_hold_all_that_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that a GPU leaves out are not seen, those it reads whole are seen whole, and the rest is masked."""
    documents = numbered(LENGTHS)
    mask = seen_in(documents, torch.float32, W, by_document=False)
    assert isinstance(mask, Tensor)
    blocks = block_mask(documents)
    n = -(-T // 128)
    padded = torch.zeros(len(LENGTHS), n * 128, n * 128, dtype=torch.bool)
    padded[:, :T, :T] = mask[:, 0]
    by_block = padded.view(len(LENGTHS), n, 128, n, 128).transpose(2, 3)
    listed = blocks.to_dense()[:, 0].bool()
    assert torch.equal(by_block.flatten(3).any(-1) & listed, by_block.flatten(3).any(-1))
    assert not torch.equal(listed, torch.ones(n, n, dtype=torch.bool).tril().expand_as(listed))  # some are left out
    assert blocks.full_kv_num_blocks is not None and blocks.full_kv_indices is not None
    for row, query in [(row, query) for row in range(len(LENGTHS)) for query in range(n)]:
        whole = blocks.full_kv_indices[row, 0, query, : int(blocks.full_kv_num_blocks[row, 0, query])]
        assert all(by_block[row, query, key][: T - 128 * query].all() for key in whole)
    assert int(blocks.full_kv_num_blocks.sum()) > 0
    monkeypatch.setattr("babyllm.model.document_attention._flex", torch.nn.attention.flex_attention.flex_attention)
    q, k, v, _ = inputs()
    torch.testing.assert_close(attend_by_document(q, k, v, blocks), each_alone(q, k, v), rtol=0, atol=2e-5)
    places = torch.cat([torch.arange(part.start, part.stop) for part in PARTS])
    of_parts = attend_by_document(q[:, :, places], k, v, block_mask(documents, PARTS))
    torch.testing.assert_close(of_parts, each_alone(q, k, v)[:, :, places], rtol=0, atol=2e-5)


def test_a_number_that_comes_again_is_one_document() -> None:
    """Tokens with one number see each other across others between them, in every form."""
    documents = torch.tensor([[0, 0, 1, 1, 0]])
    assert isinstance(seen_in(documents[:, :4], torch.float32, W, by_document=True), Spans)
    seen = seen_in(documents, torch.float32, W, by_document=True)
    assert isinstance(seen, Tensor) and seen[0, 0, 4].tolist() == [True, True, False, False, True]


def test_a_model_computes_the_same_by_document(tiny: Tiny, runtime: Runtime) -> None:
    """Losses and gradients are those with a mask; long packed rows take the form by themselves, others do not."""
    model = model_of(tiny()).train()
    tokens, targets = torch.randint(0, 400, (2, 2, 48), generator=torch.Generator().manual_seed(1))
    documents = torch.arange(48).expand(2, 48) // 13
    found = []
    for seq_len, is_packed, form in ((PACKED, False, "fused"), (PACKED, True, "documents")):
        set_attention(model, "fused")
        runtime.attention = "auto" if is_packed else "fused"
        choose_forms(model, runtime, seq_len, is_packed=is_packed)
        assert attention_form(model) == form
        model.zero_grad()
        losses = model(tokens, targets, torch.arange(48).expand(2, 48) % 13, documents)
        losses.sum().backward()
        found.append([losses.detach(), *(weight.grad.clone() for weight in model.parameters())])
    choose_forms(model, runtime, PACKED - 1, is_packed=True)
    assert attention_form(model) != "documents"
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)

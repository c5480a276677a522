"""Curricula of conversations: easy rows first, then the ordinary order in its length buckets."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conversations_fixtures import SEQ_LEN
from training_fixtures import CPU

from babyllm.data.conversation_config import ConversationConfig
from babyllm.data.conversation_data import ConversationData, make_loader
from babyllm.data.difficulty.gram_rarity import rarity
from babyllm.data.difficulty.text_lengths import text_lengths
from babyllm.data.loader import Loader
from babyllm.data.row_config import CompetenceConfig
from babyllm.errors import UserError
from babyllm.evaluate.row_losses import row_losses
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime, start
from babyllm.schedule import Plan
from babyllm.store.conversations import ConversationStore
from babyllm.tokenizer import Tokenizer

BATCH, STEPS = 4, 40


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with start(CPU) as started:
        yield started


def data_of(store: ConversationStore, is_packed: bool = False) -> ConversationData:
    return ConversationData(store, None, "token", is_packed, 1)


def loader_of(
    data: ConversationData, runtime: Runtime, tokenizer: Tokenizer | None = None, **curriculum: Any
) -> Loader:
    settings = CompetenceConfig(**curriculum)
    config = ConversationConfig(seq_len=SEQ_LEN, global_batch=BATCH, micro_batch=2, curriculum=settings)
    model = ModelOptions(n_layers=1, d_model=8, n_heads=1).build(400, SEQ_LEN)
    return make_loader(config, data, model, runtime, Plan(steps=STEPS), tokenizer)[0]


def steps_of(loader: Loader, n: int) -> list[list[tuple[int, ...]]]:
    """For each step, the ids of each row without its padding."""
    found = [
        [
            tuple(row[:length].tolist())
            for batch in next(loader)
            for row, length in zip(batch["tokens"], batch["lengths"].tolist(), strict=True)
        ]
        for _ in range(n)
    ]
    loader.close()
    return found


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_competence_of_1_is_the_ordinary_order(store: ConversationStore, runtime: Runtime, is_packed: bool) -> None:
    """With start=1 the steps of fine-tuning are those without a curriculum, in the same length buckets."""
    data = data_of(store, is_packed)
    assert steps_of(loader_of(data, runtime, by="unigram", start=1.0), STEPS) == steps_of(
        loader_of(data, runtime), STEPS
    )


@pytest.mark.parametrize("by", ["length", "unigram", "random", "sources", "pos", "column"])
def test_hard_conversations_come_late(
    store: ConversationStore, runtime: Runtime, tokenizer: Tokenizer, tmp_path: Path, by: str
) -> None:
    """No row of an early step is harder than the competence, and after the curriculum the epoch goes on."""
    data = data_of(store)
    rows = data.rows(SEQ_LEN)
    extra: dict[str, Any] = {}
    if by == "sources":
        extra["sources"] = store.tasks_of("train")[::-1]
    if by == "pos":
        pytest.importorskip("jieba")
    if by == "column":
        np.save(tmp_path / "given.npy", np.arange(len(rows))[::-1])
        extra["column"] = str(tmp_path / "given.npy")
    loader = loader_of(data, runtime, tokenizer, by=by, start=0.2, until=20, **extra)
    allowed = [loader.metrics()["competence_rows"]]
    early: list[list[tuple[int, ...]]] = []
    for _ in range(20):
        early += steps_of(loader, 1)
        allowed.append(loader.metrics()["competence_rows"])
    assert allowed == sorted(allowed) and BATCH <= allowed[0] < len(rows) == allowed[-1]
    measures = {
        "length": lambda: text_lengths(rows),
        "unigram": lambda: rarity(rows, 1, 400),
        "column": lambda: np.arange(len(rows))[::-1],
        "sources": lambda: np.array([-store.tasks_of("train").index(store.tasks[c]) for c in _channels(store)]),
    }
    if by in measures:
        difficulty = measures[by]()
        ids = rows.rows(np.arange(len(rows)))
        of_row: dict[tuple[int, ...], float] = {}
        for tokens, length, value in zip(ids["tokens"], rows.lengths(np.arange(len(rows))), difficulty, strict=True):
            key = tuple(tokens[:length].tolist())
            of_row[key] = min(of_row.get(key, np.inf), float(value))
        ordered = np.sort(difficulty)
        for step, found in enumerate(early):
            assert max(of_row[row] for row in found) <= ordered[int(allowed[step]) - 1]
    late = [row for step in steps_of(loader, 20) for row in step]
    assert len(late) == 20 * BATCH


def _channels(store: ConversationStore) -> Any:
    return store.channels(np.array(store.span("train")))


def test_packed_rows_have_the_mean_length_of_their_conversations(store: ConversationStore) -> None:
    """Each token of a packed row counts the length of its conversation."""
    data = data_of(store, is_packed=True)
    rows = data.rows(SEQ_LEN)
    arrays = rows.rows(np.arange(len(rows)))
    for row, found in enumerate(text_lengths(rows)):
        sizes = np.unique(arrays["documents"][row][arrays["documents"][row] >= 0], return_counts=True)[1]
        assert found == pytest.approx((sizes**2).sum() / sizes.sum())


def test_a_curriculum_beside_a_mixture_of_tasks_is_refused(store: ConversationStore, runtime: Runtime) -> None:
    """The message names both keys."""
    config = ConversationConfig(
        seq_len=SEQ_LEN, curriculum=CompetenceConfig(by="length"), mix={store.tasks_of("train")[0]: 1.0}
    )
    model = ModelOptions(n_layers=1, d_model=8, n_heads=1).build(400, SEQ_LEN)
    with pytest.raises(UserError, match=r"data\.curriculum\.by: cannot be combined with data\.mix"):
        make_loader(config, data_of(store), model, runtime, Plan(steps=STEPS))


def test_rows_are_scored_by_the_mean_loss_of_their_answers(
    store: ConversationStore, runtime: Runtime, tiny: Callable[..., ModelConfig]
) -> None:
    """A conversation has the same mean loss padded among others and alone; a packed row has that of its answers."""
    torch.manual_seed(1)
    model = Transformer(tiny(max_seq_len=SEQ_LEN)).eval()
    rows = data_of(store).rows(SEQ_LEN)
    found = row_losses(model, rows, runtime, SEQ_LEN, in_documents=False)
    sums: dict[tuple[int, ...], tuple[float, int]] = {}
    for i in range(0, len(rows)):
        arrays, length = rows.rows(np.array([i])), int(rows.lengths(np.array([i]))[0])
        tokens, targets = (torch.from_numpy(arrays[name][:, :length]) for name in ("tokens", "targets"))
        with torch.no_grad():
            total = model(tokens, targets).sum().item()
        n_targets = int((targets != IGNORE).sum())
        sums[tuple(tokens[0].tolist())] = total, n_targets
        assert found[i].item() == pytest.approx(total / n_targets, rel=1e-4)
    packed = data_of(store, is_packed=True).rows(SEQ_LEN)
    of_packs = row_losses(model, packed, runtime, SEQ_LEN, in_documents=True)
    arrays = packed.rows(np.arange(len(packed)))
    for i in range(len(packed)):
        documents = arrays["documents"][i]
        members = [tuple(arrays["tokens"][i][documents == d].tolist()) for d in range(documents.max() + 1)]
        wanted = sum(sums[m][0] for m in members) / sum(sums[m][1] for m in members)
        assert of_packs[i].item() == pytest.approx(wanted, rel=1e-4)

"""Embeddings: mean hidden states with transformers as the judge, and vectors from files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_fixtures import some_conversations, talk
from model_fixtures import Tiny, decisive

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import Conversation, Message
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.selection.scorers.mean_hidden import MeanHidden
from babyllm.selection.scorers.vector_files import VectorFile
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def chatml(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="module")
def model(tiny: Tiny, chatml: ChatTemplate) -> Transformer:
    return decisive(tiny(vocab_size=chatml.tokenizer.vocab_size, max_seq_len=256))


def test_vectors_equal_those_of_transformers(model: Transformer, chatml: ChatTemplate, tmp_path: Path) -> None:
    """They are means of transformers' last hidden states over the prompt, the answers or both."""
    from transformers import AutoModelForCausalLM

    save_model(tmp_path, model, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    conversations = some_conversations()[::4]
    found = {part: MeanHidden(model, chatml, part).score(conversations) for part in ("prompt", "answer", "both")}
    for i, conversation in enumerate(conversations):
        rendered = chatml.render(conversation.messages)
        end = int(np.flatnonzero(rendered.turns)[-1]) + 1
        with torch.no_grad():
            states = theirs(torch.tensor([rendered.ids[:end].tolist()]), output_hidden_states=True).hidden_states[-1][0]
        is_answer = torch.from_numpy(rendered.turns[:end] > 0)
        for part, mask in (("prompt", ~is_answer), ("answer", is_answer), ("both", is_answer | ~is_answer)):
            vectors = found[part].vectors
            assert vectors is not None and vectors.dtype == np.float32
            np.testing.assert_allclose(vectors[i], states[mask].mean(0).numpy(), atol=1e-5)


def test_what_has_no_vector_has_a_reason(tiny: Tiny, chatml: ChatTemplate) -> None:
    """Too long a prompt and a missing answer are NaN; a long answer does not matter to the prompt's vector."""
    short = decisive(tiny(vocab_size=chatml.tokenizer.vocab_size, max_seq_len=64))
    asked = [talk("a", "b"), talk("a" * 90, "b"), talk("a", "b" * 90), Conversation((Message("user", "a"),))]
    scores = MeanHidden(short, chatml).score(asked)
    assert scores.vectors is not None and scores.columns == {}
    assert np.isnan(scores.vectors).all(1).tolist() == [bool(why) for why in scores.reasons] == [0, 1, 0, 1]
    assert "context of 64" in scores.reasons[1]
    np.testing.assert_allclose(scores.vectors[0], scores.vectors[2], atol=1e-5)


def test_vectors_of_a_file_come_in_batches_from_any_row(tmp_path: Path) -> None:
    """A .npy file and columns of lists of each kind in Parquet have the same vectors, in batches of any size."""
    matrix = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.save(tmp_path / "v.npy", matrix)
    kinds = {"fixed": pa.list_(pa.float32(), 3), "plain": pa.list_(pa.float64()), "large": pa.large_list(pa.float32())}
    table: dict[str, Any] = {name: pa.array(matrix.tolist(), kind) for name, kind in kinds.items()}
    pq.write_table(pa.table(table | {"id": list(range(50))}), tmp_path / "v.parquet", row_group_size=7)
    files = [VectorFile(tmp_path / "v.npy"), *(VectorFile(tmp_path / "v.parquet", name) for name in kinds)]
    for file in files:
        assert (file.n, file.width) == (50, 3)
        for start, size in ((0, 4096), (0, 4), (7, 5), (20, 6), (49, 1), (50, 3)):
            parts = list(file.batches(start, size))
            assert all(part.dtype == np.float32 and len(part) <= size for part in parts)
            np.testing.assert_array_equal(np.concatenate([np.empty((0, 3)), *parts]), matrix[start:])


def test_the_only_column_of_vectors_needs_no_name(tmp_path: Path) -> None:
    """Other columns do not matter."""
    pq.write_table(
        pa.table({"id": ["a", "b"], "v": [[1.0, 2.0], [3.0, 4.0]], "t": [["x"], []]}), tmp_path / "v.parquet"
    )
    file = VectorFile(tmp_path / "v.parquet")
    assert file.column == "v" and next(file.batches()).tolist() == [[1, 2], [3, 4]]


def test_files_without_vectors_are_refused(tmp_path: Path) -> None:
    """The message names the file, and the row or the columns."""
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    two = pa.table({"a": [[1.0]], "b": [[2.0]]})
    pq.write_table(two, tmp_path / "two.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "none.parquet")
    pq.write_table(pa.table({"v": pa.array([], pa.list_(pa.float32()))}), tmp_path / "empty.parquet")
    for name, column, message in (
        ("missing.npy", None, "no such file"),
        ("flat.npy", None, "holds no matrix"),
        ("text.npy", None, "holds no matrix"),
        ("broken.npy", None, "cannot be read"),
        ("broken.parquet", None, "cannot be read"),
        ("two.parquet", None, "its columns of vectors are a, b"),
        ("two.parquet", "c", "no vectors in the column c"),
        ("none.parquet", None, "none of its columns"),
        ("empty.parquet", None, "no vector in the first row of v"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            VectorFile(tmp_path / name, column)


@pytest.mark.parametrize("bad", [[[1.0, 2.0], [3.0]], [[1.0, 2.0], None], [[1.0, 2.0], [3.0, None]]])
def test_uneven_rows_are_refused(tmp_path: Path, bad: list[Any]) -> None:
    """A row that is shorter, missing or incomplete is named."""
    pq.write_table(pa.table({"v": bad}), tmp_path / "v.parquet")
    with pytest.raises(UserError, match=r"row (1|0 or later) of v is not a list of 2 numbers"):
        list(VectorFile(tmp_path / "v.parquet").batches())

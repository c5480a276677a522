"""The files of the reference's log-probabilities: what a full disk and another model leave behind."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from preference_fixtures import data

from babyllm.data.order.shuffle import Rows
from babyllm.data.pair_data import PairData
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.store.shards import Split
from babyllm.training.stages.preference.reference import Tables, reference_tables
from tests.support.disk_fixtures import files_up_to

__all__ = ["data"]


def model_of(seed: int, n_ids: int) -> Transformer:
    torch.manual_seed(seed)
    shape = ModelConfig(vocab_size=n_ids, n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, d_ff=32, max_seq_len=96)
    return Transformer(shape)


def test_the_reference_goes_on_after_a_full_disk(data: PairData, runtime: Runtime, tmp_path: Path) -> None:
    """One line says so; the next call computes what is left, and removes what another model had begun."""
    rows: dict[Split, Rows] = {split: data.rows(split) for split in ("train", "val")}
    n_ids = 1 + max(int(of_split.rows(np.arange(len(of_split)))["tokens"].max()) for of_split in rows.values())

    def tables(seed: int, directory: Path) -> Tables:
        directory.mkdir(exist_ok=True)
        return reference_tables(model_of(seed, n_ids), rows, directory, "f" * 64, runtime, is_resumed=False)

    for seed in (2, 1):
        with files_up_to(16), pytest.raises(UserError, match=re.escape(f"{tmp_path / 'a'}: the reference cannot be")):
            tables(seed, tmp_path / "a")
    assert len(list((tmp_path / "a").glob("reference.*-of-*"))) == 1
    whole, expected = tables(1, tmp_path / "a"), tables(1, tmp_path / "b")
    assert all((whole[split] == expected[split]).all() and len(whole[split]) == len(rows[split]) for split in rows)
    assert {file.name for file in (tmp_path / "a").iterdir()} == {file.name for file in (tmp_path / "b").iterdir()}

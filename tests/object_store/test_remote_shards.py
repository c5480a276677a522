"""Training on shards in an object store: the batches of local shards, from a cache that stays small."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faulty_store import Store, many_faults, no_fault
from training_fixtures import tiny_config

from babyllm.data.batch import Batch
from babyllm.data.loader import Loader
from babyllm.data.token_data import make_loader, open_pretraining_data
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.object_store import transfers
from babyllm.object_store.object_addresses import Address
from babyllm.runtime import Runtime
from babyllm.runtime.config import CacheConfig
from babyllm.store.shard_writer import ShardWriter
from babyllm.training.stages.pretraining_config import PretrainConfig

MIB = 1 << 20
SHAPE = ModelConfig(vocab_size=60_000, n_layers=1, d_model=8, n_heads=1, n_kv_heads=1, max_seq_len=64)


def put(folder: Path, url: str) -> None:
    for file in sorted(folder.iterdir()):
        if not file.name.startswith("."):
            transfers.upload(file, Address.of(url) / file.name)


def loader_of(config: PretrainConfig, runtime: Runtime) -> Loader:
    data = open_pretraining_data(config.data, None, runtime)
    return make_loader(config.data, data, SHAPE, runtime, config.plan)[0]


def taken(loader: Loader, n_steps: int) -> list[Batch]:
    return [batch for _ in range(n_steps) for batch in next(loader)]


def are_equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        a.units == b.units
        and a.tensors.keys() == b.tensors.keys()
        and all(map(torch.equal, a.tensors.values(), b.tensors.values()))
        for a, b in zip(ours, theirs, strict=True)
    )


def test_batches_from_a_store_equal_those_of_local_shards(
    store: Store, data: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """With faults, mixed or not, from the start or a stored position, all batches are those of the local shards."""
    put(data, "s3://bucket/tokens")
    plain = tiny_config(data, steps=40)
    mixed = replace(plain, data=replace(plain.data, mix={"left": 1.0, "right": 2.0}))
    for local, plan in ((plain, no_fault), (mixed, many_faults)):
        cache = CacheConfig(str(tmp_path / plan.__name__))
        remote = replace(local, data=replace(local.data, path="s3://bucket/tokens", cache=cache))
        store.seen.clear()
        store.plan = plan
        ours, again, theirs = loader_of(remote, runtime), loader_of(remote, runtime), loader_of(local, runtime)
        assert are_equal(taken(ours, 12), taken(theirs, 12))
        again.load_state_dict(ours.state_dict())
        assert are_equal(taken(again, 4), taken(theirs, 4))
        assert again.state_dict() == theirs.state_dict()
        for one in (ours, theirs, again):
            one.close()
        if plan is no_fault:
            shards = [path for method, path, _ in store.seen if method == "GET" and path.endswith(".bin")]
            assert len(shards) == len(set(shards)) == 2
        else:
            assert len([fault for *_, fault in store.seen if fault]) > 3


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Token data of 20 MiB in five shards, more than the smallest cache."""
    folder = tmp_path / "large"
    writer = ShardWriter(folder, 60_000, 2, "", shard_tokens=2 * MIB)
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = rng.integers(3, 60_000, MIB // 2)
        ids[-1] = 2
        writer.append(ids, np.array([[len(ids), 4 * len(ids)]]), "text", "train")
    writer.finish()
    return folder


def test_a_cache_smaller_than_the_data_stays_within_its_limit(
    store: Store, large: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Rows of data that the cache cannot hold come in the same order, and old pieces are deleted."""
    put(large, "s3://bucket/large")
    local = tiny_config(large, steps=40)
    folder = tmp_path / "cache"
    cache = CacheConfig(str(folder), 16 * MIB)
    remote = replace(local, data=replace(local.data, path="s3://bucket/large", cache=cache))
    ours, theirs = loader_of(remote, runtime), loader_of(local, runtime)
    store.seen.clear()
    assert are_equal(taken(ours, 24), taken(theirs, 24))
    ours.close()
    theirs.close()
    assert len([path for method, path, _ in store.seen if method == "GET" and path.endswith(".bin")]) > 64
    assert 2 * MIB < sum(file.stat().st_size for file in folder.rglob("*.bin.*")) <= 16 * MIB


def test_shards_that_are_not_what_the_manifest_says_are_refused(
    store: Store, data: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing manifest, a missing shard, an upload that is going on and a changed shard each end in one line."""
    monkeypatch.setattr(transfers, "ATTEMPTS", 2)
    place = Address.of("s3://bucket/wrong")
    put(data, str(place))
    config = tiny_config(data)
    config = replace(config, data=replace(config.data, path=str(place), cache=CacheConfig(str(tmp_path / "cache"))))
    shard = "left-train-00000.bin"
    content = transfers.read(place / shard)
    (tmp_path / "file").write_bytes(bytes([content[0] ^ 1]) + content[1:])
    transfers.upload(tmp_path / "file", place / shard)
    loader = loader_of(config, runtime)
    with pytest.raises(UserError, match=rf"s3://bucket/wrong/{shard}: failed 2 times \(its sha256 is not"):
        taken(loader, 12)
    loader.close()
    transfers.upload(data / "manifest.json", place / ".uploading")
    with pytest.raises(UserError, match=r"s3://bucket/wrong: is being written"):
        loader_of(config, runtime)
    transfers.delete(place / ".uploading")
    transfers.delete(place / shard)
    with pytest.raises(UserError, match=rf"s3://bucket/wrong/{shard}: 0 bytes, the manifest says"):
        loader_of(config, runtime)
    transfers.delete(place / "manifest.json")
    with pytest.raises(UserError, match=r"s3://bucket/wrong: holds no manifest\.json"):
        loader_of(config, runtime)

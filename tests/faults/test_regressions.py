"""Defects that trainers of this kind are known for, and which no other file has a test for."""

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from babyllm.config import load as load_config
from babyllm.config import parse
from babyllm.config.yaml_nodes import load_yaml
from babyllm.data.loader import Loader
from babyllm.data.order.shuffle import Shuffled
from babyllm.data.row_config import Share
from babyllm.data.rows.arrays import RowArrays
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.objectives.lm import language_model
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.schedule import Plan
from babyllm.store.corpus import Part, open_corpus, write_corpus, write_part
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import TrainState

Tiny = Callable[..., ModelConfig]
PACKAGE = Path(__file__).resolve().parents[2] / "babyllm"


class RandomRows:
    """Rows of 16 random tokens."""

    def __len__(self) -> int:
        return 64

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        tokens = np.stack([np.random.default_rng(i).integers(3, 400, 17) for i in indices])
        return RowArrays({"tokens": tokens[:, :-1], "targets": tokens[:, 1:]})


@contextmanager
def run_of(config: ModelConfig, runtime: Runtime) -> Iterator[TrainState]:
    torch.manual_seed(0)
    model = Transformer(config)
    loader = Loader(Shuffled(RandomRows(), 1), Share(8, 4), seed=1)
    yield TrainState(model, make_optimizer(model, OptimConfig()), runtime.scaler(), loader, runtime)
    loader.close()


def plan(steps: int) -> Plan:
    return Plan(steps=steps, warmup=0, peak_lr=1e-2, clip_norm=0.0)


class LinearDtypes(TorchFunctionMode):
    """Remembers the type of everything a linear layer returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.linear:
            self.seen.append(out.dtype)
        return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_products_run_in_the_type_asked_for(tiny: Tiny, dtype: Any) -> None:
    """Every matrix product has the type asked for and no other; losses, weights and gradients stay float32."""
    with start(RuntimeConfig(device="cpu", dtype=dtype, threads=1)) as runtime:
        model, linear = Transformer(tiny()), LinearDtypes()
        tokens = torch.randint(0, 400, (2, 16))
        with linear, runtime.autocast():
            losses = model(tokens, tokens)
        losses.sum().backward()
        assert runtime.scaler().is_enabled() == (dtype == "float16"), "only float16 needs its gradients scaled"
    assert len(linear.seen) >= 2 * 4 and set(linear.seen) == {getattr(torch, dtype)}
    assert losses.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_names_on_disk_have_no_prefix(tiny: Tiny, runtime: Runtime, tmp_path: Path) -> None:
    """A model that was compiled and wrapped for several ranks is saved under the plain names of its weights."""
    with run_of(tiny(), runtime) as state:
        for module in (state.model, *state.model.layers):
            module.compile(backend="eager")
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            wrapped = DistributedDataParallel(state.model)
            assert all(name.startswith("module.") for name in wrapped.state_dict())
            checkpoint.save(state, tmp_path, None, keep=1)
        finally:
            dist.destroy_process_group()
    names = {name.removeprefix("model.") for name in load_file(tmp_path / "step_00000000" / "model.safetensors")}
    assert names == set(Transformer(tiny()).state_dict()) == set(load_model(tmp_path / "step_00000000").state_dict())


def test_tied_weights_stay_tied(tiny: Tiny, runtime: Runtime, tmp_path: Path) -> None:
    """A tied output layer is one tensor with one optimizer state before and after a checkpoint."""
    config = tiny(tie_embeddings=True)
    with run_of(config, runtime) as state:
        train(state, language_model, plan(2))
        checkpoint.save(state, tmp_path, None, keep=1)
        with run_of(config, runtime) as resumed:
            checkpoint.load(resumed, tmp_path / "step_00000002")
            for run in (state, resumed):
                train(run, language_model, plan(4))
                assert run.model.lm_head.weight is run.model.embed_tokens.weight
            for mine, theirs in zip(state.model.parameters(), resumed.model.parameters(), strict=True):
                assert torch.equal(mine, theirs)
    optimizer = load_file(tmp_path / "step_00000002" / "optimizer.safetensors")
    assert not [name for name in optimizer if "lm_head" in name]
    assert len(optimizer) == 3 * len(list(state.model.parameters()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_checkpoints_of_16_bit_runs_hold_float32(tiny: Tiny, tmp_path: Path, dtype: Any) -> None:
    """Whatever type products run in, weights and optimizer are stored in full."""
    with start(RuntimeConfig(device="cpu", dtype=dtype, threads=1)) as runtime, run_of(tiny(), runtime) as state:
        train(state, language_model, plan(2))
        checkpoint.save(state, tmp_path, None, keep=1)
    files = list(tmp_path.rglob("*.safetensors"))
    assert {tensor.dtype for file in files for tensor in load_file(file).values()} == {torch.float32}
    assert len(files) == 2 and state.step == 2


def test_nothing_in_the_package_runs_code_from_a_file() -> None:
    """No module unpickles, evaluates or loads YAML that may make objects.

    But for the queue of commands beside each other, which lies in a folder of one's own, and the sandbox, which is for
    running code. What YAML is read with makes plain values alone.
    """
    allowed = {"packed_jobs": {"pickle"}, "shared_queue": {"pickle"}, "snippet_worker": {"exec", "eval", "compile"}}
    allowed["yaml_nodes"] = {"yaml.load"}
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        load_yaml("!!python/object/apply:os.getcwd []")
    forbidden = {
        *("pickle", "exec", "eval", "torch.load", "torch.save", "marshal", "shelve", "compile"),
        *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    }
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            found = forbidden & {called, *imported}
            assert found <= allowed.get(path.stem, set()), f"{path}: {called or imported}"
            # numpy's own files hold no objects unless that is asked for.
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), path


def test_a_config_is_never_executed(tmp_path: Path) -> None:
    """A config that would run code when read as Python or as full YAML is refused and runs nothing."""
    mark = tmp_path / "executed"
    for content in (
        f"!!python/object/apply:os.system ['touch {mark}']",
        f"run_dir: !!python/object/apply:os.system ['touch {mark}']",
        f"__import__('os').system('touch {mark}')",
    ):
        file = tmp_path / "config.yaml"
        file.write_text(content)
        for read in (
            lambda file: parse(PretrainConfig, ["--config", str(file)], prog="x"),
            lambda file: load_config(PretrainConfig, file),
        ):
            with pytest.raises(UserError):
                read(file)
    assert not mark.exists()
    literal = parse(PretrainConfig, [f"--run_dir=__import__('os').system('touch {mark}')"], prog="x")
    assert literal == replace(PretrainConfig(), run_dir=f"__import__('os').system('touch {mark}')")
    assert not mark.exists()


def test_documents_of_the_same_characters_are_no_duplicates(tmp_path: Path) -> None:
    """Texts are compared by what stands in them side by side, not by the set of characters they are made of."""
    characters = "今天气很好我们去公园看书这本小说有意思他明年再来北京大学的生活"
    rng = np.random.default_rng(0)
    texts = ["".join(rng.permutation(list(characters * 3))) for _ in range(20)]
    documents = [Document(text, "poems", f"a:{i}") for i, text in enumerate(texts)]
    (tmp_path / "in").mkdir()
    part = Part("a.parquet", write_part(documents, tmp_path / "in" / "a.parquet"))
    write_corpus(tmp_path / "in", [part], {})
    dedup([tmp_path / "in"], tmp_path / "out", DedupConfig(near=["minhash", "simhash"]))
    assert [document.text for document in open_corpus(tmp_path / "out").documents()] == texts

"""Tensor parallelism: blocks split within their matrices among ranks that read the same rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import FLAGS, Worker

from babyllm.errors import UserError
from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.parallel.config import ParallelConfig
from babyllm.parallel.distribute import prepare
from babyllm.run_directory import step_name
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.training.stages.policy.grpo import begin
from babyllm.training.stages.policy.grpo_config import GrpoConfig

ONE = {"shard": "none", "tensor": 1}, 1
TWO = {"shard": "none", "tensor": 2}, 2
FOUR = {"shard": "zero3", "tensor": 2}, 4
COPIES = {"shard": "none", "tensor": 2}, 4
TOLERANCE = {"grouped": 1e-5, "tied": 1e-5, "odd": 1e-5, "muon": 1e-4, "lora": 1e-5}
Division = tuple[dict[str, Any], int]


class Runs:
    """Runs of `tensor_jobs`, each made once."""

    def __init__(self, worker: Worker, data: Path, folder: Path) -> None:
        worker.load("tests.parallel.tensor_jobs")
        self._worker, self._data, self._folder = worker, data, folder

    def make(self, name: str, division: Division, *runs: dict[str, Any]) -> None:
        """Make runs in one process group, each into a folder named after the group and its kind."""
        parallel, ranks = division
        all_of_them = [{"out": str(self._folder / name / run["kind"]), **run} for run in runs]
        self._worker.run("split_runs", ranks=ranks, data=str(self._data), parallel=parallel, runs=all_of_them)

    def seen(self, name: str, kind: str, rank: int = 0) -> Any:
        """What a rank left."""
        return json.loads((self._folder / name / kind / f"{rank}.json").read_text(encoding="utf-8"))

    def step(self, name: str, kind: str, step: int) -> Path:
        """The directory of a step."""
        return self._folder / name / kind / step_name(step)


@pytest.fixture(scope="module")
def runs(worker: Worker, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Straight runs of one, two and four ranks."""
    made = Runs(worker, data, tmp_path_factory.mktemp("tensor"))
    kinds = [{"kind": kind} for kind in TOLERANCE]
    made.make("one", ONE, *kinds)
    made.make("two", TWO, {"kind": "grouped"}, {"kind": "muon"}, {"kind": "dropout"})
    made.make("four", FOUR, *kinds, {"kind": "dropout"})
    made.make("copies", COPIES, {"kind": "tied"})
    return made


@pytest.mark.parametrize("kind", TOLERANCE)
def test_losses_are_those_of_one_process(runs: Runs, kind: str) -> None:
    """Losses, gradient norms, tokens and held-out loss of split matrices, sharded or not, are those of one process."""
    one = runs.seen("one", kind)
    for name in {"grouped": ("two", "four"), "muon": ("two", "four"), "tied": ("four", "copies")}.get(kind, ("four",)):
        split = runs.seen(name, kind)
        assert split["losses"] == pytest.approx(one["losses"], abs=TOLERANCE[kind])
        assert split["norms"] == pytest.approx(one["norms"], rel=TOLERANCE[kind])
        assert split["held_out"] == pytest.approx(one["held_out"], abs=TOLERANCE[kind])
        assert split["tokens"] == one["tokens"]
    assert one["losses"][-1] < one["losses"][0] - (0.01 if kind == "lora" else 0.3)


def test_each_rank_holds_its_share(runs: Runs) -> None:
    """Two ranks hold half of each block's matrices and all else; four under zero3 hold half of that, evenly."""
    whole = runs.seen("one", "grouped")["n_weights"]
    in_matrices = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 96)
    assert [runs.seen("two", "grouped", rank)["n_weights"] for rank in range(2)] == [whole - in_matrices // 2] * 2
    assert [runs.seen("four", "grouped", rank)["n_weights"] for rank in range(4)] == [whole // 2 - in_matrices // 4] * 4


def test_whole_parameters_stay_the_same(runs: Runs) -> None:
    """With dropout too, what both ranks of a split hold whole stays the same bits."""
    assert len({runs.seen("two", "dropout", rank)["unsplit"] for rank in range(2)}) == 1
    shards = [runs.seen("four", "dropout", rank)["unsplit"] for rank in range(4)]
    assert shards[0] == shards[1] != shards[2] == shards[3]


def test_runs_resume(runs: Runs) -> None:
    """A resumed run ends with the same bits; one divided in another way goes on to the same losses."""

    def again(name: str, *kinds: str, step: int = 5) -> list[dict[str, Any]]:
        return [{"kind": kind, "resume": str(runs.step(name, kind, step))} for kind in kinds]

    runs.make("two again", TWO, *again("two", "dropout"))
    runs.make("four again", FOUR, *again("four", "odd", "muon", "lora", "dropout"))
    for name, kinds in {"two": ("dropout",), "four": ("odd", "muon", "lora", "dropout")}.items():
        for kind in kinds:
            for rank in range(2 if name == "two" else 4):
                straight, resumed = runs.seen(name, kind, rank), runs.seen(f"{name} again", kind, rank)
                assert resumed["digest"] == straight["digest"] and resumed["losses"] == straight["losses"][5:]
            for file in runs.step(name, kind, 10).glob("*.safetensors"):
                mine, theirs = (load_file(runs.step(of, kind, 10) / file.name) for of in (f"{name} again", name))
                assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in theirs)

    runs.make("four to one", ONE, *again("four", "odd", "muon", "lora"))
    runs.make("one to four", FOUR, *again("one", "odd", "muon", "lora"))
    for kind in ("odd", "muon", "lora"):
        for name in ("four to one", "one to four"):
            assert runs.seen(name, kind)["losses"] == pytest.approx(
                runs.seen("one", kind)["losses"][5:], abs=TOLERANCE[kind]
            )


def test_one_process_reads_the_saved_model(runs: Runs) -> None:
    """The last step of split matrices, read by one process, has the held-out loss that they had."""
    kinds = ("grouped", "tied", "lora")
    runs.make("read", ONE, *[{"kind": kind, "resume": str(runs.step("four", kind, 10))} for kind in kinds])
    for kind in kinds:
        assert runs.seen("read", kind)["losses"] == []
        assert runs.seen("read", kind)["held_out"] == pytest.approx(runs.seen("four", kind)["held_out"], abs=1e-6)


def test_a_command_trains(worker: Worker, data: Path, tmp_path: Path) -> None:
    """`train_pretrain.py --parallel.tensor=2` trains, evaluates, writes samples and saves as one process does."""
    flags = [*FLAGS, f"--data.path={data}", "--model.dropout=0", "--plan.steps=6"]
    worker.run("script", arguments=[*flags, f"--run_dir={tmp_path}/one"])
    worker.run("script", ranks=2, arguments=[*flags, f"--run_dir={tmp_path}/split", "--parallel.tensor=2"])
    one, split = (
        [json.loads(line) for line in Path(tmp_path, name, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("one", "split")
    )
    for name in ("loss", "val/all/loss", "tokens"):
        theirs, mine = ([record[name] for record in records if name in record] for records in (one, split))
        assert theirs and mine == pytest.approx(theirs, abs=1e-4)


def refusal(model: Transformer, runtime: Runtime, **parallel: Any) -> str:
    n = parallel["tensor"]
    with pytest.raises(UserError) as error:
        prepare(model, replace(runtime, world_size=n, tensor=n), ParallelConfig(**parallel))
    return str(error.value)


def test_what_cannot_be_split_is_refused(runtime: Runtime, tiny: Any, tmp_path: Path) -> None:
    """Heads, widths and processes that do not divide, nf4, compiled blocks and drawn answers are named."""
    shape: ModelConfig = tiny(n_heads=6, n_kv_heads=2, head_dim=4, d_ff=50)
    model = Transformer(shape)
    assert refusal(model, runtime, tensor=4) == (
        "parallel.tensor=4: does not divide model.n_heads=6; give a number that does"
    )
    assert "model.n_kv_heads=2;" in refusal(model, runtime, tensor=3)
    assert "model.d_ff=50;" in refusal(Transformer(replace(shape, n_heads=12, n_kv_heads=4)), runtime, tensor=4)
    assert "runtime.compile=true" in refusal(model, replace(runtime, compile=True), tensor=2)
    quantised = add_lora(Transformer(tiny()), LoraConfig(rank=2, base="nf4"))
    assert "use lora.base=int8, or parallel.shard=zero3" in refusal(quantised, runtime, tensor=2)
    with pytest.raises(UserError, match=r"parallel\.tensor=2: does not divide the 1 processes"):
        start(RuntimeConfig(device="cpu"), 2).__enter__()
    with pytest.raises(UserError, match=r"parallel\.tensor=2: is not supported by GRPO"):
        begin(GrpoConfig(parallel=ParallelConfig(tensor=2), run_dir=str(tmp_path)), runtime)

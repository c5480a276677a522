"""Domains mixed by weights and phases: the number, choice and order of their rows, and what is refused."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from training_fixtures import ROOT, tiny_config

from babyllm.config import load, parse
from babyllm.data.loader import Loader
from babyllm.data.order.mixing import (
    MAX_ROWS,
    Mixture,
    Stage,
    concatenated,
    place_phases,
    read_phases,
    rows_until_exhausted,
    share_out,
    whole_weights,
)
from babyllm.data.order.shuffle import Shuffled
from babyllm.data.row_config import Share
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import make_loader, open_pretraining_data
from babyllm.errors import UserError
from babyllm.objectives.lm import language_model
from babyllm.runtime import Runtime
from babyllm.schedule import Plan, learning_rate
from babyllm.training.loop import train
from babyllm.training.recording.records import read_metrics
from babyllm.training.run import open_run
from babyllm.training.stages.pretraining import new_state
from babyllm.training.stages.pretraining_config import PretrainConfig

SIZES = {"zh": 37, "en": 13, "code": 5}
NAMES = list(SIZES)
LONG = 150_000_000


class Domain:
    """Rows that hold (number of the domain, row) in their first two tokens."""

    def __init__(self, seq_len: int, name: str, size: int | None = None) -> None:
        # At twice the row length there are half as many rows.
        self.size, self.seq_len, self.number = size or -(-SIZES[name] * 4 // seq_len), seq_len, NAMES.index(name)

    def __len__(self) -> int:
        return self.size

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        tokens = np.repeat(indices[:, None], self.seq_len, axis=1)
        tokens[:, 0] = self.number
        return RowArrays({"tokens": tokens, "targets": tokens})


def mixture(stages: Sequence[Mapping[str, Any]], n_steps: int, global_batch: int = 8, seq_len: int = 4) -> Mixture:
    phases = read_phases(stages, SIZES, seq_len, SIZES)
    return Mixture(place_phases(phases, n_steps, global_batch), Domain, 1, global_batch)


def walked(mixed: Mixture, n_rows: int, start: int = 0) -> list[tuple[str, int]]:
    """(domain, row) of each row of a run, computed one by one."""
    rows = (mixed.rows(np.array([r]))["tokens"][0] for r in range(start, start + n_rows))
    return [(NAMES[row[0]], int(row[1])) for row in rows]


@contextmanager
def loader_of(mixed: Mixture, micro_batch: int = 8, rank: int = 0, world_size: int = 1) -> Iterator[Loader]:
    loader = Loader(mixed, Share(8, micro_batch, rank, world_size), 1)
    yield loader
    loader.close()


def take(loader: Loader, steps: int) -> list[list[list[int]]]:
    return [[row for batch in micro for row in batch["tokens"].tolist()] for micro in itertools.islice(loader, steps)]


weights_of_domains = st.lists(st.floats(1e-4, 1), min_size=1, max_size=12)


@given(weights_of_domains, st.sampled_from([0, 1234, LONG, MAX_ROWS - 500]))
def test_counts_follow_the_weights(weights: list[float], start: int) -> None:
    """After any row, each domain is within two rows of its share, and within one for up to three domains."""
    mix = {f"domain{i:02}": weight for i, weight in enumerate(weights)}
    whole = whole_weights(mix, mix, "here")
    rows = np.arange(start, start + 400)
    counts = share_out(rows, list(whole.values()))
    assert (counts.sum(axis=1) == rows).all()
    steps = np.diff(counts, axis=0)
    assert set(np.unique(steps)) <= {0, 1}
    shares = np.array([mix[name] for name in whole]) / sum(weights)
    # Weights are rounded to a billionth, which amounts to a few rows at the last row below MAX_ROWS.
    rounding = 1e-9 * rows[-1] * len(weights)
    assert np.abs(counts - rows[:, None] * shares).max() <= (1.0 if len(weights) <= 3 else 2.0) + rounding


def test_counts_of_round_weights_are_exact() -> None:
    """With weights in tenths, every ten rows hold each domain exactly by its weight, in a mixed order."""
    mixed = mixture([{"until": 1.0, "mix": {"code": 0.1, "zh": 0.7, "en": 0.2}}], 10)
    names = [name for name, _ in walked(mixed, 80)]
    for start in range(0, 80, 10):
        assert Counter(names[start : start + 10]) == {"zh": 7, "en": 2, "code": 1}
    assert len(set(map(tuple, np.array_split(names, 8)))) == 1 and names[:7] != ["zh"] * 7


stage_lists = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from([4, 4, 8]),
        st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 1), min_size=1),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25)
@given(stage_lists, st.sampled_from([(1, 8), (2, 1), (4, 2)]))
def test_any_cut_is_the_walk(stages: list[tuple[int, int, dict[str, float]]], cut: tuple[int, int]) -> None:
    """Global batches are the same row by row, or by ranks and micro-batches, from the start or a stored position."""
    ends = list(itertools.accumulate(steps + 1 for steps, _, _ in stages))
    asked = [{"until": end, "seq_len": T, "mix": mix} for end, (_, T, mix) in zip(ends, stages, strict=True)]
    world_size, micro_batch = cut
    mixed = mixture(asked, ends[-1])
    expected = walked(mixed, 8 * ends[-1])
    middle = ends[-1] // 2
    got: list[list[list[int]]] = [[] for _ in range(ends[-1])]
    for rank in range(world_size):
        with loader_of(mixture(asked, ends[-1]), micro_batch, rank, world_size) as loader:
            first = take(loader, middle)
            state = json.loads(json.dumps(loader.state_dict()))
        with loader_of(mixture(asked, ends[-1]), micro_batch, rank, world_size) as loader:
            loader.load_state_dict(state)
            for step, rows in zip(got, first + take(loader, ends[-1] - middle), strict=True):
                step += rows
    assert [(NAMES[row[0]], row[1]) for step in got for row in step] == expected
    for step, rows in enumerate(got):
        stage = next(stage for stage in asked if step < stage["until"])
        assert {len(row) for row in rows} == {stage["seq_len"]}


def test_a_domain_goes_on_across_a_border() -> None:
    """In phases of one row length, each epoch of a domain has every row once, in its own order, across the borders."""
    mixed = mixture(
        [
            {"until": 3, "mix": {"zh": 0.6, "en": 0.4}},
            {"until": 5, "mix": {"code": 1}},
            {"until": 40, "mix": {"en": 0.5, "zh": 0.3, "code": 0.2}},
        ],
        40,
    )
    rows = walked(mixed, 320)
    assert {name for name, _ in rows[:24]} == {"zh", "en"} and {name for name, _ in rows[24:40]} == {"code"}
    for domain, size in SIZES.items():
        turns = [row for name, row in rows if name == domain]
        epochs = [turns[i : i + size] for i in range(0, len(turns) - size + 1, size)]
        assert len(epochs) >= 2 and all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_another_length_starts_over() -> None:
    """At another row length a domain starts over in another order; a length that returns continues where it was."""
    asked = [{"until": end, "seq_len": T, "mix": {"zh": 1}} for end, T in ((2, 4), (4, 8), (6, 4))]
    mixed = mixture(asked, 6)
    rows = [row for _, row in walked(mixed, 48)]
    assert rows[:16] == [row for _, row in walked(mixture(asked[:1], 2), 16)]
    assert len(set(rows[:16] + rows[32:])) == 32 and len(set(rows[16:32])) == 16


def test_a_position_far_away_costs_nothing() -> None:
    """Batches in the middle of 150 million rows of eight domains are found at once, with the domains' shares."""
    names = [f"domain{i}" for i in range(8)]
    weights = whole_weights({name: i + 1.0 for i, name in enumerate(names)}, names, "here")
    opened: dict[str, int] = {}

    class Many(Domain):
        def __init__(self, seq_len: int, name: str) -> None:
            super().__init__(seq_len, "zh", size=LONG // 7)
            self.number = opened.setdefault(name, names.index(name))

    began = time.process_time()
    stages = [Stage(0, 4, weights), Stage(LONG // 2, 4, {**weights}), Stage(LONG, 4, weights)]
    mixed = Mixture(stages, Many, 1, 8)
    rows = mixed.rows(np.arange(LONG - 180, LONG + 180))["tokens"]
    epochs = mixed.metrics(LONG)
    assert time.process_time() - began < 2.0
    assert np.abs(np.bincount(rows[:, 0]) - np.arange(10, 90, 10)).max() <= 4
    assert len({tuple(row) for row in rows}) == 360
    assert [epochs[f"epoch/{name}"] for name in names] == pytest.approx([7 * (i + 1) / 36 for i in range(8)], abs=1e-6)


def test_epochs_are_counted_by_domain() -> None:
    """The metrics are the epochs of each domain, over all row lengths, and the current seq_len."""
    stages = [{"until": 0.5, "mix": {"zh": 0.75, "en": 0.25}}, {"until": 1.0, "seq_len": 8, "mix": {"en": 1}}]
    with loader_of(mixture(stages, 8)) as loader:
        assert loader.metrics() == {"epoch/zh": 0.0, "epoch/en": 0.0, "seq_len": 4}
        take(loader, 4)
        assert loader.metrics() == {"epoch/zh": 24 / 37, "epoch/en": 8 / 13, "seq_len": 4}
        take(loader, 1)
        assert loader.metrics() == {"epoch/zh": 24 / 37, "epoch/en": pytest.approx(8 / 13 + 8 / 7), "seq_len": 8}


def test_stages_that_have_not_begun_may_change() -> None:
    """A position is valid whatever phases come later; another past, batch or kind of order is refused."""
    past = [{"until": 4, "mix": {"zh": 0.5, "en": 0.5}}, {"until": 8, "mix": {"zh": 1}}]
    with loader_of(mixture(past, 8)) as loader:
        take(loader, 4)
        at_border = json.loads(json.dumps(loader.state_dict()))
        take(loader, 1)
        behind = json.loads(json.dumps(loader.state_dict()))
    assert at_border["consumed_rows"] == 32 and len(at_border["stages"]) == 1 and len(behind["stages"]) == 2
    other = mixture([past[0], {"until": 0.9, "seq_len": 8, "mix": {"code": 1}}, {"until": 1.0}], 20)
    with loader_of(other) as loader:
        loader.load_state_dict(at_border)
        assert [row[0] for row in take(loader, 1)[0]] == [NAMES.index("code")] * 8
        with pytest.raises(UserError, match="the 40 sequences trained on so far were mixed in another way"):
            loader.load_state_dict(behind)
        with pytest.raises(UserError, match="data global_batch 16, now 8"):
            loader.load_state_dict(at_border | {"global_batch": 16})
        with pytest.raises(UserError, match="mixed in another way"):
            loader.load_state_dict({"consumed_rows": 32, "fingerprint": "", "seed": 1, "rows": 37})
        assert loader.state_dict()["consumed_rows"] == 40
    plain = Loader(Shuffled(Domain(4, "zh"), 1), Share(8, 8), 1)
    with pytest.raises(UserError, match="mixed in another way"):
        plain.load_state_dict(at_border)


@given(weights_of_domains, st.data())
def test_interleaving_ends_with_the_first_or_the_last_domain(weights: list[float], data: st.DataObject) -> None:
    """With "first", one more row would repeat a row; with "last", one row fewer would omit one."""
    sizes = {f"d{i:02}": data.draw(st.integers(1, 500)) for i in range(len(weights))}
    whole = whole_weights(dict(zip(sizes, weights, strict=True)), sizes, "here")
    limits = [sizes[name] for name in whole]
    first, last = rows_until_exhausted(whole, sizes, "first"), rows_until_exhausted(whole, sizes, "last")
    counts = share_out(np.array([first, first + 1, last - 1, last]), list(whole.values()))
    assert (counts[0] <= limits).all() and (counts[1] > limits).any()
    assert (counts[2] < limits).any() and (counts[3] >= limits).all()


def test_concatenated_domains_come_one_after_the_other() -> None:
    """Each domain is read once, shuffled, and then all domains again in other orders."""
    mixed = Mixture(concatenated(["en", "code", "zh"], SIZES, 4, 80), Domain, 1, 8)
    rows = walked(mixed, 110)
    names = [name for name, _ in rows]
    assert names == ["en"] * 13 + ["code"] * 5 + ["zh"] * 37 + ["en"] * 13 + ["code"] * 5 + ["zh"] * 37
    assert set(rows[:55]) == set(rows[55:]) and len(set(rows)) == 55 and rows[:55] != rows[55:]
    assert mixed.rows(np.arange(9, 17))["tokens"][:, 0].tolist() == [1] * 4 + [2] * 4
    assert mixed.metrics(55 + 13) == {"epoch/en": 2.0, "epoch/code": 1.0, "epoch/zh": 1.0, "seq_len": 4}


def test_the_order_of_a_mixture_never_changes() -> None:
    """The order for a seed and names is the same on every machine and in every version: it equals a recorded one."""
    mixed = mixture([{"until": 1.0, "mix": {"zh": 3, "en": 2, "code": 1}}], 1)
    expected = [("zh", 32), ("en", 8), ("zh", 34), ("code", 0), ("zh", 17), ("en", 7), ("zh", 16), ("en", 9)]
    assert walked(mixed, 8) == expected


def begun(data: Path, runtime: Runtime, steps: int | None = None, epochs: float = 1.0, **options: Any) -> Any:
    """The state and plan of a tiny run over `data` with these settings in the section `data`."""
    config = tiny_config(data)
    section = DataConfig(path=str(data), seq_len=16, global_batch=8, **options)
    config = replace(config, data=section, plan=replace(config.plan, steps=steps, epochs=epochs))
    return new_state(config, open_pretraining_data(config.data), runtime)


STAGES = "[{until: 0.5}, {until: 6, mix: {left: 1}}, {until: 1.0, seq_len: 128, mix: {left: 0.25, right: 0.75}}]"


def test_a_run_in_stages(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Phases given by flags: the model has room for the longest rows, each step has its phase, epochs are recorded."""
    flags = [f"--data.path={data}", f"--data.stages={STAGES}", "--data.seq_len=16", f"--run_dir={tmp_path / 'run'}"]
    flags += ["--data.global_batch=16", "--plan.steps=8", "--model.max_seq_len=64"]
    flags += ["--model.d_model=32", "--model.n_heads=4", "--model.n_layers=1"]
    config = parse(PretrainConfig, flags, prog="x")
    state, plan = new_state(config, open_pretraining_data(config.data), runtime)
    assert state.model.config.max_seq_len == 128 == config.data.longest_seq_len
    with open_run(config, state, None, plan) as run:
        train(state, language_model, plan, [run.logging(1, config.data.longest_seq_len)])
    assert load(PretrainConfig, tmp_path / "run" / "config.yaml") == config
    records = read_metrics(tmp_path / "run")
    assert [record["seq_len"] for record in records] == [16] * 6 + [128] * 2
    tokens = np.diff([0] + [record["tokens"] for record in records])
    assert (tokens[:6] <= 16 * 16).all() and (tokens[6:] > 16 * 16).all()
    for name in ("epoch/left", "epoch/right"):
        epochs = [record[name] for record in records]
        assert sorted(epochs) == epochs and epochs[0] > 0
    assert len({record["epoch/right"] for record in records[3:6]}) == 1


def test_the_number_of_steps(data: Path, runtime: Runtime) -> None:
    """The number of steps follows from the domains that are read, unless plan.steps is given."""
    tokens = open_pretraining_data(DataConfig(path=str(data), seq_len=16)).tokens
    rows = {domain: -(-(len(tokens.stream("train", domain)) - 1) // 16) for domain in ("left", "right")}
    few, many = sorted(rows.values())

    def steps(**options: Any) -> int:
        n: int = begun(data, runtime, **options)[1].n_steps
        return n

    assert steps(mix={"left": 0.9, "right": 0.0}, epochs=2.0) == -(-2 * rows["left"] // 8)
    assert steps(stages=[{"until": 0.5}, {"until": 1.0, "mix": {"left": 1.0}}]) == -(-(few + many) // 8)
    assert steps(concat=["right"], epochs=3.0) == -(-rows["right"] // 8)
    assert steps(concat=["right", "left"]) == -(-(few + many) // 8)
    assert steps(interleave="first") in (2 * few // 8, (2 * few + 1) // 8)
    assert steps(interleave="last") in (-(-2 * many // 8), -(-(2 * many - 1) // 8))
    for options in ({"concat": ["left"]}, {"interleave": "last"}, {"mix": {"left": 1.0}}):
        assert steps(steps=3, **options) == 3


MISTAKES = {
    "{mix: {lift: 1}}": "data.mix: the training data has no domain 'lift': did you mean 'left'?",
    "{mix: {left: 0}}": "data.mix: mix={'left': 0.0}: weights must be numbers of at least 0 and not all 0",
    "{mix: {left: -1, right: 2}}": "data.mix: mix={'left': -1.0, 'right': 2.0}: weights must be",
    "{mix: {left: .nan}}": "weights must be",
    "{mix: {}}": "data.mix: mix={}: weights must be",
    "{concat: [right, lefd]}": "data.concat: the training data has no domain 'lefd': did you mean 'left'?",
    "{concat: []}": "data.concat: is empty",
    "{concat: [left], mix: {left: 1}}": "data.concat: cannot be combined with data.mix",
    "{interleave: first, stages: [{until: 1.0}]}": "data.stages: cannot be combined with data.interleave",
    "{seq_len: 5000, mix: {left: 1}}": "data.seq_len=5000: the training data holds only",
    "{seq_len: 1100, mix: {left: 1}}": "data.seq_len=1100: the domain left holds only",
    "{stages: []}": "data.stages: is empty",
    "{stages: [{untill: 1.0}]}": "data.stages, number 1: unknown key 'untill': did you mean 'until'?",
    "{stages: [{mix: {left: 1}}]}": "data.stages, number 1: until=None: must be a share",
    "{stages: [{until: 1.5}]}": "data.stages, number 1: until=1.5: must be a share of the run",
    "{stages: [{until: 0.0}]}": "data.stages, number 1: until=0.0: must be a share of the run",
    "{stages: [{until: .nan}]}": "data.stages, number 1: until=nan: must be a share of the run",
    "{stages: [{until: 0.5}, {until: 0.2}, {until: 1.0}]}": "number 2: until=0.2 is step 4: must be after step 10",
    "{stages: [{until: 0.5}, {until: 0.5}, {until: 1.0}]}": "number 2: until=0.5 is step 10: must be after step 10",
    "{stages: [{until: 30}]}": "data.stages, number 1: until=30 is step 30: must be after step 0, where the stage",
    "{stages: [{until: 1}]}": "data.stages: the last one ends at step 1 of 20; let it end with the run, until: 1.0",
    "{stages: [{until: 1.0, seq_len: 0}]}": "data.stages, number 1: seq_len=0: must be an integer of at least 1",
    "{stages: [{until: 1.0, seq_len: 2.5}]}": "data.stages, number 1: seq_len=2.5: must be an integer",
    "{stages: [{until: 1.0, mix: 3}]}": "data.stages, number 1: mix=3: must be weights by domain",
    "{stages: [{until: 1.0, mix: {rihgt: 3}}]}": "data.stages, number 1: the training data has no domain 'rihgt': did",
    "{stages: [{until: 1.0, seq_len: [1]}]}": "'data.stages' expects",
}


@pytest.mark.parametrize("section", MISTAKES)
def test_a_mistake_is_told(data: Path, runtime: Runtime, tmp_path: Path, section: str) -> None:
    """A mixture that is not valid is refused, and the error names the key."""
    file = tmp_path / "x.yaml"
    file.write_text(f"data: {section}\nplan: {{steps: 20}}\n")
    with pytest.raises(UserError) as error:
        config = load(PretrainConfig, file)
        config = replace(config, data=replace(config.data, path=str(data)))
        new_state(config, open_pretraining_data(config.data), runtime)
    assert MISTAKES[section] in str(error.value) and "\n" not in str(error.value)


def test_stages_of_several_lengths_need_a_number_of_steps(data: Path, runtime: Runtime) -> None:
    """Where the row length changes, an epoch has no defined number of steps, so plan.steps is required."""
    with pytest.raises(UserError, match=r"plan\.steps: data\.stages of different seq_len need"):
        begun(data, runtime, stages=[{"until": 0.5, "seq_len": 8}, {"until": 1.0}])


def test_the_micro_batch_suits_the_longest_stage(data: Path, runtime: Runtime) -> None:
    """A micro-batch that babyllm chooses fits the longest rows and is the same in every phase."""
    stages: Any = [{"until": 0.5}, {"until": 1.0, "seq_len": 512, "mix": {"left": 1.0}}]
    state, _ = begun(data, runtime, steps=4, stages=stages)
    config = replace(tiny_config(data).data, global_batch=64, micro_batch=None, stages=stages)
    loader, _ = make_loader(config, open_pretraining_data(config), state.model.config, runtime, Plan(steps=4))
    micro = [[tuple(batch["tokens"].shape) for batch in step] for step in itertools.islice(loader, 4)]
    loader.close()
    assert micro == [[(8, 16)] * 8] * 2 + [[(8, 512)] * 8] * 2


@pytest.mark.parametrize("name", ["recipes/minicpm/pretrain", "pretrain/progressive"])
def test_the_examples_fit_the_sample_corpus(name: str) -> None:
    """The example configurations with phases name domains of the sample and are valid."""
    config = load(PretrainConfig, ROOT / "configs" / f"{name}.yaml")
    assert config.data.stages is not None
    tokens = {"news": 1_000_000.0, "reviews": 800_000.0}
    plan = config.plan.with_steps(14_000, config.data.global_batch)
    stages = place_phases(read_phases(config.data.stages, tokens, config.data.seq_len, tokens), plan.n_steps, 8)
    assert [set(stage.weights) for stage in stages] == [set(tokens)] * len(stages)
    if name == "recipes/minicpm/pretrain":
        assert stages[1].weights == {"news": 4, "reviews": 1}
        rates = [learning_rate(plan, step) for step in range(plan.n_steps)]
        falls = [step for step in range(1, plan.n_steps) if rates[step] < rates[step - 1]]
        assert abs(stages[1].first_row / 8 - falls[0]) <= 1
    else:
        assert [stage.seq_len for stage in stages] == [64, 128, 256]

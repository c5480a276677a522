"""Study files: which arms and runs they mean, and what is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from studies_fixtures import study_of

from babyllm.__main__ import STAGES as COMMANDS
from babyllm.__main__ import run
from babyllm.config.command_line import keys, load
from babyllm.errors import UserError
from babyllm.studies.planned_runs import check_arms, planned_runs
from babyllm.studies.run_values import SEEDS, STAGES, as_yaml, configuration
from babyllm.studies.study import Study, read_study


def values_of(study: Study, arm: str, seed: int = 1) -> dict[str, Any]:
    """The values of one run by dotted key."""
    return dict(next(run.values for run in planned_runs(study, "S") if (run.arm, run.seed) == (arm, seed)))


def test_every_stage_can_be_studied() -> None:
    """The stages of a study are the commands that train, each with the configuration that the command reads."""
    assert tuple(STAGES) == COMMANDS
    assert all("plan.steps" in keys(configuration(stage)) for stage in STAGES)


def test_every_seed_of_a_stage_follows_the_seed_of_the_run() -> None:
    """A run's seed sets weights, order and draws; the draw of evaluation items and a judge's seed stay the same."""
    others = {"evaluate.seed", "reward.judge.endpoint.seed"}
    for stage in STAGES:
        assert {key for key in keys(configuration(stage)) if key.endswith("seed")} - others <= set(SEEDS)


def test_nested_and_dotted_flags_mean_the_same(tmp_path: Path) -> None:
    """An arm's flag replaces that of base, a mapping as a whole, and a dotted key below a mapping one entry of it."""
    base = {"data": {"mix": {"zh": 0.5, "en": 0.5}, "seq_len": 64}, "plan.steps": 3}
    arms = {"plain": {}, "all": {"data": {"mix": {"zh": 1.0}}}, "one": {"data.mix.zh": 0.1, "plan": {"steps": 4}}}
    study = study_of(tmp_path, base=base, arms=arms)
    assert values_of(study, "plain")["data.mix"] == {"zh": 0.5, "en": 0.5}
    assert values_of(study, "all")["data.mix"] == {"zh": 1.0}
    assert values_of(study, "one")["data.mix"] == {"zh": 0.1, "en": 0.5}
    assert [values_of(study, arm)["plan.steps"] for arm in arms] == [3, 3, 4]
    assert values_of(study, "one")["data.seq_len"] == 64


def test_a_run_is_a_configuration_that_its_command_reads(tmp_path: Path) -> None:
    """Its YAML has the flags, the run directory and the seed, which a flag of base or of the arm overrides."""
    study = study_of(tmp_path, arms={"a": {}, "b": {"plan.seed": 7}})
    file = tmp_path / "run.yaml"
    found = []
    for arm in "ab":
        file.write_text(as_yaml(values_of(study, arm, 2)), encoding="utf-8")
        config = load(configuration("pretrain"), file)
        found.append((config.plan.steps, config.plan.seed, config.data.seed, Path(config.run_dir)))
    assert found == [(10, 2, 2, study.out / "a" / "seed_2"), (10, 7, 2, study.out / "b" / "seed_2")]


def test_runs_of_one_seed_come_together(tmp_path: Path) -> None:
    """All arms of a seed are run before the next seed, so that an unfinished study has pairs."""
    runs = planned_runs(study_of(tmp_path), "S")
    assert [(run.arm, run.seed) for run in runs] == [("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2)]


def test_a_sweep_is_a_grid_of_arms(tmp_path: Path) -> None:
    """Each point of the grid is an arm, named by its values; the first one is the control unless another is named."""
    sweep = {"data.mix.zh": [0.1, 0.5], "plan.peak_lr": [0.003, "1e-3"]}
    keys: dict[str, Any] = {"arms": None, "sweep": sweep, "base": {"data.mix": {"en": 1.0}}}
    study = study_of(tmp_path, **keys)
    names = ["zh=0.1, peak_lr=0.003", "zh=0.1, peak_lr=1e-3", "zh=0.5, peak_lr=0.003", "zh=0.5, peak_lr=1e-3"]
    assert list(study.arms) == names and study.control == names[0]
    assert values_of(study, names[3])["data.mix"] == {"en": 1.0, "zh": 0.5}
    assert study_of(tmp_path, **keys, control=names[2]).control == names[2]
    check_arms(study, "S")


def test_an_arm_may_begin_with_a_configuration(tmp_path: Path) -> None:
    """The key config names a file whose values come before the flags beside it; its run directory is left out."""
    (tmp_path / "c.yaml").write_text("run_dir: x\nplan: {steps: 5, peak_lr: 0.2}\n", encoding="utf-8")
    study = study_of(tmp_path, base={"config": str(tmp_path / "c.yaml"), "plan.steps": 6})
    values = values_of(study, "slow")
    assert (values["plan.steps"], values["plan.peak_lr"]) == (6, 0.1) and "study" in values["run_dir"]


def test_results_say_which_values_are_better(tmp_path: Path) -> None:
    """A lower loss or bpb is better and a higher value of anything else, unless the file says so."""
    assert study_of(tmp_path, results=["zh/bpb", "all/acc"]).results == {"zh/bpb": True, "all/acc": False}
    assert study_of(tmp_path, results={"all/x": "higher", "y": "lower"}).results == {"all/x": False, "y": True}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"arm": {}}, "unknown key 'arm': did you mean 'arms'?"),
        ({"stage": "train"}, "'stage' is one of pretrain, sft"),
        ({"control": "none"}, "'control' is one of the arms (slow, fast)"),
        ({"seeds": [1, 1]}, "'seeds' is a list of different whole numbers"),
        ({"seeds": []}, "'seeds' is a list"),
        ({"sweep": {"plan.steps": [1]}}, "give the flags of each arm in 'arms', or lists of values in 'sweep'"),
        ({"arms": None}, "give the flags of each arm"),
        ({"arms": None, "sweep": {"plan.steps": 3}}, "'sweep.plan.steps' is a list of values, not 3"),
        ({"arms": {"a/b": {}, "a b": {}}}, "has the folder of 'a/b'"),
        ({"arms": {"base": {}}}, "choose another name"),
        ({"arms": {"a": 3}}, "'arms.a' holds lines"),
        ({"base": [1]}, "'base' holds lines"),
        ({"results": 3}, "'results' is a list of names"),
        ({"results": {"a": "up"}}, "'results' is a list of names"),
        ({"before": {"c": ["x"]}}, "'before.c' names no arm"),
        ({"before": {"slow": "x"}}, "'before.slow' is a list of commands"),
        ({"out": 3}, "'out' is the path of a directory"),
        ({"base": {"plan.stepz": 3}}, "unknown key 'plan.stepz': did you mean 'plan.steps'?"),
        ({"base": {"plan": {"stepz": 3}}}, "unknown key 'plan.stepz'"),
        ({"base": {"plan.steps": "many"}}, "arm 'slow': 'plan.steps' expects"),
        ({"base": {"plan.steps": 0}}, "plan.steps=0: must be at least 1"),
        ({"base": {"run_dir": "x"}}, "run_dir: a study chooses it"),
        ({"base": {"config": "/nowhere.yaml"}}, "/nowhere.yaml: cannot be read"),
        ({"base": {"data.path": "{out}/x"}}, "{out} is what the commands in 'before.base' make"),
        ({"arms": None, "sweep": {"data.mix.zh": [0.1]}}, "would be the only weight of data.mix"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    """A wrong key, arm, flag or value is a UserError of one line that names the file or the arm."""
    with pytest.raises(UserError) as error:
        check_arms(study_of(tmp_path, **keys), "S")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "duplicate key 'a'"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "holds lines 'key: value'"),
        ("{a: {b: 1, b: 2}}", "duplicate key 'b'"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A study is one YAML mapping, in which each key is given once."""
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        run(["compare", str(file)])
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_the_examples_are_studies(examples: Path, tmp_path: Path) -> None:
    """Each study in configs/studies has arms whose flags the stage reads, and says in a comment what it asks."""
    files = sorted(examples.glob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        study = read_study(file, str(tmp_path))
        check_arms(study, str(file))
        assert len(study.arms) > 1 and len(study.seeds) >= 3, file
        assert file.read_text(encoding="utf-8").startswith("#")
        assert "out" in yaml.safe_load(file.read_text(encoding="utf-8"))

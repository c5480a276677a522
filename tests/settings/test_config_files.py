"""Configurations in files, printed and explained: dump, load, help."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from config_fixtures import AdamOptions, DataOptions, ModelOptions, NeedsInput, Options, from_file, mistake, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from babyllm import config


@dataclass(frozen=True)
class Timeout:
    timeout_s: float = 300
    limit: float | None = 2


# ---- dump, load, to_dict, differences

texts = st.text(max_size=12) | st.sampled_from(
    ["null", "None", "none", "~", "", "1", "1e3", "true", "no", "a: b", "# x"]
)


floats = st.floats(allow_nan=False)


options = st.builds(
    Options,
    run_dir=texts,
    steps=st.integers(),
    peak_lr=floats,
    warmup=st.integers() | floats,
    dtype=st.sampled_from(["float32", "bfloat16", "auto"]),
    compile=st.booleans(),
    batch=st.integers() | st.just("auto"),
    tag=st.integers() | st.sampled_from(["a", "12", "true", "null"]),
    model=st.builds(
        ModelOptions,
        preset=st.sampled_from(["tiny", "small", None]),
        n_layers=st.none() | st.integers(),
        rope_theta=floats,
        adam=st.builds(AdamOptions, betas=st.tuples(floats, floats), fused=st.none() | st.booleans()),
    ),
    data=st.builds(
        DataOptions,
        path=st.none() | texts,
        mix=st.dictionaries(texts, floats, max_size=3),
        names=st.lists(texts, max_size=3),
        sizes=st.lists(st.integers(), max_size=3).map(tuple),
        sources=texts | st.lists(texts, max_size=3),
        lengths=st.none() | st.lists(st.integers(), max_size=3),
    ),
)


@settings(max_examples=40, deadline=None)
@given(options)
def test_load_reads_back_what_dump_wrote(tmp_path_factory: pytest.TempPathFactory, value: Options) -> None:
    """Every configuration survives its YAML exactly: floats to the last bit, odd text, types of values."""
    file = tmp_path_factory.mktemp("dump") / "config.yaml"
    file.write_bytes(config.dump(value).encode())
    loaded = config.load(Options, file)
    assert loaded == value
    assert repr(loaded) == repr(value)
    assert config.dump(loaded) == config.dump(value)
    assert parse(f"--config={file}") == loaded


def test_dump_is_readable() -> None:
    """YAML keeps the order of the fields, puts lists on one line and leaves Chinese as it is."""
    value = parse("--run_dir=实验", "--data.mix={zh: 0.7}", "--peak_lr=3e-4", "--data.names=[none]", "--steps=1_000")
    assert config.dump(value) == (
        "run_dir: 实验\n"
        "steps: 1000\n"
        "peak_lr: 0.0003\n"
        "warmup: 0.05\n"
        "dtype: auto\n"
        "compile: false\n"
        "batch: auto\n"
        "tag: a\n"
        "model:\n"
        "  preset: null\n"
        "  n_layers: null\n"
        "  rope_theta: 5.0\n"
        "  adam:\n"
        "    betas: [0.9, 0.95]\n"
        "    fused: null\n"
        "data:\n"
        "  path: null\n"
        "  mix:\n"
        "    zh: 0.7\n"
        "  names: ['none']\n"
        "  sizes: []\n"
        "  sources: all\n"
        "  lengths: null\n"
    )


def test_dump_gives_each_key_one_line() -> None:
    """Long text and long lists are not folded, so that two files can be compared by line."""
    value = parse(f"--run_dir={'word ' * 50}", f"--data.sizes={list(range(100))}")
    assert len(config.dump(value).splitlines()) == len(config.dump(parse("--data.mix={}")).splitlines())


def test_other_readers_of_yaml_see_the_same_values() -> None:
    """What dump writes is what PyYAML's own safe loader reads."""
    value = parse("--peak_lr=1e-5", "--run_dir=007", "--data.path=no", "--data.names=[1e3, yes]")
    assert yaml.safe_load(config.dump(value)) == config.to_dict(value)


def test_a_whole_number_as_default_of_a_float_is_a_float() -> None:
    """`timeout_s: float = 300` is 300.0 whether it comes from the default, a flag or a file."""
    for argv in ([], ["--timeout_s=300", "--limit=2"]):
        assert config.dump(config.parse(Timeout, argv, prog="p")) == "timeout_s: 300.0\nlimit: 2.0\n"


def test_to_dict_holds_json_values() -> None:
    """Tuples are lists, sections are nested, and changing the result does not touch the configuration."""
    value = parse("--data.sizes=[1, 2]")
    plain = config.to_dict(value)
    assert plain["data"]["sizes"] == [1, 2]
    assert plain["model"]["adam"] == {"betas": [0.9, 0.95], "fused": None}
    assert json.loads(json.dumps(plain)) == plain
    plain["data"]["mix"]["zh"] = 1
    assert value.data.mix == {}


def test_load_gives_absent_keys_their_defaults(tmp_path: Path) -> None:
    """A file that holds only what differs is enough."""
    file = tmp_path / "x.yaml"
    file.write_text("steps: 3")
    assert config.load(Options, file) == replace(Options(), steps=3)
    assert config.load(Options, str(file)) == replace(Options(), steps=3)


def test_differences_are_named_by_dotted_key() -> None:
    """Each changed key has one line with the old and the new value; equal configurations have none."""
    old = parse("--data.mix={zh: 1}")
    new = parse("--steps=20", "--model.n_layers=4", "--model.adam.betas=[0.8, 0.9]", "--data.mix={zh: 1, en: 2}")
    assert config.differences(old, old) == []
    assert config.differences(old, new) == [
        "steps: 10 -> 20",
        "model.n_layers: null -> 4",
        "model.adam.betas: [0.9, 0.95] -> [0.8, 0.9]",
        "data.mix.en: (absent) -> 2.0",
    ]
    assert config.differences(parse(), parse("--run_dir=a\nb")) == ['run_dir: runs/pretrain -> "a\\nb"']


# ---- --print_config, --help, weight


def test_print_config_prints_the_resolved_yaml_and_exits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What --print_config prints is a file that loads as the same configuration."""
    with pytest.raises(SystemExit) as exit_info:
        config.parse(
            Options, ["--print_config", "--steps=7"], prog="p", resolve=lambda c: replace(c, model=ModelOptions("tiny"))
        )
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    assert from_file(tmp_path, printed) == replace(Options(), steps=7, model=ModelOptions("tiny"))


def test_print_config_does_not_hide_a_mistake() -> None:
    """A wrong flag is an error also beside --print_config."""
    assert mistake("--print_config", "--steps=x") == "--steps expects int, not 'x'"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_key_with_type_default_and_documentation(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """--help prints one entry per key, taken from the dataclasses and their docstrings, and exits with 0."""
    with pytest.raises(SystemExit) as exit_info:
        parse("--unknown", flag)
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "usage: train.py [--config FILE.yaml] [--section.key=value ...]\n\nTrain a model.\n\n  --config FILE.yaml "
    )
    assert max(map(len, printed.splitlines())) <= 110
    joined = " ".join(printed.split())
    for entry in [
        "--print_config Print",
        "--run_dir (text; default runs/pretrain)",
        "--model.preset a named size; 100 % of the other keys override its parts. (tiny | small | null; default null)",
        "--model.n_layers number of layers. (int | null; default null)",
        "--model.rope_theta (float; default 5.0)",
        "--model.adam.betas ([float, float]; default [0.9, 0.95])",
        "--model.adam.fused (true | false | null; default null)",
        "--data.path a directory of shards. (text | null; default null)",
        "--data.mix ({text: float, ...}; default {})",
        "--data.sizes ([int, ...]; default [])",
    ]:
        assert entry in joined
    with pytest.raises(SystemExit):
        config.parse(NeedsInput, ["--help"], prog="p")
    assert "--input (text; required)" in " ".join(capsys.readouterr().out.split())


def test_importing_is_light_and_parsing_is_quick() -> None:
    """The module loads no heavy library, and a first parse takes less than half a second of processor time."""
    code = (
        "import sys, time, babyllm.config\n"
        "print(sorted({'torch', 'numpy', 'jsonargparse'} & set(sys.modules)))\n"
        "from tests.settings.config_fixtures import Options\n"
        "start = time.process_time()\n"
        "argv = ['--steps=3', '--peak_lr=1', '--model.n_layers=4', '--data.mix={a: 1}']\n"
        "babyllm.config.parse(Options, argv, prog='p')\n"
        "print(time.process_time() - start)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    heavy, seconds = done.stdout.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 0.5

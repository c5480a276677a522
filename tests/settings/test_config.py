"""import json"""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_fixtures import DataOptions, NeedsInput, Options, from_file, mistake, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from babyllm import config
from babyllm.errors import UserError


@dataclass(frozen=True)
class SeedOptions:
    seed: int = 0


@dataclass(frozen=True)
class TwoSeeds:
    data: SeedOptions = SeedOptions()
    plan: SeedOptions = SeedOptions()


def file_mistake(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        from_file(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    message = without_line(message)
    assert message.startswith(f"{folder / 'x.yaml'}: ")
    return message.removeprefix(f"{folder / 'x.yaml'}: ")


def without_line(message: str) -> str:
    """A message about a file, without the number of the line that comes after the file's name."""
    return re.sub(r"(x\.yaml):\d+:", r"\1:", message)


# ---- precedence


def test_without_flags_the_defaults_of_owner_and_section_hold() -> None:
    """A section's owner may choose other defaults than the section, and both reach the configuration."""
    assert parse() == Options()
    assert parse().model.rope_theta == 5.0


def test_file_overrides_defaults_and_flags_override_the_file(tmp_path: Path) -> None:
    """Defaults < file < flags, key by key, wherever --config stands among the flags."""
    file = tmp_path / "x.yaml"
    file.write_text("steps: 20\npeak_lr: 0.5\nmodel:\n  n_layers: 4\n")
    expected = replace(Options(), steps=30, peak_lr=0.5, model=replace(Options().model, n_layers=4, preset="tiny"))
    assert parse("--steps=30", "--model.preset=tiny", f"--config={file}") == expected
    assert parse("--config", str(file), "--steps", "30", "--model.preset", "tiny") == expected


def test_last_of_two_equal_flags_counts() -> None:
    """A flag given twice has its last value, so that a script can put defaults before "$@"."""
    assert parse("--steps=1", "--steps=2").steps == 2


def test_a_mapping_replaces_the_one_it_overrides(tmp_path: Path) -> None:
    """A mapping on a flag does not mix with the mapping in the file."""
    file = tmp_path / "x.yaml"
    file.write_text("data: {mix: {zh: 0.7, en: 0.3}}")
    assert parse(f"--config={file}", "--data.mix={fr: 1}").data.mix == {"fr": 1.0}


def test_resolve_sees_the_parsed_values_and_its_result_is_returned(tmp_path: Path) -> None:
    """What depends on other keys is filled in after parsing."""
    double = config.parse(Options, ["--steps=7"], prog="p", resolve=lambda c: replace(c, steps=c.steps * 2))
    assert double.steps == 14


def test_a_configuration_is_frozen() -> None:
    """Nobody changes a configuration after parsing, nor does one parse change the next."""
    first = parse("--data.mix={zh: 1}")
    with pytest.raises(FrozenInstanceError):
        first.steps = 3  # type: ignore[misc]
    assert parse().data.mix == {}


def test_debug_is_accepted_anywhere() -> None:
    """--debug belongs to the script around, so parsing passes over it."""
    assert parse("--debug", "--steps=3", "--debug") == replace(Options(), steps=3)


def test_a_key_without_default_must_be_given() -> None:
    """A required key is asked for by name and type."""
    assert config.parse(NeedsInput, ["--input=x"], prog="p") == NeedsInput("x")
    with pytest.raises(UserError, match=r"^--input is missing: give it a value, text$"):
        config.parse(NeedsInput, [], prog="p")


# ---- values


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "1_000_000", 1_000_000),
        ("steps", "-3", -3),
        ("peak_lr", "1e-3", 1e-3),
        ("peak_lr", "3E-4", 3e-4),
        ("peak_lr", "1e9", 1e9),
        ("peak_lr", "1", 1.0),
        ("peak_lr", ".5", 0.5),
        ("peak_lr", ".inf", float("inf")),
        ("warmup", "100", 100),
        ("warmup", "0.1", 0.1),
        ("warmup", "1e-2", 0.01),
        ("batch", "8", 8),
        ("batch", "auto", "auto"),
        ("dtype", "bfloat16", "bfloat16"),
        ("compile", "true", True),
        ("compile", "false", False),
        ("model.n_layers", "null", None),
        ("model.n_layers", "none", None),
        ("model.n_layers", "None", None),
        ("model.n_layers", "12", 12),
        ("model.preset", "none", None),
        ("model.adam.fused", "null", None),
        ("model.adam.fused", "true", True),
        ("model.adam.betas", "[0.8, 1e-1]", (0.8, 0.1)),
        ("run_dir", "007", "007"),
        ("run_dir", "1e3", "1e3"),
        ("run_dir", "yes", "yes"),
        ("run_dir", "none", "none"),
        ("run_dir", "2024-01-01", "2024-01-01"),
        ("run_dir", "${HOME}/$USER", "${HOME}/$USER"),
        ("data.path", "null", None),
        ("data.path", "none", None),
        ("data.path", "a/b", "a/b"),
        ("data.mix", "{zh: 1e-3, no: 1}", {"zh": 0.001, "no": 1.0}),
        ("data.names", "[a, 1, true]", ["a", "1", "true"]),
        ("data.names", "[]", []),
        ("data.sizes", "[1, 2, 3]", (1, 2, 3)),
        ("data.sources", "a", "a"),
        ("data.sources", "[a, b]", ["a", "b"]),
        ("data.lengths", "[1, 2]", [1, 2]),
        ("data.lengths", "null", None),
        ("tag", "12", 12),
        ("tag", "b", "b"),
    ],
)
def test_flag_and_file_read_a_value_by_the_type_of_its_field(tmp_path: Path, key: str, text: str, value: Any) -> None:
    """--key=value, --key value and a line of YAML give the same value of the declared type."""
    nested: Any = "VALUE"
    for part in reversed(key.split(".")):
        nested = {part: nested}
    in_file = from_file(tmp_path, yaml.safe_dump(nested).replace("VALUE", text))
    for parsed in (in_file, parse(f"--{key}={text}"), parse(f"--{key}", text)):
        found: Any = parsed
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value
        assert type(found) is type(value)


WORDS = ["1", "-1", "1.0", "1e3", "1_0", "010", "0x1f", "1:30", "true", "True", "yes", "off", "null", "NONE", "~", "a"]


WORDS += ["auto", "tiny", ".inf", "nan", "1 2", "a, b", "2024-01-01", "é中", "a:b", "runs/x", "=", "<<"]


KEYS = ["run_dir", "steps", "peak_lr", "warmup", "dtype", "compile", "batch", "tag", "data.path", "data.mix"]


KEYS += ["data.names", "data.sources", "data.lengths", "model.n_layers", "model.preset", "model.adam.fused"]


@pytest.mark.parametrize("key", KEYS)
def test_flag_and_file_accept_and_refuse_the_same_words(tmp_path: Path, key: str) -> None:
    """Whatever the word, a flag and a file agree on its value or both refuse it."""
    file = tmp_path / "x.yaml"
    for word in WORDS:
        file.write_text(f"{key}: {word}", encoding="utf-8")
        outcomes = []
        for argument in (f"--{key}={word}", f"--config={file}"):
            try:
                outcomes.append(repr(parse(argument)))
            except UserError as error:
                outcomes.append(str(error).partition(" expects ")[2])
        assert outcomes[0] == outcomes[1], word


def test_quotes_in_a_file_keep_a_word_from_being_null(tmp_path: Path) -> None:
    """A quoted null is text, an unquoted one empties the field."""
    assert from_file(tmp_path, "data: {path: 'none'}").data.path == "none"
    assert from_file(tmp_path, 'data: {path: "null"}').data.path == "null"
    assert from_file(tmp_path, "data: {path: }").data.path is None


def test_an_empty_flag_is_empty_text() -> None:
    """--key= is the way to give empty text, also to an optional field."""
    assert parse("--run_dir=", "--data.path=") == replace(Options(), run_dir="", data=DataOptions(path=""))


def test_text_on_a_flag_is_taken_as_it_stands() -> None:
    """Brackets, quotes, equals signs, comments and negative signs in text have no meaning."""
    for text in ["[INST] hi", "{a", "'q'", '"q"', "a=b", "a # b", "-x", "a: b", " x "]:
        assert parse(f"--run_dir={text}").run_dir == text
        assert parse("--run_dir", text).run_dir == text


def test_empty_files_and_sections_change_nothing(tmp_path: Path) -> None:
    """A section whose keys are all commented out is as good as absent."""
    assert from_file(tmp_path, "") == Options()
    assert from_file(tmp_path, "# nothing\n") == Options()
    assert from_file(tmp_path, "\ufeff# an editor's byte order mark\n") == Options()
    assert from_file(tmp_path, "model:\n  # n_layers: 3\ndata: {}\n") == Options()


def test_environment_variables_change_nothing() -> None:
    """No variable of the environment is a source of values."""
    code = "from tests.settings.config_fixtures import parse; print(parse('--model.n_layers=3'))"
    names = ["STEPS", "VALUE", "TRAIN_STEPS", "TRAIN__STEPS", "MODEL__N_LAYERS", "TRAIN_PY_STEPS", "_C_VALUE"]
    variables = dict.fromkeys(names, "99") | {"JSONARGPARSE_DEFAULT_ENV": "true", "HOME": "/"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == repr(parse("--model.n_layers=3")), done.stderr


# ---- mistakes


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--modle.preset=tiny", "unknown option --modle.preset: did you mean --model.preset?"),
        ("--model.n_layer=3", "unknown option --model.n_layer: did you mean --model.n_layers?"),
        ("--n_layers=3", "unknown option --n_layers: did you mean --model.n_layers?"),
        ("--model.adam.beta=3", "unknown option --model.adam.beta: did you mean --model.adam.betas?"),
        ("--model=tiny", "unknown option --model: did you mean --model.preset?"),
        ("--step=3", "unknown option --step: did you mean --steps?"),
        ("--model.names=[a]", "unknown option --model.names: did you mean --data.names?"),
        ("--print-config", "unknown option --print-config: did you mean --print_config?"),
        ("--conf=x", "unknown option --conf: did you mean --config?"),
        ("--print_config=yes", "--print_config takes no value"),
        ("--steps", "--steps has no value: write --steps=VALUE, it expects int"),
        ("--config", "--config has no value: write --config=VALUE, it expects FILE.yaml"),
        ("steps=3", "unexpected argument 'steps=3': options are written --section.key=value"),
        ("-s", "unexpected argument '-s': options are written --section.key=value"),
        ("--steps=1.5", "--steps expects int, not '1.5'"),
        ("--steps=1e3", "--steps expects int, not '1e3'"),
        ("--steps=", "--steps expects int, not ''"),
        ("--steps=true", "--steps expects int, not 'true'"),
        ("--steps=null", "--steps expects int, not 'null'"),
        ("--peak_lr=fast", "--peak_lr expects float, not 'fast'"),
        ("--peak_lr=!!int ''", "--peak_lr expects float, not \"!!int ''\""),
        ("--compile=1", "--compile expects true | false, not '1'"),
        ("--dtype=fp16", "--dtype expects float32 | bfloat16 | auto, not 'fp16'"),
        ("--batch=big", "--batch expects int | auto, not 'big'"),
        ("--run_dir=null", "--run_dir expects text, not 'null'"),
        ("--model.n_layers=many", "--model.n_layers expects int | null, not 'many'"),
        ("--model.adam.betas=[1]", "--model.adam.betas expects [float, float], not ['1']"),
        ("--data.sizes=3", "--data.sizes expects [int, ...], not '3'"),
        ("--data.names=a,b", "--data.names expects [text, ...], not 'a,b'"),
        ("--data.mix=zh: 1", "--data.mix expects {text: float, ...}, not 'zh: 1'"),
        ("--data.mix={zh: x}", "--data.mix expects {text: float, ...}, not {'zh': 'x'}"),
        ("--data.mix={zh: 1, zh: 2}", "--data.mix: duplicate key 'zh': keep one of them"),
        ("--data.lengths={a: 1}", "--data.lengths expects [int, ...] | null, not {'a': '1'}"),
    ],
)
def test_a_mistake_in_a_flag_is_told_in_one_line(argument: str, message: str) -> None:
    """A wrong flag is named with what it expects, an unknown one with the nearest known one."""
    assert mistake(argument) == message


def test_of_keys_with_one_name_the_nearest_section_is_meant() -> None:
    """Where two sections have the same key, the section that was written decides."""
    with pytest.raises(UserError, match=r"^unknown option --plam\.seed: did you mean --plan\.seed\?$"):
        config.parse(TwoSeeds, ["--plam.seed=1"], prog="p")


def test_a_flag_does_not_swallow_the_next_one() -> None:
    """A flag whose value was forgotten says so."""
    assert mistake("--steps", "--debug") == "--steps has no value: write --steps=VALUE, it expects int"


def test_abbreviations_are_unknown() -> None:
    """The unique beginning of a key is not the key."""
    for beginning in ["--peak=1", "--model.n=3", "--print", "--model.pre=tiny", "--deb"]:
        assert mistake(beginning).startswith("unknown option ")


def test_line_breaks_in_what_the_user_wrote_stay_out_of_the_message() -> None:
    """A message is one line even when the flag is not."""
    for argument in ["--a\nb=1", "--steps=1\n2", "a\n", "--data.mix=[\n", "--data.mix={a\nb: c}", "--config=a\nb"]:
        mistake(argument)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {n_layer: 3}", "unknown key 'model.n_layer': did you mean 'model.n_layers'?"),
        (
            "n_layers: 3\nmodle: 1\nmodel: {n_layers: 3}",
            "unknown key 'n_layers': did you mean 'model.n_layers'? (also unknown: 'modle')",
        ),
        ("modle: {n_layers: 3}", "unknown key 'modle': did you mean 'model'?"),
        ("model: {adam: {beta: 3}}", "unknown key 'model.adam.beta': did you mean 'model.adam.betas'?"),
        ("n_layers: 3", "unknown key 'n_layers': did you mean 'model.n_layers'?"),
        ("steps: fast", "'steps' expects int, not 'fast'"),
        ("steps:", "'steps' expects int, not ''"),
        ("steps: [1]", "'steps' expects int, not ['1']"),
        ("run_dir:", "'run_dir' expects text, not ''"),
        ("run_dir: [a]", "'run_dir' expects text, not ['a']"),
        ("model: {adam: {betas: 3}}", "'model.adam.betas' expects [float, float], not '3'"),
        ("data: {names: a}", "'data.names' expects [text, ...], not 'a'"),
        ("model: 3", "'model' is a section: it holds lines 'key: value', not '3'"),
        ("[1]", "a configuration file holds lines 'key: value', not ['1']"),
        ("hello", "a configuration file holds lines 'key: value', not 'hello'"),
        ("steps: 1\nsteps: 2", "duplicate key 'steps': keep one of them"),
        ("steps: 1\n'steps': 1", "duplicate key 'steps': keep one of them"),
        ("model: {n_layers: 1, n_layers: 2}", "duplicate key 'model.n_layers': keep one of them"),
        ("model: {n_layers: 1}\nmodel: {preset: tiny}", "duplicate key 'model': keep one of them"),
        ("model: {n_layers: 1}\nmodel.n_layers: 2", "duplicate key 'model.n_layers': keep one of them"),
        ("data: {mix: {zh: 1, zh: 2}}", "'data.mix': duplicate key 'zh': keep one of them"),
        ("? [a]\n: b", "a key is a word, not ['a']"),
        ("steps: 1\n x: 2", "not valid YAML in line 2: mapping values are not allowed here"),
        ("data: [1", "not valid YAML in line 1: expected ',' or ']', but got '<stream end>'"),
        ("steps: 1\n---\nsteps: 2", "not valid YAML in line 2: but found another document"),
        ("data: {names: &a [*a]}", "not valid YAML: aliases are not supported, write the value out"),
    ],
)
def test_a_mistake_in_a_file_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    """A wrong line of a file is named by file and key, an unknown key with the nearest known one."""
    assert file_mistake(tmp_path, text) == message
    with pytest.raises(UserError) as caught:
        config.load(Options, tmp_path / "x.yaml")
    assert without_line(str(caught.value)) == f"{tmp_path / 'x.yaml'}: {message}"


def test_a_wrong_line_is_told_although_a_flag_overrides_it(tmp_path: Path) -> None:
    """A file is checked in full."""
    file = tmp_path / "x.yaml"
    file.write_text("steps: fast")
    assert mistake(f"--config={file}", "--steps=3") == f"{file}:1: 'steps' expects int, not 'fast'"


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A missing file, a directory and a file of other bytes are user errors that name the path."""
    missing = tmp_path / "missing.yaml"
    assert mistake(f"--config={missing}") == (
        f"{missing}: this configuration file cannot be read: No such file or directory"
    )
    assert mistake("--config", str(tmp_path)) == f"{tmp_path}: this configuration file cannot be read: Is a directory"
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    assert mistake(f"--config={binary}") == f"{binary}: a configuration file is UTF-8 text, this is something else"
    binary.write_bytes(b"steps: \x01")
    assert mistake(f"--config={binary}").startswith(f"{binary}: not valid YAML: ")


def test_two_files_are_refused() -> None:
    """Only one --config is allowed, so that the order of files cannot matter."""
    assert mistake("--config=a", "--config=b") == "--config is given twice: put all values into one file"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KEYS), st.text(max_size=8))
def test_any_text_on_any_flag_is_a_value_or_a_one_line_mistake(key: str, text: str) -> None:
    """Nothing that can be typed ends in a traceback."""
    try:
        config.to_dict(parse(f"--{key}={text}"))
    except UserError as error:
        assert len(str(error).splitlines()) == 1

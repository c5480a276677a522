"""The command `babyllm`."""

import io
from pathlib import Path

import pytest

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.generation import generate
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.store.shards import open_tokens
from babyllm.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("preset", "total"),
    [("92m", 91_654_656), ("160m", 159_414_784), ("218m", 218_156_032), ("1b", 1_100_048_384)],
)
def test_plan_prints_the_parameters_of_a_preset(preset: str, total: int, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` prints parameters by part, whose sum is the total, and the FLOPs per token."""
    run(["plan", f"--model.preset={preset}"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    counts = {words[0]: int(words[1].replace(",", "")) for words in lines[:6]}
    assert counts["total"] == total == sum(count for part, count in counts.items() if part != "total")
    assert "FLOPs" in lines[6]


def test_plan_counts_what_the_model_has(capsys: pytest.CaptureFixture[str]) -> None:
    """The planned total is the number of parameters of the model that is then made."""
    run(["plan", "--model.preset=tiny", "--model.vocab_size=100", "--model.d_model=64"])
    total = int(capsys.readouterr().out.splitlines()[5].split()[1].replace(",", ""))
    config = ModelConfig(100, 6, 64, 4, 2, tie_embeddings=True)
    assert total == sum(p.numel() for p in Transformer(config).parameters())


def test_inspect_counts_and_shows_documents(token_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect --verify` counts documents, tokens and bytes by domain and split and reads every shard."""
    run(["inspect", str(token_dir), "--verify"])
    out = capsys.readouterr().out
    rows = [line.split()[:4] for line in out.splitlines()]
    shards = open_tokens(token_dir).manifest.shards
    for split, domain in {(s.split, s.domain) for s in shards}:
        mine = [s for s in shards if (s.split, s.domain) == (split, domain)]
        assert [split, domain, f"{sum(s.documents for s in mine):,}", f"{sum(s.tokens for s in mine):,}"] in rows
    assert "verified" in out


def test_generate_prints_what_the_function_gives(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`generate` streams the prompt and the text that `babyllm.generate` returns for the same seed."""
    model = Transformer(ModelConfig(tokenizer.vocab_size, 1, 16, 2, max_seq_len=64))
    save_model(tmp_path, model, tokenizer)
    run(["generate", str(tmp_path), "今天", "--max_new_tokens=12", "--seed=3", "--runtime.device=cpu"])
    expected = generate(model, tokenizer, "今天", max_new_tokens=12, seed=3)
    assert capsys.readouterr().out == f"今天{expected}\n"
    run(
        ["generate", str(tmp_path), "今天", "--max_new_tokens=12", "--num_beams=2", "--stop=天", "--runtime.device=cpu"]
    )
    best = generate(model, tokenizer, "今天", max_new_tokens=12, num_beams=2, stop="天")
    assert capsys.readouterr().out == f"今天{best}\n"
    for mistake in ("--temperature=-1", "--num_beams=0", "--max_new_tokens=-1"):
        with pytest.raises(UserError, match=mistake.strip("-")):
            run(["generate", str(tmp_path), "今天", mistake, "--runtime.device=cpu"])
        assert capsys.readouterr().out == "", "nothing is printed before a mistake is reported"


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["--", "-今天"], "", "-今天"),
        (["--seed=3", "--", "--seed=4"], "", "--seed=4"),
        (["-", "--seed=3"], "今天\n", "今天"),
        (["--", "-"], "一\n二\n\n", "一\n二\n"),
    ],
)
def test_generate_takes_any_prompt(
    words: list[str],
    stdin: str,
    prompt: str,
    tmp_path: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What follows `--` is not a flag, and `-` stands for stdin."""
    model = Transformer(ModelConfig(tokenizer.vocab_size, 1, 16, 2, max_seq_len=64))
    save_model(tmp_path, model, tokenizer)
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    run(["generate", str(tmp_path), *words])
    assert capsys.readouterr().out.startswith(prompt)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["generat"],
            "no such command; choose one of chat, classifier, clean, compare, completion, dedup, doctor, dpo, eval, "
            "export, flywheel, generate, grpo, harvest, import, index, inspect, judge",
        ),
        (["generate"], "usage: babyllm generate RUN_DIR"),
        (["generate", "/nowhere", "hello"], "/nowhere: does not exist; give the directory of a run"),
        (["plan", "--model.presset=92m"], "did you mean --model.preset?"),
        (["plan", "--model.preset=93m"], "choose one of nano, tiny"),
        (["inspect", "/nowhere"], "/nowhere: no such file or directory"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(argv: list[str], message: str) -> None:
    """A wrong command, argument or flag is a UserError of one line that says what to do."""
    with pytest.raises(UserError) as error:
        run(argv)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the commands and their arguments."""
    run(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("generate RUN_DIR [PROMPT]", "inspect DIR_OR_FILE", "plan"))


def test_without_arguments_the_next_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts, then a base model, then chats, then a chat model: each time the next command, with the paths there are."""
    monkeypatch.chdir(tmp_path)
    step = tmp_path / "runs" / "a" / "step_00000010"
    made = {
        "put .txt files": None,
        "Next: babyllm pretrain --data.path='my novels'": (tmp_path / "my novels" / "1.txt", "text"),
        "Next: babyllm generate runs/a": (step / "config.json", '{"architectures": ["LlamaForCausalLM"]}'),
        "Next: babyllm sft --init_from=runs/a --data.path=chats.jsonl": (
            tmp_path / "chats.jsonl",
            '{"messages": []}\n',
        ),
        "Next: babyllm chat runs/a": (step / "tokenizer_config.json", '{"chat_template": ""}'),
    }
    for following, file in made.items():
        if file:
            file[0].parent.mkdir(parents=True, exist_ok=True)
            file[0].write_text(file[1], encoding="utf-8")
            (tmp_path / "runs").mkdir(exist_ok=True)
            if step.parent.is_dir():
                (step.parent / "config.yaml").touch()
        run([])
        assert following in capsys.readouterr().out

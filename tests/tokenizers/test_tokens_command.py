"""`babyllm tokens`: a text as pieces, and tokenizers compared on texts."""

import io
import json
from pathlib import Path

import pytest
from tokenizer_fixtures import EN, ZH, foreign_model

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.inspection.pieces import pieces_of, shown_pieces
from babyllm.model.options import ModelOptions
from babyllm.prepare.compression import Compression, compare_tokenizers, cost_of
from babyllm.runtime.machine import shows_colours
from babyllm.tokenizer import Tokenizer


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def unable() -> Tokenizer:
    """A tokenizer without bytes, which does not know Chinese characters."""
    settings = {"model_type": "bpe", "vocab_size": 60, "normalization_rule_name": "identity"}
    return Tokenizer(foreign_model([" ".join(EN)] * 20, **settings), "model")


def test_pieces_join_to_the_text(trained: Tokenizer, bytewise: Tokenizer) -> None:
    """The bytes of the pieces are the text; parts of characters are hexadecimal, control characters escaped."""
    for tokenizer in (trained, bytewise):
        text = "the 龘 cat\t\x1b[31m<s>\n"
        pieces = pieces_of(tokenizer, text)
        assert b"".join(piece.raw for piece in pieces) == text.encode()
        assert [piece.id for piece in pieces] == tokenizer.encode(text)
        shown = [piece.text() for piece in pieces]
        assert "".join(shown) == "the <E9><BE><98> cat\\t\\x1b[31m<s>\\n"
        assert not any(piece.is_special for piece in pieces)


def test_special_tokens_are_read_on_demand(trained: Tokenizer) -> None:
    """Names of special tokens become those tokens only if asked for, with a background of their own."""
    pieces = pieces_of(trained, "a<|im_end|></s>b", reads_special=True)
    assert [piece.id for piece in pieces if piece.is_special] == [5, 2]
    plain, coloured = shown_pieces(pieces, False), shown_pieces(pieces, True)
    assert plain == "a|<|im_end|>|</s>|b"
    backgrounds = [part.partition("m")[0] for part in coloured.split("\x1b[30;")[1:]]
    assert backgrounds == ["48;5;153", "48;5;213", "48;5;213", "48;5;223"]


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal has colours, unless NO_COLOR is set; a file has none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert shows_colours(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_colours(Terminal())


def test_the_command_shows_ids_and_what_is_lost(
    saved: Path, unable: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each piece has a line of id, bytes and text; a text that does not come back is shown as it does."""
    unable.save(tmp_path)
    run(["tokens", str(saved), str(tmp_path), "--text=at 月光"])
    first, _, second = capsys.readouterr().out.partition(f"{tmp_path.name}:\n")
    assert f"{saved.name}:\nat| |月|光\n" in first and "decodes" not in first
    assert "e5 85 89" in first and "5 characters, 9 bytes" in first
    assert "<unk>" in second and "decodes to another text: at  ⁇ " in second


def write_texts(folder: Path) -> Path:
    (folder / "raw" / "zh").mkdir(parents=True)
    (folder / "raw" / "en").mkdir()
    (folder / "raw" / "zh" / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": ZH * (1 + i % 3)}) for i in range(40)), encoding="utf-8"
    )
    (folder / "raw" / "en" / "b.txt").write_text(" ".join(EN) * 30, encoding="utf-8")
    return folder / "raw"


def test_the_numbers_are_those_of_the_texts(trained: Tokenizer, unable: Tokenizer, tmp_path: Path) -> None:
    """Counts by domain are those of encoding every document, and "all" is their sum."""
    found = compare_tokenizers({"mine": trained, "theirs": unable}, [write_texts(tmp_path)])
    chinese, english = [ZH * (1 + i % 3) for i in range(40)], [" ".join(EN) * 30]
    for domain, texts in (("zh", chinese), ("en", english)):
        for name, tokenizer in (("mine", trained), ("theirs", unable)):
            one = found[name][domain]
            assert (one.documents, one.characters) == (len(texts), sum(map(len, texts)))
            assert one.bytes == sum(len(text.encode()) for text in texts)
            assert one.tokens == sum(map(len, tokenizer.encode_batch(texts)))
    assert found["mine"]["all"] == found["mine"]["zh"] + found["mine"]["en"]
    assert found["theirs"]["zh"].unknown_share > 0.9 and found["theirs"]["en"].unknown == 0
    assert found["mine"]["zh"].partial == 0 and found["mine"]["all"].bytes_per_token > 1
    rare = compare_tokenizers({"mine": trained}, [_file(tmp_path / "rare.txt", "龘龘")])["mine"]["all"]
    assert (rare.tokens, rare.partial, rare.partial_share) == (6, 6, 1.0)


def _file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_sample_has_text_of_all_parts(trained: Tokenizer, tmp_path: Path) -> None:
    """With a limit, no more than it is read beyond the last document, from every file."""
    for i in range(4):
        text = "\n".join(json.dumps({"text": "cat " * 250}) for _ in range(5_000))
        _file(tmp_path / f"part{'abcd'[i]}.jsonl", text)
    found = compare_tokenizers({"mine": trained}, [tmp_path], sample_bytes=40_000)["mine"]
    assert sorted(found) == ["all", "parta", "partb", "partc", "partd"]
    assert found["all"].bytes == 40_000 and len({found[name].bytes for name in found if name != "all"}) == 1


def test_the_table_has_a_row_for_each_domain_and_tokenizer(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the numbers, and the vocabulary's cost in the model of the given shape."""
    shape = ["--model.d_model=64", "--model.tie_embeddings=false"]
    run(["tokens", str(saved), f"--files={write_texts(tmp_path)}", *shape])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if saved.name in line]
    assert [row[0] for row in rows] == ["en", "zh", "all"]
    assert rows[2][-5:-2] == ["600", "uint16", "76,800"] and rows[2][-1] == "%"
    cost = cost_of(Tokenizer.load(saved), ModelOptions(d_model=64, tie_embeddings=False))
    assert f"{cost.share:.1%}" == rows[2][-2] + "%" and cost.parameters == 2 * 600 * 64


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "tokens takes --text=TEXT, .* or --files=PATH"),
        (["--text=a", "--files=b"], "tokens takes --text=TEXT, .* or --files=PATH"),
        (["--files=/nowhere"], "/nowhere"),
        (["--text=\udcff"], "lone surrogate"),
    ],
)
def test_wrong_flags_are_named(saved: Path, flags: list[str], message: str) -> None:
    """Neither text nor files, both, and what cannot be read are errors of one line."""
    with pytest.raises(UserError, match=message):
        run(["tokens", str(saved), *flags])
    with pytest.raises(UserError, match="given twice"):
        run(["tokens", str(saved), str(saved), "--text=a"])


def test_no_tokens_have_no_share() -> None:
    """The shares of nothing are 0."""
    nothing = Compression()
    assert nothing.bytes_per_token == nothing.partial_share == nothing.unknown_share == 0

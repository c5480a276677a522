"""Common to all stages: files of the user stay untouched, an empty result is an error, reasons are shown."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers

from babyllm.commands.corpus.inspect import Flags, run
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.tokens import tokenize
from babyllm.prepare.vocabulary import learn_vocabulary
from babyllm.prepare.vocabulary_config import VocabularyConfig
from babyllm.store.corpus import open_corpus
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.exact import exact_forms
from babyllm.text.dedup.stage import dedup
from babyllm.tokenizer import Tokenizer

ONE = WorkConfig(workers=1)
NOTHING = replace(CleanConfig(), filters=[])
DEDUP = DedupConfig(near=[], work=ONE)
TEXTS = [f"今天天气很好，我们去公园散步{i * 7919}。" for i in range(40)]
Stage = Callable[[Path, Path], object]


def write(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("raw") / "in" / "a.jsonl", *({"text": text} for text in TEXTS)).parent


@pytest.fixture(scope="module")
def cleaned(raw: Path) -> Path:
    clean([raw], raw.parent / "clean", NOTHING, work=ONE)
    return raw.parent / "clean"


@pytest.fixture
def stages(tokenizer: Tokenizer) -> dict[str, Stage]:
    """Each stage, as a function from a corpus or raw files to a directory."""
    return {
        "clean": lambda path, out: clean([path], out, NOTHING, work=ONE),
        "dedup": lambda path, out: dedup([path], out, DEDUP),
        "tokenize": lambda path, out: tokenize([path], tokenizer, out, work=ONE),
        "train-tokenizer": lambda path, out: learn_vocabulary(
            [path], out, VocabularyConfig(330, hard_vocab_limit=False), work=ONE
        ),
    }


@pytest.mark.parametrize("stage", ["clean", "dedup", "tokenize", "train-tokenizer"])
def test_files_of_others_are_left_alone(cleaned: Path, tmp_path: Path, stages: dict[str, Stage], stage: str) -> None:
    """A directory with other files is refused before anything is written; hidden files are allowed."""
    for name in ("tokenizer.json", "part-00000.parquet", "corpus.json", "rejected.jsonl", ".work/mine"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        with pytest.raises(UserError, match="which this command did not make; choose a directory that is new") as error:
            stages[stage](cleaned, out)
        assert "\n" not in str(error.value) and "delete" not in str(error.value)
        assert [path for path in out.rglob("*") if path.is_file()] == [out / name] and (
            out / name
        ).read_text() == "mine"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").touch()
    assert stages[stage](cleaned, tmp_path / "empty") and (tmp_path / "empty" / ".gitkeep").exists()
    assert stages[stage](cleaned, tmp_path / "empty") is None


@pytest.mark.parametrize("stage", ["clean", "dedup", "tokenize", "train-tokenizer"])
def test_an_output_is_apart_from_its_inputs(cleaned: Path, stages: dict[str, Stage], stage: str) -> None:
    """An output that is an input, is inside one or contains one is refused; the message does not advise to delete."""
    before = sorted(cleaned.parent.rglob("*"))
    for out, how in ((cleaned, "is"), (cleaned / "out", "lies in"), (cleaned.parent, "holds")):
        with pytest.raises(UserError, match=f"{how} .*, which is read; choose another OUT") as error:
            stages[stage](cleaned, out)
        assert "delete" not in str(error.value)
    assert sorted(cleaned.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["conversations.json", "manifest.json", "corpus.json"])
def test_a_file_with_the_name_of_a_manifest_is_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A user's file is not mistaken for a manifest of babyllm, whatever its name."""
    write(tmp_path / name, {"text": TEXTS[0]}, {"text": TEXTS[1]})
    run(Flags(), str(tmp_path))
    assert TEXTS[0] in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["clean", "tokenize", "train-tokenizer"])
def test_a_stage_without_documents_fails(tmp_path: Path, stages: dict[str, Stage], stage: str) -> None:
    """The reasons are shown with counts, nothing is committed, and the same directory can be used after the repair."""
    write(tmp_path / "in" / "a.jsonl", *({"said": text} for text in TEXTS))
    with pytest.raises(UserError, match="no document is left: all 40 records: no field holds text; name it with"):
        stages[stage](tmp_path / "in", tmp_path / "out")
    for mark in ("corpus.json", "manifest.json", "training.json"):
        assert not (tmp_path / "out" / mark).exists()
    with pytest.raises(UserError, match="all 40 records: no field holds text"):
        run(Flags(), str(tmp_path / "in"))
    write(tmp_path / "in" / "a.jsonl", *({"text": text} for text in TEXTS))
    assert stages[stage](tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


def test_many_rejected_records_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If a tenth or more of the records could not be read, a line on the console says so."""
    write(tmp_path / "in.jsonl", *({"text": text} for text in TEXTS), *({"said": text} for text in TEXTS[:10]))
    clean([tmp_path / "in.jsonl"], tmp_path / "out", NOTHING, work=ONE)
    assert "warning: 10 of 50 records could not be used, 10 of them: no field holds text" in capsys.readouterr().err


def test_a_corpus_is_identified_by_its_contents(
    cleaned: Path, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name, through a link or after a move, a corpus is the same input; files are not corpora."""
    monkeypatch.chdir(cleaned.parent)
    (tmp_path / "link").symlink_to(cleaned)
    assert dedup([cleaned], tmp_path / "unique", DEDUP) and tokenize([cleaned], tokenizer, tmp_path / "t", work=ONE)
    for path in (Path("clean"), Path("./clean"), tmp_path / "link"):
        assert dedup([path], tmp_path / "unique", DEDUP) is None
        assert tokenize([path], tokenizer, tmp_path / "t", work=ONE) is None
    for path in (Path("in"), Path("in/a.jsonl")):
        with pytest.raises(UserError, match=r"corpus .* that `babyllm clean` or `dedup` has made"):
            dedup([path], tmp_path / "other", DEDUP)


# Exact repetitions

SAME = [
    ("a  b", "a b", "a\tb ", "\n a b\r\n"),
    ("x\n\ny", "x\r\n \r\n\r\ny", "x \n\u3000\n\u3000\u3000y"),
    ("e\u0301", "é"),
]
DIFFERENT = [
    ("12*3=36", "1*23=36", "123=36", "-5+3", "5+3", "10²", "102"),
    ("if x:\n    y()\nz()", "if x:\n    y()\n    z()"),
    ("。。。", "——·", "@@@", ""),
    ("ABC", "abc", "ＡＢＣ"),
]


def forms(texts: tuple[str, ...], fold: list[str]) -> set[bytes]:
    found = exact_forms(pa.array(texts, pa.large_string()), fold)  # type: ignore[arg-type]
    return {found.values[a:b].tobytes() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)}


def test_exact_repetitions_differ_in_whitespace_at_most() -> None:
    """Unicode's forms of a character and whitespace do not count; indentation, punctuation, case and width do."""
    assert [len(forms(texts, [])) for texts in SAME] == [1, 1, 1]
    assert [len(forms(texts, [])) for texts in DIFFERENT] == [7, 2, 4, 3]


def test_further_differences_that_do_not_count_are_chosen() -> None:
    """Case, width and punctuation are folded by a setting each; a text of punctuation alone keeps it."""
    assert len(forms(("ABC", "abc"), ["case"])) == len(forms(("ＡＢＣ", "ABC"), ["width"])) == 1
    assert len(forms(("Ｈello，　World！", "hello world"), ["case", "width", "punctuation"])) == 1
    assert len(forms(("。。。", "@@@", "天。", "天"), ["punctuation"])) == 3


@pytest.mark.parametrize("kind", ["lines.json", "lines.jsonl.gz", "table.csv"])
def test_evaluation_sets_are_read_as_corpora_are(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """JSON lines in .json, packed and GBK files are read, __MACOSX is skipped, and a file that is not read is named."""
    question = "某商店以八折优惠出售一批衣服原价每件二百元请问现在买三件一共需要付多少钱"
    write(tmp_path / "in" / "a.jsonl", {"text": f"练习题：{question}？"}, {"text": TEXTS[0]})
    clean([tmp_path / "in"], tmp_path / "clean", NOTHING, work=ONE)
    file, lines = tmp_path / "eval" / "x.json" / kind, f'{json.dumps({"q": question})}\n{{"q": "短"}}\n'
    file.parent.mkdir(parents=True)
    (tmp_path / "eval" / "__MACOSX").mkdir()
    (tmp_path / "eval" / "__MACOSX" / "._t.jsonl").write_bytes(b"\0\5\x16\7\xff")
    (tmp_path / "eval" / "notes.docx").write_bytes(b"PK")
    content = f"q\n{question}\n".encode("gbk") if kind == "table.csv" else lines.encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    dedup([tmp_path / "clean"], tmp_path / "out", replace(DEDUP, decontaminate=[str(tmp_path / "eval")]))
    assert [document.text for document in open_corpus(tmp_path / "out").documents()] == [TEXTS[0]]
    assert f"--decontaminate does not read {tmp_path / 'eval' / 'notes.docx'}\n" in capsys.readouterr().err


def test_characters_that_cannot_be_encoded_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such characters are counted in the report and on the console; text with no others is refused."""
    model = tokenizers.models.WordLevel({"[UNK]": 0, "</s>": 1, "Hello": 2}, unk_token="[UNK]")
    own = tokenizers.Tokenizer(model)
    own.add_special_tokens(["[UNK]", "</s>"])
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(own.to_str().encode(), "json", {"eos": "</s>"})
    write(tmp_path / "some.jsonl", {"text": "Hello 世界"})
    report = tokenize([tmp_path / "some.jsonl"], tokenizer, tmp_path / "some", held_out=0.0, work=ONE)
    assert report is not None and ("characters unknown to the tokenizer", 2) in report.facts
    assert "warning: 2 of 7 characters are unknown to the tokenizer" in capsys.readouterr().err
    write(tmp_path / "none.jsonl", {"text": "世界"})
    with pytest.raises(UserError, match="2 of 2 characters are unknown to the tokenizer"):
        tokenize([tmp_path / "none.jsonl"], tokenizer, tmp_path / "none", held_out=0.0, work=ONE)


def test_a_script_without_a_guard_is_reported(raw: Path, tmp_path: Path) -> None:
    """If workers execute the script that starts them, the missing guard is named."""
    script = (
        "from pathlib import Path\nfrom babyllm.text.clean.stage import clean\n"
        "from babyllm.text.clean.filters import CleanConfig\n"
        "from babyllm.pipeline.partitions import WorkConfig\n"
        f"clean([Path({str(raw)!r})], Path({str(tmp_path / 'o')!r}), CleanConfig(), work=WorkConfig(2, 1000))\n"
    )
    (tmp_path / "script.py").write_text(script)
    ended = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert ended.returncode == 1 and "needs `if __name__ == '__main__':`" in ended.stderr.splitlines()[-1]
    assert "another process is writing it" not in ended.stderr


@pytest.mark.parametrize("kind", ["bpe", "byte_bpe"])
def test_symbols_are_one_token_and_a_vocabulary_may_be_smaller(kind: str) -> None:
    """A symbol is one token wherever it occurs; with a soft limit, training stops at the tokens a text allows."""
    tokenizer = Tokenizer.train(
        TEXTS,
        4000,
        model_type=kind,  # type: ignore[arg-type]
        symbols=["<think>"],
        hard_vocab_limit=False,
    )
    assert 280 < tokenizer.vocab_size < 4000
    text = "今天<think>天气"
    assert len(tokenizer.encode("<think>")) == 1 and tokenizer.decode(tokenizer.encode(text)) == text
    for symbols in (["a b"], ["</s>"], ["x", "x"]):
        with pytest.raises(UserError, match=r"symbols: .* leave it out"):
            Tokenizer.train(TEXTS, 400, model_type=kind, symbols=symbols)  # type: ignore[arg-type]

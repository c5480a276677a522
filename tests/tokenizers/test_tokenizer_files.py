"""Files of tokenizers: damaged, published, converted, extended."""

import json
import os
import pickle
import random
from pathlib import Path
from typing import Literal

import pytest
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizer_fixtures import EN, HARD, ZH, auto, byte_level, corpus, foreign_model

from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer
from babyllm.tokenizer.plain_json import with_bos
from babyllm.tokenizer.sentencepiece_json import with_plain_merges


def real_texts(data: Path) -> list[str]:
    parquet = pytest.importorskip("pyarrow.parquet")
    with parquet.ParquetFile(data / "corpora" / "chinese-poetry.parquet") as file:
        texts: list[str] = next(file.iter_batches(300, columns=["text"])).column(0).to_pylist()
    for name in ("alpaca_en_demo.json", "alpaca_zh_demo.json"):
        records = json.loads((data / "sft" / name).read_text(encoding="utf-8"))
        texts += [f"{r['instruction']}\n{r['input']}\n{r['output']}" for r in records[:100]]
    return texts


@pytest.fixture(scope="module")
def data() -> Path:
    if not os.environ.get("BABYLLM_DATA"):
        pytest.skip("BABYLLM_DATA names no folder of real data")
    return Path(os.environ["BABYLLM_DATA"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", b"\x00garbage", "tokenizer.model is not a SentencePiece model"),
        ("tokenizer.model", b"", "tokenizer.model is not a SentencePiece model"),
        ("tokenizer.json", b"{}", "tokenizer.json is not a tokenizer.json"),
        ("tokenizer.json", b"\xff", "tokenizer.json is not a tokenizer.json"),
        ("other.txt", b"", "no tokenizer at"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """A directory without a readable tokenizer is an error that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    """A path that does not exist is an error that names it."""
    with pytest.raises(UserError, match=r"no tokenizer at .*nowhere"):
        Tokenizer.load(tmp_path / "nowhere")


def test_word_models_are_refused(tmp_path: Path) -> None:
    """A SentencePiece model of a kind that has no tokenizer.json is an error when it is loaded."""
    (tmp_path / "w.model").write_bytes(foreign_model(corpus(), model_type="word", vocab_size=50))
    with pytest.raises(UserError, match=r"w\.model is a model of whole words"):
        Tokenizer.load(tmp_path / "w.model")


# Foreign SentencePiece models


@pytest.mark.parametrize("name", ["chatglm2-64789.model", "llama2-32000.model"])
def test_published_models_convert_exactly(data: Path, tmp_path: Path, name: str) -> None:
    """On real models and texts, transformers and our two backends return the ids and texts of SentencePiece."""
    path = data / "tokenizers" / name
    ours = Tokenizer.load(path)
    ours.save(tmp_path)
    converted, theirs = Tokenizer.load(tmp_path / "tokenizer.json"), auto(tmp_path)
    spaces = [f"{left}{' ' * n}{right}" for n in range(36) for left, right in (("", ""), ("", "the"), ("a", "世"))]
    texts = [*real_texts(data), *HARD, *spaces]
    expected = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(texts)
    assert ours.encode_batch(texts) == expected
    assert converted.encode_batch(texts) == expected
    assert [converted.decode(ids) for ids in expected] == [ours.decode(ids) for ids in expected] == texts
    assert theirs(texts[::10], split_special_tokens=True)["input_ids"] == expected[::10]
    joined = [b"".join(map(ours.token_bytes, ids)) for ids in expected]
    assert joined == [(" " * bool(text) + text).encode() for text in texts]
    assert (ours.unk_id, ours.bos_id, ours.eos_id, ours.pad_id) == (0, 1, 2, None)
    assert ours.special == {"<unk>": 0, "<s>": 1, "</s>": 2}


EXACT = {"normalization_rule_name": "identity"}


PREFIXED = {**EXACT, "remove_extra_whitespaces": False}


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "bpe", **PREFIXED},
        {"model_type": "bpe", **EXACT},
        {"model_type": "bpe", **EXACT, "byte_fallback": True},
        {"model_type": "bpe", **PREFIXED, "add_dummy_prefix": False, "user_defined_symbols": ["<sep>", "at", "明月"]},
    ],
)
def test_other_bpe_models_convert_exactly(tmp_path: Path, options: dict[str, object]) -> None:
    """Prefix spaces, merged spaces, unknown characters and user-defined pieces are encoded as by SentencePiece."""
    check_conversion(tmp_path, options)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "bpe"},
        {"model_type": "unigram", **EXACT},
        {"model_type": "unigram", **PREFIXED, "byte_fallback": True, "user_defined_symbols": ["<sep>", "at", "明月"]},
    ],
)
def test_models_in_doubt_convert_with_a_warning(tmp_path: Path, options: dict[str, object]) -> None:
    """Unigram and normalising models convert well, with a warning that rare texts may differ."""
    with pytest.warns(UserWarning, match="unigram|normaliser"):
        check_conversion(tmp_path, options)


def check_conversion(directory: Path, options: dict[str, object]) -> None:
    (directory / "foreign.model").write_bytes(foreign_model(corpus(), control_symbols=["<pad>"], **options))
    ours = Tokenizer.load(directory / "foreign.model")
    ours.save(directory / "saved")
    converted = Tokenizer.load(directory / "saved" / "tokenizer.json")
    rng = random.Random(1)
    known = [*HARD, *EN, *ZH, " ", "  ", "<sep>", "㋀", "㋁"]
    texts = [*corpus(50), *known, *("".join(rng.choices(known, k=8)) for _ in range(300))]
    ids, expected = converted.encode_batch(texts), ours.encode_batch(texts)
    if options["model_type"] == "unigram":  # equally likely: three spaces are 1 + 2 or 2 + 1
        ids, expected = list(map(sorted, ids)), list(map(sorted, expected))
    assert ids == expected


def test_equal_scores_are_reported(tmp_path: Path, trained: Tokenizer) -> None:
    """Saving warns where pieces share a score, which the tokenizers library cannot express."""
    trained.save(tmp_path)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((tmp_path / "tokenizer.model").read_bytes())
    for piece in proto.pieces:
        piece.score = 0.0
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.warns(UserWarning, match="share their score"):
        Tokenizer.load(tmp_path).save(tmp_path)


# Foreign tokenizer.json files


def test_roles_are_guessed_from_well_known_names(bytewise: Tokenizer) -> None:
    """Without a configuration, the end of text is found by well-known names; absent roles are None."""
    assert bytewise.eos_id == bytewise.special["</s>"]
    assert (bytewise.bos_id, bytewise.pad_id, bytewise.unk_id) == (None, None, None)


def test_roles_are_read_from_the_configuration(tmp_path: Path) -> None:
    """tokenizer_config.json overrides special_tokens_map.json, tokens may be objects, and null means no token."""
    byte_level(tmp_path / "tokenizer.json", ["</s>", "<s>", "<|im_end|>", "<|pad|>"])
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<|pad|>"}))
    config = {"eos_token": {"content": "<|im_end|>", "special": True}, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (2, 3, None)
    tokenizer.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert (again.eos_id, again.pad_id, again.bos_id, again.sha256) == (2, 3, None, tokenizer.sha256)


@pytest.mark.parametrize(
    ("special", "config", "message"),
    [
        (["<stop>"], {}, "does not name its eos_token"),
        (["</s>"], {"eos_token": "<gone>"}, "lacks '<gone>', the eos_token"),
        (["</s>"], None, "tokenizer_config.json: is not JSON"),
    ],
)
def test_roles_that_cannot_be_found(tmp_path: Path, special: list[str], config: object, message: str) -> None:
    """A missing end of text, one outside the vocabulary, and a broken configuration are errors that say so."""
    byte_level(tmp_path / "tokenizer.json", special)
    (tmp_path / "tokenizer_config.json").write_text("{" if config is None else json.dumps(config))
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("habit", ["bos", "cut", "pad"])
def test_foreign_json_adds_and_cuts_nothing(tmp_path: Path, habit: str) -> None:
    """A file that adds a bos, truncates or pads has plain ids here; saved, it only adds the bos in transformers."""
    path = byte_level(tmp_path / "tokenizer.json", ["<|endoftext|>", "<|begin_of_text|>"])
    foreign = tokenizers.Tokenizer.from_file(str(path))
    if habit == "bos":
        foreign.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 1)]
        )
    elif habit == "cut":
        foreign.enable_truncation(4)
    else:
        foreign.enable_padding(length=1000, pad_id=0, pad_token="<|endoftext|>")
    foreign.save(str(path))
    tokenizer = Tokenizer.load(path)
    text = "the cat sat on a mat " * 5
    ids = tokenizer.encode(text)
    assert len(ids) < 1000
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.eos_id not in ids
    tokenizer.save(tmp_path / "saved")
    begin = [tokenizer.special["<|begin_of_text|>"]] if habit == "bos" else []
    assert auto(tmp_path / "saved")(text)["input_ids"] == [*begin, *ids]
    assert Tokenizer.load(tmp_path / "saved").sha256 == tokenizer.sha256


@pytest.mark.parametrize("how", ["by its configuration", "by its file", "not"])
def test_what_begins_a_text_is_kept(trained: Tokenizer, tmp_path: Path, how: str) -> None:
    """Where other programs add a bos token, texts begin with it, and after saving transformers still adds it."""
    from transformers import AutoTokenizer

    trained.save(tmp_path / "first")
    config = json.loads((tmp_path / "first" / "tokenizer_config.json").read_text())
    if how == "by its configuration":
        config["add_bos_token"] = True
    else:
        del config["add_bos_token"]
        (tmp_path / "first" / "tokenizer.model").unlink()
    if how == "by its file":
        file = tmp_path / "first" / "tokenizer.json"
        file.write_bytes(with_bos(file.read_bytes(), "<s>", trained.special["<s>"]))
    (tmp_path / "first" / "tokenizer_config.json").write_text(json.dumps(config))
    first = Tokenizer.load(tmp_path / "first")
    first.save(tmp_path / "second")
    second = pickle.loads(pickle.dumps(Tokenizer.load(tmp_path / "second"))).extended(["<|more|>"])
    bos = [trained.special["<s>"]] if how != "not" else []
    assert first.begin_id == second.begin_id == (bos[0] if bos else trained.eos_id)
    assert first.adds_bos == second.adds_bos == bool(bos) and not first.adding_bos(False).adds_bos
    assert Tokenizer.load(tmp_path / "second").sha256 == first.sha256
    text = "今天 token"
    assert AutoTokenizer.from_pretrained(tmp_path / "second")(text)["input_ids"] == [*bos, *first.encode(text)]


def test_role_that_is_an_ordinary_token_becomes_special(tmp_path: Path) -> None:
    """Typed text never becomes the end of text, even where the file has that as an ordinary token."""
    path = byte_level(tmp_path / "tokenizer.json", ["<unk>"])
    foreign = tokenizers.Tokenizer.from_file(str(path))
    foreign.add_tokens(["<|im_end|>"])
    foreign.save(str(path))
    tokenizer = Tokenizer.load(path)
    assert tokenizer.special["<|im_end|>"] == tokenizer.eos_id
    assert tokenizer.eos_id not in tokenizer.encode("stop <|im_end|> here")


# More special tokens


def test_extended_appends_what_is_missing(trained: Tokenizer, bytewise: Tokenizer, tmp_path: Path) -> None:
    """New special tokens go to the vocabulary's end and known ones keep their ids, also after save and load."""
    for i, tokenizer in enumerate((trained, bytewise)):
        n = tokenizer.vocab_size
        extended = tokenizer.extended(["<|tool|>", "<|im_end|>", "<|done|>", "<|tool|>"])
        assert extended.special == {**tokenizer.special, "<|tool|>": n, "<|done|>": n + 1}
        assert (extended.vocab_size, tokenizer.vocab_size) == (n + 2, n)
        extended.save(tmp_path / str(i))
        loaded = Tokenizer.load(tmp_path / str(i))
        assert (loaded.special, loaded.sha256) == (extended.special, extended.sha256)
        text = "a <|tool|> b"
        assert loaded.decode(loaded.encode(text)) == text
        assert max(loaded.encode(text)) < n
        assert auto(tmp_path / str(i))(text)["input_ids"].count(n) == 1
        assert tokenizer.extended(["<|im_end|>"]) is tokenizer


def test_extended_takes_user_defined_pieces(tmp_path: Path) -> None:
    """A template's token that a foreign model matches in text becomes a special token with its old id."""
    (tmp_path / "f.model").write_bytes(foreign_model(corpus(), model_type="bpe", user_defined_symbols=["<|im_end|>"]))
    tokenizer = Tokenizer.load(tmp_path / "f.model")
    (token,) = set(tokenizer.encode("a<|im_end|>")) - set(tokenizer.encode("a"))
    extended = tokenizer.extended(["<|im_end|>"])
    assert extended.special["<|im_end|>"] == token
    assert extended.vocab_size == tokenizer.vocab_size
    assert token not in extended.encode("a<|im_end|>")


@pytest.mark.parametrize("model_type", ["bpe", "byte_bpe"])
def test_merges_are_written_as_every_version_of_tokenizers_reads_them(
    model_type: Literal["bpe", "byte_bpe"], tmp_path: Path
) -> None:
    """Merges are saved as texts such as "a b", also where tokens were added, and load as the same tokenizer."""
    tokenizer = Tokenizer.train(corpus(), 420, model_type=model_type, n_threads=1)
    for one in (tokenizer, tokenizer.extended(["<|more|>"])):
        one.save(tmp_path)
        merges = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
        assert merges and all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
        again = Tokenizer.load(tmp_path / "tokenizer.json")
        assert all(again.encode(text) == one.encode(text) for text in corpus()[:20])


def test_merges_of_parts_with_spaces_stay_pairs() -> None:
    """Merges stay pairs where a part has a space, because a text would be ambiguous."""
    for merges, expected in (([["a", " b"]], [["a", " b"]]), ([["a", "b"], ["ab", "c"]], ["a b", "ab c"]), ([], [])):
        text = json.dumps({"model": {"merges": merges}})
        assert json.loads(with_plain_merges(text))["model"]["merges"] == expected

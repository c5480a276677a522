"""WordPiece, vocabularies of characters, and borders between the words of jieba."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizer_fixtures import CODE, EN, HARD, ZH, auto, corpus, foreign_model

from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "sat", "##s", "##at", "c", "a", "##e", "world", "caf", "##é", *ZH[:20], *".,!?'[]<>"]
TEXTS = ["The CATS sat.", "café Café!", f"{ZH[:6]}cat {ZH[6:9]}, the world", "[MASK] 龘 zebra", "a\u0301 <s>", ""]


def bert(folder: Path, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "mask"]) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}, {"strip_accents": False, "do_lower_case": True}],
)
def test_bert_has_the_ids_of_transformers(settings: dict[str, bool], tmp_path: Path) -> None:
    """BERT's vocab.txt has the ids of transformers, with its rules for case, accents and Chinese characters."""
    folder = bert(tmp_path / "bert", **settings)
    ours, theirs = Tokenizer.load(folder), auto(folder)
    expected = [theirs(t, add_special_tokens=False, split_special_tokens=True)["input_ids"] for t in TEXTS]
    assert ours.encode_batch(TEXTS) == expected
    assert ours.special == {name: i for i, name in enumerate(SPECIAL)}
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id) == (2, 3, 0, 1)
    ours.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    again, converted = Tokenizer.load(tmp_path / "saved"), auto(tmp_path / "saved")
    assert (again.encode_batch(TEXTS), again.sha256) == (expected, ours.sha256)
    assert [converted(t, split_special_tokens=True)["input_ids"] for t in TEXTS] == expected


def test_a_vocab_txt_without_settings_is_lower_case(tmp_path: Path) -> None:
    """A vocab.txt alone is read as BERT does: in lower case, with each Chinese character a word."""
    (bert(tmp_path) / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.load(tmp_path / "vocab.txt")
    assert tokenizer.encode("The cats") == tokenizer.encode("the CATs") == [5, 6, 8]
    assert tokenizer.decode(tokenizer.encode(f"the cats,{ZH[:4]}")) == f"the cats, {ZH[:4]}"
    # A word is unknown as a whole; whitespace is not counted.
    assert tokenizer.count_unknown(["the zebra 龘".encode()]) == (6, 9)


def test_wordpiece_is_trained(tmp_path: Path) -> None:
    """A WordPiece vocabulary has its size and its special tokens, keeps case, and has equal ids in transformers."""
    one, two = (Tokenizer.train(corpus(), 420, model_type="wordpiece", symbols=["<think>"]) for _ in range(2))
    assert one.sha256 == two.sha256 and one.vocab_size == 420 and one.special["<|im_end|>"] == 5
    text = f"HTTP the worlds {ZH[:9]} cat"
    assert one.decode(one.encode(text)) == text and one.unk_id not in one.encode(text)
    assert b"".join(map(one.token_bytes, one.encode("the worlds 月光"))) == " the worlds月光".encode()
    assert one.count_unknown(["the 龘".encode()]) == (1, 4)
    one.save(tmp_path)
    theirs = auto(tmp_path)
    texts = [*corpus(20), *HARD, *CODE]
    assert [theirs(t, split_special_tokens=True)["input_ids"] for t in texts] == one.encode_batch(texts)
    for size, message in ((100, "too small: this text needs at least"), (9_000, "too large: this text yields at most")):
        with pytest.raises(UserError, match=f"vocab_size {size} is {message}"):
            Tokenizer.train(corpus(30), size, model_type="wordpiece")


def test_rare_characters_are_unknown_in_wordpiece() -> None:
    """With a lower coverage, rare characters have no token."""
    texts = ["the cat sat 今天 " * 200, "龘"]
    for coverage, n_unknown in ((1.0, 0), (0.99, 1)):
        tokenizer = Tokenizer.train(
            texts, 60, model_type="wordpiece", character_coverage=coverage, hard_vocab_limit=False
        )
        assert tokenizer.count_unknown(["龘 cat".encode()]) == (n_unknown, 4)


@pytest.mark.parametrize(
    "options", [{}, {"byte_fallback": True, "add_dummy_prefix": False, "user_defined_symbols": ["<sep>"]}]
)
def test_character_models_have_the_ids_of_sentencepiece(options: dict[str, object], tmp_path: Path) -> None:
    """A character model of SentencePiece has its ids in both backends and in transformers."""
    settings = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "vocab_size": 400}
    model = foreign_model(corpus(), model_type="char", **settings, **options)
    (tmp_path / "c.model").write_bytes(model)
    ours = Tokenizer.load(tmp_path / "c.model")
    ours.save(tmp_path / "saved")
    texts = [*corpus(20), *HARD, "龘龘 a<sep>b"] if options else [*corpus(20), "龘龘 ab"]
    expected = sentencepiece.SentencePieceProcessor(model_proto=model).encode(texts)
    assert ours.encode_batch(texts) == expected
    assert Tokenizer.load(tmp_path / "saved" / "tokenizer.json").encode_batch(texts) == expected
    assert [auto(tmp_path / "saved")(t, split_special_tokens=True)["input_ids"] for t in texts] == expected


def test_a_character_vocabulary_is_trained() -> None:
    """A vocabulary of characters spells every text, one token per character it knows, the rest in bytes."""
    tokenizer = Tokenizer.train(corpus(), 600, model_type="char", hard_vocab_limit=False)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(HARD)] == HARD
    assert len(tokenizer.encode(ZH[:9] + "the cat")) == 16 and tokenizer.vocab_size < 400
    with pytest.raises(UserError, match="vocab_size 600 is too large: this text yields at most"):
        Tokenizer.train(corpus(), 600, model_type="char")


def test_a_text_file_of_characters_is_a_vocabulary(tmp_path: Path) -> None:
    """A vocab.txt of single characters encodes each; an empty line is the line break, what is absent is unknown."""
    (tmp_path / "vocab.txt").write_text("\n".join(["<unk>", "</s>", "", *"thecas 今▁"]) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("the\n今x") == [3, 4, 5, 2, 10, 0] and tokenizer.special == {"<unk>": 0, "</s>": 1}
    assert tokenizer.decode(tokenizer.encode("the cat▁\n今")) == "the cat▁\n今"
    assert tokenizer.count_unknown([b"the zebra"]) == (3, 8)
    assert tokenizer.token_bytes(11) == "▁".encode()


def test_words_of_single_characters_are_joined_without_spaces(tmp_path: Path) -> None:
    """A tokenizer.json of characters without a decoder decodes to the text, as the saved file does in transformers."""
    vocabulary = {name: i for i, name in enumerate(["<unk>", "</s>", *"thecat \n今天"])}
    source = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    source.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"(?m:.)"), "isolated")
    source.add_special_tokens(["<unk>", "</s>"])
    source.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    text = "the cat\n今天"
    assert tokenizer.decode(tokenizer.encode(text)) == text and len(tokenizer.encode(text)) == len(text)
    tokenizer.save(tmp_path / "saved")
    assert auto(tmp_path / "saved").decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"the\ncat\n", r"lacks '\[UNK\]', the token of unknown words"),
        (b"a\nb\n", "does not name its eos_token"),
    ],
)
def test_other_text_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """A vocab.txt without a usable vocabulary is an error that names the file."""
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"vocab\.txt.*{message}"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "byte_bpe"])
def test_no_piece_crosses_the_words_of_jieba(model_type: str) -> None:
    """With jieba, no token joins two words, English words keep their space, and encoding is lossless."""
    pytest.importorskip("jieba")
    texts = [f"我们{end}今天天气很好 the cat sat 我们今天去北京 in 3 days\n" for end in "，。！？"] * 60
    plain, split = (
        Tokenizer.train(texts, 400, model_type=model_type, pre_split=how, hard_vocab_limit=False)  # type: ignore[arg-type]
        for how in (None, "jieba")
    )
    crossing = {"今天去", "去北京", "天去", "们今", "气很"}
    pieces = [{tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)} for tokenizer in (plain, split)]
    found = [{word for word in crossing if word.encode() in mine} for mine in pieces]
    assert not found[1] and (found[0] or model_type != "bpe")
    assert model_type == "unigram" or {"我们".encode(), "很".encode(), b" cat"} <= pieces[1]
    assert all(split.decode(split.encode(text)) == text for text in (*texts[:4], *HARD, *EN))

"""The tokenizer: training, round trips, equal ids on both backends and in transformers, special tokens, errors."""

import io
import json
import multiprocessing
import os
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import sentencepiece
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer
from babyllm.tokenizer.sentencepiece_json import with_plain_merges

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", *(f"<|reserved_{i}|>" for i in range(10))]
ZH = "床前明月光疑是地上霜举头望低思故乡春眠不觉晓处闻啼鸟夜来风雨声花落知多少我们的世界人民大团结万岁，。？！：“”"
EN = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "return", "to", "their", "other", "worlds", "HTTP", "don't"]
CODE = [
    "def f(x):\n    if x > 10:\n        return x * 2\n",
    "\tint main() { return 0; }\r\n",
    '{"key": [1, 23, 456]}\n',
    "<p>text</p><br/>",
]
MARKED = ["</s>", "<s>x</s>", "a<|im_start|>user\nhi<|im_end|>", "<unk><pad>", "<0x0A>", "<|reserved_3|> </s>"]
HARD = [
    "",
    " ",
    "a",
    "\0",
    "nul\0 in\0\0side",
    "\n",
    "\n\n\n",
    "\r\n",
    " \r\n\t\n ",
    "  leading and trailing  ",
    "a" + " " * 33 + "the",
    "\t\tint x;\u3000全角",
    "1234567890 3.14",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "e\u0301 か\u3099 ﬁ Å \u200b\ufeff",
    "▅ █ \ue000 \U0010ffff \x85 \u2028",
    "床前明月光hello世界",
    *MARKED,
]
PIECES = [*HARD, *EN, *ZH, *CODE, "  ", " the", "=" * 20, "ab" * 9]
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"))
TEXTS = st.lists(st.sampled_from(PIECES) | PLAIN, max_size=12).map("".join)


def corpus(n_documents: int = 300) -> list[str]:
    rng = random.Random(0)
    documents = []
    for _ in range(n_documents):
        chinese = "".join(rng.choices(ZH, k=30))
        english = " ".join(rng.choices(EN, k=20))
        documents.append(f"{chinese}\n{english} {rng.randrange(10**6)}\n\n{rng.choice(CODE)}")
    return documents


def real_texts(data: Path) -> list[str]:
    parquet = pytest.importorskip("pyarrow.parquet")
    with parquet.ParquetFile(data / "corpora" / "chinese-poetry.parquet") as file:
        texts: list[str] = next(file.iter_batches(300, columns=["text"])).column(0).to_pylist()
    for name in ("alpaca_en_demo.json", "alpaca_zh_demo.json"):
        records = json.loads((data / "sft" / name).read_text(encoding="utf-8"))
        texts += [f"{r['instruction']}\n{r['input']}\n{r['output']}" for r in records[:100]]
    return texts


def foreign_model(documents: list[str], **options: object) -> bytes:
    """A SentencePiece model as others train them; options are SentencePiece's own."""
    writer = io.BytesIO()
    defaults = {"vocab_size": 600, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 2}
    lines = (line for document in documents for line in document.split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=writer, **(defaults | options))
    return writer.getvalue()


def byte_level(path: Path, special: list[str]) -> Path:
    """A byte-level BPE as the `tokenizers` library trains and saves it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.save(str(path))
    return path


def auto(directory: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def data() -> Path:
    if not os.environ.get("BABYLLM_DATA"):
        pytest.skip("BABYLLM_DATA names no folder of real data")
    return Path(os.environ["BABYLLM_DATA"])


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(corpus(), 600)


@pytest.fixture(scope="module")
def saved(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    trained.save(directory)
    return directory


@pytest.fixture(scope="module")
def converted(saved: Path) -> Tokenizer:
    return Tokenizer.load(saved / "tokenizer.json")


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bytewise") / "tokenizer.json"
    return Tokenizer.load(byte_level(path, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>"]))


# Training


def test_trained_tokenizer_has_the_fixed_special_tokens(trained: Tokenizer) -> None:
    """A trained tokenizer has the agreed special tokens at the agreed ids, and as many tokens as were asked for."""
    assert trained.special == {name: i for i, name in enumerate(SPECIAL)}
    assert (trained.unk_id, trained.bos_id, trained.eos_id, trained.pad_id) == (0, 1, 2, 3)
    assert trained.vocab_size == 600


def test_training_is_deterministic_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """The same documents give the same file on one thread and on two, and nothing is printed."""
    hashes = {Tokenizer.train(iter(corpus(50)), 400, n_threads=n).sha256 for n in (1, 2, 2)}
    assert len(hashes) == 1
    assert capfd.readouterr() == ("", "")


def test_digits_are_single_and_indents_are_tokens(trained: Tokenizer) -> None:
    """A number is one token per digit, and an indent seen in training is one token."""
    assert [trained.token_bytes(i) for i in trained.encode("1024")] == [b"1", b"0", b"2", b"4"]
    assert trained.token_bytes(trained.encode("        return")[0]) == b"        "


def test_no_document_is_skipped() -> None:
    """Text in a very long line, and text beside the mark SentencePiece reserves, is learned like any other."""
    long_line = "abc " * 5000 + "zebra" * 50
    tokenizer = Tokenizer.train([long_line, "▅ giraffe" * 50, "nul\0 walrus" * 50], 340)
    pieces = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    assert {b"zebra", b" giraffe", b" walrus"} <= pieces


def test_byte_level_training_is_lossless_and_deterministic(tmp_path: Path) -> None:
    """A byte-level BPE has the fixed special tokens and the size asked for, is the same each time, and loads again."""
    tokenizer = Tokenizer.train(iter(corpus()), 600, model_type="byte_bpe")
    assert tokenizer.special == {name: i for i, name in enumerate(SPECIAL)} and tokenizer.vocab_size == 600
    assert Tokenizer.train(corpus(), 600, model_type="byte_bpe").sha256 == tokenizer.sha256
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(HARD)] == HARD
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("1024")] == [b"1", b"0", b"2", b"4"]
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("the cat")] == [b"the", b" cat"]
    Tokenizer.train(corpus(), 400).save(tmp_path)
    tokenizer.save(tmp_path)  # of the other kind: its file must not be found instead
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256
    theirs = auto(tmp_path)
    assert [theirs(t, split_special_tokens=True)["input_ids"] for t in HARD] == tokenizer.encode_batch(HARD)


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "byte_bpe"])
def test_special_tokens_can_be_added(model_type: str) -> None:
    """Names given come after the fixed special tokens, once each, and are never found in text."""
    names = ["<|tool|>", "<s>", "<|tool|>", "<think>"]
    tokenizer = Tokenizer.train(corpus(), 450, model_type=model_type, special_tokens=names)  # type: ignore[arg-type]
    assert tokenizer.special == {name: i for i, name in enumerate([*SPECIAL, "<|tool|>", "<think>"])}
    assert not set(tokenizer.encode("<think>hm</think> <|tool|>")) & set(tokenizer.special.values())
    assert tokenizer.vocab_size == 450


@pytest.mark.parametrize(
    ("documents", "vocab_size", "message"),
    [
        (["hello world"], 4000, "vocab_size 4000 is too large: this text gives at most 281"),
        (["hello world"], 271, "vocab_size 271 is too small: this text needs at least 272"),
        (["", ""], 400, "no text to train a tokenizer on"),
        (["fine", "not \ud800 fine"], 400, "lone surrogate"),
    ],
)
def test_byte_level_training_tells_what_is_wrong(documents: list[str], vocab_size: int, message: str) -> None:
    """A vocabulary that does not suit the text, or no text, is an error that says what would do."""
    with pytest.raises(UserError, match=message):
        Tokenizer.train(documents, vocab_size, model_type="byte_bpe")


@pytest.mark.parametrize(
    ("documents", "vocab_size", "message"),
    [
        (["hello world"], 4000, "vocab_size 4000 is too large: this text gives at most 298"),
        (["hello world"], 100, "vocab_size 100 is too small: this text needs at least 280"),
        (["hello world"], 275, "vocab_size 275 is too small: this text needs at least 280"),
        ([], 400, "no text to train a tokenizer on"),
        (["", "\n\n", "▅"], 400, "no text to train a tokenizer on"),
        (["fine", "not \ud800 fine"], 400, "lone surrogate"),
    ],
)
def test_training_tells_what_is_wrong(documents: list[str], vocab_size: int, message: str) -> None:
    """A vocabulary that does not suit the text, or no text, is an error that says what would do."""
    with pytest.raises(UserError, match=message):
        Tokenizer.train(documents, vocab_size)


def test_the_sizes_told_are_right() -> None:
    """The smallest and largest sizes which the errors name can be trained."""
    assert Tokenizer.train(["hello world"], 298).vocab_size == 298
    assert Tokenizer.train(["hello world"], 280).vocab_size == 280


@pytest.mark.parametrize("model_type", ["bpe", "byte_bpe"])
def test_error_in_the_stream_comes_through(model_type: str) -> None:
    """An exception of the document stream reaches the caller as it is."""

    def documents() -> Iterator[str]:
        yield "some text"
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        Tokenizer.train(documents(), 400, model_type=model_type)  # type: ignore[arg-type]


# Text to ids and back


@settings(max_examples=150, deadline=None, database=None)
@given(text=TEXTS)
@example("".join(HARD))
def test_everything_round_trips_and_both_backends_agree(trained: Tokenizer, converted: Tokenizer, text: str) -> None:
    """For any text decode undoes encode, the tokens' bytes join to it, and both backends give equal ids."""
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert b"".join(map(trained.token_bytes, ids)) == text.encode()
    assert converted.encode(text) == ids
    assert converted.decode(ids) == text
    assert not set(ids) & set(trained.special.values())


@pytest.mark.parametrize("text", HARD)
def test_hard_text_round_trips(trained: Tokenizer, bytewise: Tokenizer, text: str) -> None:
    """NUL, newlines, runs of spaces, joined emoji, combining marks and markers survive in both kinds of tokenizer."""
    for tokenizer in (trained, bytewise):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("text", ["▁", "a▁b", " ▁ ▁▁\n▁", "▁▂▃▄▅▆▇█ 和 ▁Hello▁World"])
def test_the_mark_of_spaces_is_a_character_like_others(trained: Tokenizer, converted: Tokenizer, text: str) -> None:
    """U+2581, which SentencePiece writes for a space, is spelled in bytes and comes back; tokenizer.json lacks that."""
    ids = trained.encode(text)
    assert trained.decode(ids) == text and b"".join(map(trained.token_bytes, ids)) == text.encode()
    assert converted.decode(converted.encode(text)) == text.replace("▁", " ")
    assert trained.encode_documents([text.encode(), b"a"], 1)[0].tolist() == [*ids, 2, *trained.encode("a"), 2]


def test_batch_equals_single(trained: Tokenizer, bytewise: Tokenizer) -> None:
    """A batch has the ids that each of its texts has alone."""
    for tokenizer in (trained, bytewise):
        assert tokenizer.encode_batch(HARD) == [tokenizer.encode(text) for text in HARD]
        assert tokenizer.encode_batch([]) == []


def test_many_documents_at_once(trained: Tokenizer, bytewise: Tokenizer) -> None:
    """Documents encoded together have the ids that each has alone, with eos after each, whatever they hold."""
    unigram = Tokenizer.train(corpus(), 400, model_type="unigram")
    prefixed = Tokenizer(foreign_model(corpus(), model_type="bpe", byte_fallback=True), "model")
    without_nul = [text for text in [*HARD, *corpus(50)] if "\0" not in text]
    for tokenizer in (trained, bytewise, unigram, prefixed):
        for texts in (without_nul, HARD, ["\0"], ["", ""], ["a"]):
            for n_threads in (1, None):
                ids, lengths = tokenizer.encode_documents([text.encode() for text in texts], n_threads)
                alone = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
                assert ids.tolist() == [token for row in alone for token in row]
                assert lengths.tolist() == [len(row) for row in alone]


def test_lone_surrogate_is_refused(trained: Tokenizer, bytewise: Tokenizer) -> None:
    """Text that is not valid Unicode is a UserError, on both backends, alone and in a batch."""
    for tokenizer in (trained, bytewise):
        with pytest.raises(UserError, match="lone surrogate"):
            tokenizer.encode("a\ud83d")
        with pytest.raises(UserError, match="lone surrogate"):
            tokenizer.encode_batch(["fine", "a\udc00"])


@pytest.mark.parametrize("text", MARKED)
def test_typed_markers_stay_text(trained: Tokenizer, converted: Tokenizer, bytewise: Tokenizer, text: str) -> None:
    """What looks like a special token in a text never becomes one."""
    for tokenizer in (trained, converted, bytewise):
        assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())


def test_special_tokens_stand_for_no_text(trained: Tokenizer, converted: Tokenizer, bytewise: Tokenizer) -> None:
    """Special tokens have no bytes, and decode leaves them out."""
    for tokenizer in (trained, converted, bytewise):
        assert {tokenizer.token_bytes(i) for i in tokenizer.special.values()} == {b""}
        ids = tokenizer.encode("hello")
        assert tokenizer.decode([tokenizer.special["<|im_start|>"], *ids, tokenizer.eos_id]) == "hello"


def test_half_a_character_is_replaced(trained: Tokenizer) -> None:
    """Ids that stop inside a character decode to the replacement character, while the bytes stay at hand."""
    ids = trained.encode("👍")
    assert trained.decode(ids[:-1]) == "\ufffd" * 3
    assert b"".join(map(trained.token_bytes, ids[:-1])) == "👍".encode()[:-1]


# Files


def test_saved_tokenizer_is_the_same(trained: Tokenizer, saved: Path) -> None:
    """What is loaded from a saved directory has the same ids, roles, special tokens and hash; no draft remains."""
    loaded = Tokenizer.load(saved)
    assert sorted(path.name for path in saved.iterdir()) == [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert loaded.encode_batch(HARD) == trained.encode_batch(HARD)
    assert loaded.special == trained.special
    assert (loaded.unk_id, loaded.bos_id, loaded.eos_id, loaded.pad_id) == (0, 1, 2, 3)
    assert loaded.sha256 == trained.sha256


def test_converted_tokenizer_has_the_same_tokens(trained: Tokenizer, converted: Tokenizer) -> None:
    """The tokenizer.json written for a SentencePiece model has its roles, special tokens and bytes."""
    assert converted.special == trained.special
    assert (converted.unk_id, converted.bos_id, converted.eos_id, converted.pad_id) == (0, 1, 2, 3)
    n = trained.vocab_size
    assert [converted.token_bytes(i) for i in range(n)] == [trained.token_bytes(i) for i in range(n)]


def test_chat_template_is_written(trained: Tokenizer, tmp_path: Path) -> None:
    """A chat template handed to save is the one transformers reads."""
    template = "{% for m in messages %}[{{ m['content'] }}]\n{% endfor %}"
    trained.save(tmp_path, chat_template=template)
    assert auto(tmp_path).chat_template == template


@pytest.mark.parametrize("model_type", [None, "llama", "qwen3"])
def test_transformers_gives_equal_ids(trained: Tokenizer, tmp_path: Path, model_type: str | None) -> None:
    """AutoTokenizer loads what was saved, as a fast tokenizer, and makes the same ids, alone or beside a model."""
    trained.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = auto(tmp_path)
    texts = [*corpus(20), *HARD]
    assert theirs.is_fast
    assert [theirs(t, split_special_tokens=True)["input_ids"] for t in texts] == trained.encode_batch(texts)
    assert [theirs(t)["input_ids"] for t in texts if t not in MARKED] == trained.encode_batch(
        [t for t in texts if t not in MARKED]
    )
    assert [theirs.decode(trained.encode(t)) for t in texts] == texts
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2, 3)
    assert len(theirs) == trained.vocab_size


def test_pickle_and_worker_process(trained: Tokenizer, bytewise: Tokenizer) -> None:
    """A tokenizer works after pickling, and in a process it was sent to."""
    for tokenizer in (trained, bytewise):
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode_batch(HARD) == tokenizer.encode_batch(HARD)
        assert (copy.special, copy.sha256, copy.eos_id) == (tokenizer.special, tokenizer.sha256, tokenizer.eos_id)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(trained.encode_batch, HARD).result() == trained.encode_batch(HARD)


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
    with pytest.raises(UserError, match=r"w\.model is a word or character model"):
        Tokenizer.load(tmp_path / "w.model")


# Foreign SentencePiece models


@pytest.mark.parametrize("name", ["chatglm2-64789.model", "llama2-32000.model"])
def test_published_models_convert_exactly(data: Path, tmp_path: Path, name: str) -> None:
    """For real models and real texts, transformers and our two backends give the ids and texts of SentencePiece."""
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
    """Prefix spaces, squeezed spaces, unknown characters and user-defined pieces come out as SentencePiece has them."""
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
    """Unigram and normalising models convert well, but say that rare texts may differ."""
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


def test_equal_scores_are_told(tmp_path: Path, trained: Tokenizer) -> None:
    """Where pieces share a score, which tokenizers cannot express, saving says so."""
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
    """Without a configuration the end of text is a well-known name, and what is absent is None."""
    assert bytewise.eos_id == bytewise.special["</s>"]
    assert (bytewise.bos_id, bytewise.pad_id, bytewise.unk_id) == (None, None, None)


def test_roles_are_read_from_the_configuration(tmp_path: Path) -> None:
    """tokenizer_config.json goes before special_tokens_map.json, tokens may be objects, and null means none."""
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
        (["<stop>"], {}, "does not tell its eos_token"),
        (["</s>"], {"eos_token": "<gone>"}, "lacks '<gone>', the eos_token"),
        (["</s>"], None, "tokenizer_config.json: is not JSON"),
    ],
)
def test_roles_that_cannot_be_told(tmp_path: Path, special: list[str], config: object, message: str) -> None:
    """No end of text, one that is not in the vocabulary, or a broken configuration is an error that says so."""
    byte_level(tmp_path / "tokenizer.json", special)
    (tmp_path / "tokenizer_config.json").write_text("{" if config is None else json.dumps(config))
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("habit", ["bos", "cut", "pad"])
def test_foreign_json_adds_and_cuts_nothing(tmp_path: Path, habit: str) -> None:
    """A file that adds a bos, cuts or pads texts makes plain ids here, and in transformers once saved."""
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
    assert auto(tmp_path / "saved")(text)["input_ids"] == ids
    assert Tokenizer.load(tmp_path / "saved").sha256 == tokenizer.sha256


def test_role_that_is_an_ordinary_token_becomes_special(tmp_path: Path) -> None:
    """A text cannot be ended by what a user types, even where the file holds its end of text as an ordinary token."""
    path = byte_level(tmp_path / "tokenizer.json", ["<unk>"])
    foreign = tokenizers.Tokenizer.from_file(str(path))
    foreign.add_tokens(["<|im_end|>"])
    foreign.save(str(path))
    tokenizer = Tokenizer.load(path)
    assert tokenizer.special["<|im_end|>"] == tokenizer.eos_id
    assert tokenizer.eos_id not in tokenizer.encode("stop <|im_end|> here")


# More special tokens


def test_extended_appends_what_is_missing(trained: Tokenizer, bytewise: Tokenizer, tmp_path: Path) -> None:
    """New special tokens go to the vocabulary's end, known ones keep their id, and it survives save and load."""
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
    """A template's token which a foreign model matches in text becomes a special one at its old id."""
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
    """Merges are texts, "a b", also where tokens were added, and read back they are the same tokenizer."""
    tokenizer = Tokenizer.train(corpus(), 420, model_type=model_type, n_threads=1)
    for one in (tokenizer, tokenizer.extended(["<|more|>"])):
        one.save(tmp_path)
        merges = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
        assert merges and all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
        again = Tokenizer.load(tmp_path / "tokenizer.json")
        assert all(again.encode(text) == one.encode(text) for text in corpus()[:20])


def test_merges_of_parts_with_spaces_stay_pairs() -> None:
    """Where a part holds a space a text could not tell the two parts apart."""
    for merges, expected in (([["a", " b"]], [["a", " b"]]), ([["a", "b"], ["ab", "c"]], ["a b", "ab c"]), ([], [])):
        text = json.dumps({"model": {"merges": merges}})
        assert json.loads(with_plain_merges(text))["model"]["merges"] == expected

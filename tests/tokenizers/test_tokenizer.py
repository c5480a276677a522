"""The tokenizer: training, round trips, equal ids on both backends and in transformers, special tokens, errors."""

import json
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_fixtures import CODE, EN, HARD, MARKED, ZH, auto, corpus, foreign_model

from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer
from babyllm.tokenizer.tokenizer import ModelType

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", *(f"<|reserved_{i}|>" for i in range(10))]


PIECES = [*HARD, *EN, *ZH, *CODE, "  ", " the", "=" * 20, "ab" * 9]


PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"))


TEXTS = st.lists(st.sampled_from(PIECES) | PLAIN, max_size=12).map("".join)


# Training


def test_trained_tokenizer_has_the_fixed_special_tokens(trained: Tokenizer) -> None:
    """A trained tokenizer has the fixed special tokens at their fixed ids, and the requested number of tokens."""
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
    """Text in a very long line, and text beside SentencePiece's reserved mark, is trained on like any other."""
    long_line = "abc " * 5000 + "zebra" * 50
    tokenizer = Tokenizer.train([long_line, "▅ giraffe" * 50, "nul\0 walrus" * 50], 340)
    pieces = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    assert {b"zebra", b" giraffe", b" walrus"} <= pieces


@pytest.mark.filterwarnings("ignore:tokenizer.json may split some texts")
@pytest.mark.parametrize("model_type", ["bpe", "unigram", "char", "byte_bpe"])
def test_text_without_spaces_teaches_the_space_too(model_type: ModelType, tmp_path: Path) -> None:
    """Of Chinese alone SentencePiece would leave the space out, spell it as U+2581, and lose it."""
    texts = ["".join(text.split()) for text in ZH] * 20
    tokenizer = Tokenizer.train(texts, 400, model_type=model_type, hard_vocab_limit=False)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(HARD)] == HARD
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode(" ")] == [b" "]
    tokenizer.save(tmp_path)
    theirs = auto(tmp_path)
    assert [theirs.decode(tokenizer.encode(text)) for text in ("a b", "今天 7 号")] == ["a b", "今天 7 号"]


def test_byte_level_training_is_lossless_and_deterministic(tmp_path: Path) -> None:
    """A byte-level BPE has the fixed special tokens and the requested size, is deterministic, and loads again."""
    tokenizer = Tokenizer.train(iter(corpus()), 600, model_type="byte_bpe")
    assert tokenizer.special == {name: i for i, name in enumerate(SPECIAL)} and tokenizer.vocab_size == 600
    assert Tokenizer.train(corpus(), 600, model_type="byte_bpe").sha256 == tokenizer.sha256
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(HARD)] == HARD
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("1024")] == [b"1", b"0", b"2", b"4"]
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("the cat")] == [b"the", b" cat"]
    Tokenizer.train(corpus(), 400).save(tmp_path)
    tokenizer.save(tmp_path)  # of the other kind; loading must not find its file instead
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256
    theirs = auto(tmp_path)
    assert [theirs(t, split_special_tokens=True)["input_ids"] for t in HARD] == tokenizer.encode_batch(HARD)


@pytest.mark.parametrize("model_type", ["bpe", "unigram", "byte_bpe"])
def test_special_tokens_can_be_added(model_type: str) -> None:
    """Added names come after the fixed special tokens, once each, and are never found in text."""
    names = ["<|tool|>", "<s>", "<|tool|>", "<think>"]
    tokenizer = Tokenizer.train(corpus(), 450, model_type=model_type, special_tokens=names)  # type: ignore[arg-type]
    assert tokenizer.special == {name: i for i, name in enumerate([*SPECIAL, "<|tool|>", "<think>"])}
    assert not set(tokenizer.encode("<think>hm</think> <|tool|>")) & set(tokenizer.special.values())
    assert tokenizer.vocab_size == 450


@pytest.mark.parametrize(
    ("documents", "vocab_size", "message"),
    [
        (["hello world"], 4000, "vocab_size 4000 is too large: this text yields at most 281"),
        (["hello world"], 271, "vocab_size 271 is too small: this text needs at least 272"),
        (["", ""], 400, "no text to train a tokenizer on"),
        (["fine", "not \ud800 fine"], 400, "lone surrogate"),
    ],
)
def test_byte_level_training_says_what_is_wrong(documents: list[str], vocab_size: int, message: str) -> None:
    """The error for a vocabulary that does not suit the text names the limit; no text is an error too."""
    with pytest.raises(UserError, match=message):
        Tokenizer.train(documents, vocab_size, model_type="byte_bpe")


@pytest.mark.parametrize(
    ("documents", "vocab_size", "message"),
    [
        (["hello world"], 4000, "vocab_size 4000 is too large: this text yields at most 298"),
        (["hello world"], 100, "vocab_size 100 is too small: this text needs at least 280"),
        (["hello world"], 275, "vocab_size 275 is too small: this text needs at least 280"),
        ([], 400, "no text to train a tokenizer on"),
        (["", "\n\n", "▅"], 400, "no text to train a tokenizer on"),
        (["fine", "not \ud800 fine"], 400, "lone surrogate"),
    ],
)
def test_training_says_what_is_wrong(documents: list[str], vocab_size: int, message: str) -> None:
    """The error for a vocabulary that does not suit the text names the limit; no text is an error too."""
    with pytest.raises(UserError, match=message):
        Tokenizer.train(documents, vocab_size)


def test_the_sizes_in_errors_are_right() -> None:
    """The smallest and largest sizes that the errors name can be trained."""
    assert Tokenizer.train(["hello world"], 298).vocab_size == 298
    assert Tokenizer.train(["hello world"], 280).vocab_size == 280


@pytest.mark.parametrize("model_type", ["bpe", "byte_bpe"])
def test_error_in_the_stream_comes_through(model_type: str) -> None:
    """An exception of the document stream reaches the caller unchanged."""

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
    """For any text, decode undoes encode, the tokens' bytes join to the text, and both backends return equal ids."""
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
        assert tokenizer.decode([*ids, tokenizer.vocab_size, tokenizer.vocab_size + 7]) == text  # rows without a token
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("text", ["▁", "a▁b", " ▁ ▁▁\n▁", "▁▂▃▄▅▆▇█ 和 ▁Hello▁World"])
def test_the_mark_of_spaces_is_a_character_like_others(trained: Tokenizer, converted: Tokenizer, text: str) -> None:
    """U+2581, which SentencePiece writes for a space, is spelled in bytes and comes back; tokenizer.json lacks that."""
    ids = trained.encode(text)
    assert trained.decode(ids) == text and b"".join(map(trained.token_bytes, ids)) == text.encode()
    assert converted.decode(converted.encode(text)) == text.replace("▁", " ")
    assert trained.encode_documents([text.encode(), b"a"], 1)[0].tolist() == [*ids, 2, *trained.encode("a"), 2]


def test_batch_equals_single(trained: Tokenizer, bytewise: Tokenizer) -> None:
    """A text has the same ids in a batch as alone."""
    for tokenizer in (trained, bytewise):
        assert tokenizer.encode_batch(HARD) == [tokenizer.encode(text) for text in HARD]
        assert tokenizer.encode_batch([]) == []


def test_many_documents_at_once(trained: Tokenizer, bytewise: Tokenizer) -> None:
    """Documents encoded together have the same ids as alone, with eos after each, whatever their text."""
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
    """Text that is not valid Unicode is a UserError on both backends, alone and in a batch."""
    for tokenizer in (trained, bytewise):
        with pytest.raises(UserError, match="lone surrogate"):
            tokenizer.encode("a\ud83d")
        with pytest.raises(UserError, match="lone surrogate"):
            tokenizer.encode_batch(["fine", "a\udc00"])


@pytest.mark.parametrize("text", MARKED)
def test_typed_markers_stay_text(trained: Tokenizer, converted: Tokenizer, bytewise: Tokenizer, text: str) -> None:
    """Text that looks like a special token never becomes one."""
    for tokenizer in (trained, converted, bytewise):
        assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())


def test_special_tokens_have_no_text(trained: Tokenizer, converted: Tokenizer, bytewise: Tokenizer) -> None:
    """Special tokens have no bytes, and decode leaves them out."""
    for tokenizer in (trained, converted, bytewise):
        assert {tokenizer.token_bytes(i) for i in tokenizer.special.values()} == {b""}
        ids = tokenizer.encode("hello")
        assert tokenizer.decode([tokenizer.special["<|im_start|>"], *ids, tokenizer.eos_id]) == "hello"


def test_half_a_character_is_replaced(trained: Tokenizer) -> None:
    """Ids that stop inside a character decode to the replacement character; their bytes can still be read."""
    ids = trained.encode("👍")
    assert trained.decode(ids[:-1]) == "\ufffd" * 3
    assert b"".join(map(trained.token_bytes, ids[:-1])) == "👍".encode()[:-1]


# Files


def test_saved_tokenizer_is_the_same(trained: Tokenizer, saved: Path) -> None:
    """A loaded tokenizer has the ids, roles, special tokens and hash of the saved one; no temporary file remains."""
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
    """Transformers reads the chat template that was passed to save."""
    template = "{% for m in messages %}[{{ m['content'] }}]\n{% endfor %}"
    trained.save(tmp_path, chat_template=template)
    assert auto(tmp_path).chat_template == template


@pytest.mark.parametrize("model_type", [None, "llama", "qwen3"])
def test_transformers_returns_equal_ids(trained: Tokenizer, tmp_path: Path, model_type: str | None) -> None:
    """AutoTokenizer loads a saved directory as a fast tokenizer with the same ids, alone or beside a model."""
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
    """A tokenizer works after pickling, and in a process that it was sent to."""
    for tokenizer in (trained, bytewise):
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode_batch(HARD) == tokenizer.encode_batch(HARD)
        assert (copy.special, copy.sha256, copy.eos_id) == (tokenizer.special, tokenizer.sha256, tokenizer.eos_id)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(trained.encode_batch, HARD).result() == trained.encode_batch(HARD)

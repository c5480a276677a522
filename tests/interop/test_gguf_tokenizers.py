"""Vocabularies in GGUF files: encoded texts, kinds of tokens, templates and flags."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from interop_fixtures import TEXTS

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.interop.gguf.container import read_header, write_file
from babyllm.interop.gguf.pre_tokenizers import SPLITS
from babyllm.interop.gguf.tokenizer_keys import Vocabulary, read_vocabulary, vocabulary_metadata
from babyllm.tokenizer import Tokenizer
from babyllm.tokenizer.sentencepiece_pieces import Piece, sentencepiece_tokenizer

OLD_SPLIT = r"\p{N}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|[\r\n]+|[^\S\r\n]+(?= \S)|[^\S\r\n]+"


@pytest.fixture(params=["tokenizer", "byte_level"])
def either(request: pytest.FixtureRequest) -> Tokenizer:
    """A SentencePiece and a byte-level vocabulary."""
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def through(path: Path, metadata: dict[str, Any]) -> Vocabulary:
    """The vocabulary read from a file with these keys."""
    write_file(path, metadata, [], "F32")
    return read_vocabulary(read_header(path))


def changed_json(tokenizer: Tokenizer, **changes: Any) -> Tokenizer:
    """A tokenizer whose tokenizer.json has other values."""
    content = json.loads(tokenizer.file[1]) | changes
    return Tokenizer(json.dumps(content).encode(), "json", {"eos": "</s>"})


def test_a_vocabulary_survives(tmp_path: Path, either: Tokenizer) -> None:
    """Ids, texts, special tokens and roles are the same after writing and reading, whatever the model's rows."""
    metadata = vocabulary_metadata(either, either.vocab_size + 7, chat_template="a template", end_ids=(5, 2))
    assert len(metadata["tokenizer.ggml.tokens"]) == either.vocab_size + 7
    assert metadata["tokenizer.ggml.token_type"][-7:].tolist() == [gguf.TokenType.UNUSED] * 7
    again = through(tmp_path / "a.gguf", metadata)
    assert again.chat_template == "a template" and again.end_ids == (2, 5)
    found = again.tokenizer
    for text in TEXTS:
        assert found.encode(text) == either.encode(text) and found.decode(found.encode(text)) == text
    assert (found.special, found.vocab_size) == (either.special, either.vocab_size)
    roles = ("bos_id", "eos_id", "pad_id", "unk_id")
    assert [getattr(found, role) for role in roles] == [getattr(either, role) for role in roles]


def test_a_padding_token_beyond_the_vocabulary_is_left_out(tmp_path: Path, either: Tokenizer) -> None:
    """Many files name the first id after the vocabulary as padding: they have no padding token."""
    metadata = vocabulary_metadata(either, either.vocab_size)
    metadata["tokenizer.ggml.padding_token_id"] = either.vocab_size
    assert through(tmp_path / "a.gguf", metadata).tokenizer.pad_id is None


def test_every_token_has_its_kind(tokenizer: Tokenizer, byte_level: Tokenizer) -> None:
    """Special tokens are control tokens, symbols are user-defined, bytes are bytes; nothing is added to a text."""
    for either in (tokenizer, byte_level):
        metadata = vocabulary_metadata(either, either.vocab_size)
        types = dict(
            zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"].tolist(), strict=True)
        )
        control = {name for name, kind in types.items() if kind in (gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN)}
        assert control == set(either.special)
        assert metadata["tokenizer.ggml.add_bos_token"] is False is metadata["tokenizer.ggml.add_eos_token"]
        adding = vocabulary_metadata(either.adding_bos(True), either.vocab_size)
        assert adding["tokenizer.ggml.add_bos_token"] is True
        assert metadata["tokenizer.ggml.add_space_prefix"] is False
    assert types["<think>"] == gguf.TokenType.USER_DEFINED
    keys = vocabulary_metadata(tokenizer, 400)
    assert keys["tokenizer.ggml.token_type"].tolist().count(gguf.TokenType.BYTE) == 256
    assert keys["tokenizer.ggml.token_type"].tolist().count(gguf.TokenType.UNKNOWN) == 1


@pytest.mark.parametrize("n_rows", [32016, 49152])
def test_no_size_of_a_vocabulary_has_a_meaning(either: Tokenizer, n_rows: int) -> None:
    """Vocabularies as large as those of CodeLlama or Granite have no keys but those of any other."""
    plain, large = vocabulary_metadata(either, either.vocab_size), vocabulary_metadata(either, n_rows)
    filled = {f"tokenizer.ggml.{key}" for key in ("tokens", "scores", "token_type")}
    assert plain.keys() == large.keys() and len(large["tokenizer.ggml.tokens"]) == n_rows
    assert all(plain[key] == large[key] for key in plain.keys() - filled)


def test_marks_of_answers_become_what_any_template_engine_reads(byte_level: Tokenizer) -> None:
    """The tags of training are replaced by conditions that always hold, with the same handling of blanks."""
    template = "{% for m in messages %}{%- generation %}{{ m.content }}{% endgeneration -%}{% endfor %}"
    stored = vocabulary_metadata(byte_level, 400, chat_template=template)["tokenizer.chat_template"]
    assert stored == "{% for m in messages %}{%- if true %}{{ m.content }}{% endif -%}{% endfor %}"


@pytest.mark.parametrize("name", SPLITS)
def test_each_known_split_is_read_and_recognised(tmp_path: Path, byte_level: Tokenizer, name: str) -> None:
    """A file that names a split encodes by it, and is written with the same name."""
    metadata = vocabulary_metadata(byte_level, 400) | {"tokenizer.ggml.pre": name}
    found = through(tmp_path / "a.gguf", metadata).tokenizer
    assert vocabulary_metadata(found, 400)["tokenizer.ggml.pre"] == name
    assert all(found.decode(found.encode(text)) == text for text in TEXTS)


def test_splits_of_published_vocabularies_have_their_names(byte_level: Tokenizer) -> None:
    """GPT-2's and SmolLM2's own ways to write their splits are recognised, and Qwen's normaliser."""
    steps = tokenizers.pre_tokenizers
    to_bytes = steps.ByteLevel(add_prefix_space=False, use_regex=True)
    for step, name in ((to_bytes, "gpt-2"), (steps.Sequence([steps.Digits(True), to_bytes]), "smollm")):
        theirs = changed_json(byte_level, pre_tokenizer=json.loads(step.__getstate__()))
        assert vocabulary_metadata(theirs, 400)["tokenizer.ggml.pre"] == name
    composed = changed_json(byte_level, normalizer={"type": "NFC"})
    assert vocabulary_metadata(composed, 400)["tokenizer.ggml.pre"] == "qwen2"


def test_vocabularies_that_others_would_read_differently_are_refused(
    tmp_path: Path, byte_level: Tokenizer, tokenizer: Tokenizer, corpus: list[Document]
) -> None:
    """A split without a name, a prefix space, a normaliser or a unigram model cannot be written."""
    steps = tokenizers.pre_tokenizers
    old = steps.Sequence(
        [steps.Split(tokenizers.Regex(OLD_SPLIT), "isolated"), steps.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    for changes in (
        {"pre_tokenizer": json.loads(old.__getstate__())},
        {"pre_tokenizer": json.loads(steps.ByteLevel(add_prefix_space=True).__getstate__())},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
    ):
        with pytest.raises(UserError, match="splits texts in a way that has no name in GGUF"):
            vocabulary_metadata(changed_json(byte_level, **changes), 400)
    unigram = Tokenizer.train((d.text for d in corpus), 400, model_type="unigram", n_threads=1)
    with pytest.raises(UserError, match="is a unigram model, which programs that read GGUF do not"):
        vocabulary_metadata(unigram, 400)
    pieces = [Piece("<unk>", 0.0, 2), Piece("<s>", 0.0, 3), Piece("<x>", 0.0, 4)]
    pieces += [Piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    spaced = sentencepiece_tokenizer(pieces, {"unk": 0, "eos": 1}, adds_space=True, where="a file")
    with pytest.raises(UserError, match="adds a space before texts but not after user-defined pieces"):
        vocabulary_metadata(spaced, 400)
    tokenizer.save(tmp_path)
    from_json = Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="is not a byte-level BPE"):
        vocabulary_metadata(from_json, 400)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "the tokenizer 'bert' is not supported"),
        ({"pre": "tekken-2"}, "the pre-tokenizer 'tekken-2' is not known, only qwen2"),
        ({"tokens": 3}, "has no list of texts tokenizer.ggml.tokens"),
        ({"merges": ["a"]}, "its merges and tokens do not fit each other"),
        ({"merges": 1}, "has no list of texts tokenizer.ggml.merges"),
        ({"token_type": np.array([1], np.int32)}, "token_type does not have a number for each token"),
        ({"eos_token_id": 400}, "eos_token_id is 400, where a whole number from 0 to 319"),
        ({"tokens": ["a"] * 320}, "holds empty tokens or the same token twice"),
    ],
)
def test_damaged_vocabularies_are_refused(
    tmp_path: Path, byte_level: Tokenizer, changes: dict[str, object], message: str
) -> None:
    """A key of a wrong type, length or range is refused in one line that names file and key."""
    metadata = vocabulary_metadata(byte_level, 320) | {f"tokenizer.ggml.{key}": v for key, v in changes.items()}
    with pytest.raises(UserError) as error:
        through(tmp_path / "a.gguf", metadata)
    assert str(error.value).startswith(str(tmp_path / "a.gguf")) and message in str(error.value)

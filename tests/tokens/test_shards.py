"""Token shards: what is written, what is verified on opening, and what a stream reads."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from babyllm.data.rows.windows import Windows
from babyllm.documents import Document, is_held_out
from babyllm.errors import UserError
from babyllm.prepare.encode import train_tokenizer, write_tokens
from babyllm.store.shard_writer import ShardWriter
from babyllm.store.shards import MANIFEST, Manifest, TokenData, TokenStream, open_tokens, token_dtype
from babyllm.tokenizer import Tokenizer, load_tokenizer

EOS = 2


def some_documents(n: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocab_size, rng.integers(1, 12)).tolist() for _ in range(n)]


def write(directory: Path, documents: list[list[int]], vocab_size: int = 1000, shard_tokens: int = 50) -> Manifest:
    writer = ShardWriter(directory, vocab_size, EOS, "abc", shard_tokens)
    for ids in documents:
        writer.add(ids, "text", "train", 10)
    return writer.finish()


def with_eos(documents: list[list[int]]) -> list[int]:
    return [token for ids in documents for token in [*ids, EOS]]


def test_documents_come_back_from_several_shards(tmp_path: Path) -> None:
    """A stream reads every document in order, each with its <eos>, and the manifest counts them."""
    documents = some_documents(100, 1000)
    manifest = write(tmp_path / "new", documents)
    data = open_tokens(tmp_path / "new", verify=True)
    assert data.manifest == manifest and len(manifest.shards) > 5
    stream = data.stream("train")
    assert stream.read(0, len(stream)).tolist() == with_eos(documents)
    assert sum(s.tokens for s in manifest.shards) == len(stream)
    assert sum(s.documents for s in manifest.shards) == 100
    assert data.text_bytes("train", "text") == 1000
    assert all(50 <= s.tokens < 50 + 12 for s in manifest.shards[:-1]), "a document is never cut"


def test_shards_are_readable_with_numpy_alone(tmp_path: Path) -> None:
    """A shard is raw little-endian ids, nothing else."""
    documents = some_documents(3, 1000)
    (shard,) = write(tmp_path, documents).shards
    assert np.memmap(tmp_path / shard.file, "<u2", "r").tolist() == with_eos(documents)


@pytest.mark.parametrize(
    ("vocab_size", "dtype", "size"), [(65_535, "uint16", 2), (65_536, "uint16", 2), (65_537, "uint32", 4)]
)
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path: Path, vocab_size: int, dtype: str, size: int) -> None:
    """Up to 65,536 ids take two bytes each, more take four, and the largest id survives."""
    assert token_dtype(vocab_size) == dtype
    manifest = write(tmp_path, [[vocab_size - 1, 7]], vocab_size)
    assert manifest.dtype == dtype
    assert (tmp_path / manifest.shards[0].file).stat().st_size == 3 * size
    assert open_tokens(tmp_path).stream("train").read(0, 3).tolist() == [vocab_size - 1, 7, EOS]


def test_ids_outside_the_vocabulary_are_never_written(tmp_path: Path) -> None:
    """An id outside the vocabulary is an error; it does not wrap around."""
    writer = ShardWriter(tmp_path, 65_536, EOS, "abc")
    with pytest.raises(UserError, match="token id 65536 is outside the vocabulary of 65536"):
        writer.add([5, 65_536], "text", "train", 1)


def test_the_manifest_is_the_commit_mark(tmp_path: Path) -> None:
    """A directory is token data only once the manifest is written, which is last; then no more can be added."""
    writer = ShardWriter(tmp_path, 1000, EOS, "abc", 5)
    for ids in some_documents(20, 1000):
        writer.add(ids, "text", "train", 1)
    assert list(tmp_path.glob("*.bin")) and not (tmp_path / MANIFEST).exists()
    with pytest.raises(UserError, match=rf"has no {MANIFEST}"):
        open_tokens(tmp_path)
    writer.finish()
    open_tokens(tmp_path, verify=True)
    assert not [p for p in tmp_path.iterdir() if p.suffix not in (".bin", ".json")]
    with pytest.raises(UserError, match="holds token data already"):
        ShardWriter(tmp_path, 1000, EOS, "abc")


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    """An empty corpus is refused instead of leaving a manifest without shards."""
    with pytest.raises(UserError, match="the corpus is empty"):
        ShardWriter(tmp_path, 1000, EOS, "abc").finish()


def test_domains_whose_names_look_alike_stay_apart(tmp_path: Path) -> None:
    """Every domain has files of its own, whatever the characters of its name."""
    writer = ShardWriter(tmp_path, 1000, EOS, "abc")
    names = ["web/zh", "web_zh", "../up", "网页", ""]
    for i, name in enumerate(names):
        writer.add([10 + i], name, "train", 1)
    writer.finish()
    data = open_tokens(tmp_path, verify=True)
    assert [data.stream("train", name).read(0, 9).tolist() for name in names] == [[10 + i, EOS] for i in range(5)]
    assert len(list(tmp_path.glob("*.bin"))) == 5


def test_damage_is_found(tmp_path: Path) -> None:
    """A missing file, a file of the wrong size and a changed bit are found when token data is opened."""
    manifest = write(tmp_path, some_documents(50, 1000))
    file = tmp_path / manifest.shards[1].file
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"{file.name}: {len(content) - 1} bytes, the manifest says {len(content)}"):
        open_tokens(tmp_path)
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(UserError, match=rf"{file.name}: its sha256 .* rebuild the directory"):
        open_tokens(tmp_path)
    open_tokens(tmp_path, check=False)
    file.unlink()
    with pytest.raises(UserError, match=rf"{file.name}: missing"):
        open_tokens(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        ('{"version": 1, "shards": []}', "not a manifest"),
        ('{"version": 99}', "format version 99"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, content: str, message: str) -> None:
    """A manifest that is not valid is refused, and the error names its file."""
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=rf"{MANIFEST}: {message}"):
        open_tokens(tmp_path)


def test_data_without_a_training_shard_is_refused(tmp_path: Path) -> None:
    """Token data needs a training shard."""
    writer = ShardWriter(tmp_path, 1000, EOS, "abc")
    writer.add([5], "text", "val", 1)
    writer.finish()
    with pytest.raises(UserError, match="holds no training shard"):
        open_tokens(tmp_path)
    with pytest.raises(UserError, match="no such file or directory"):
        open_tokens(tmp_path / "elsewhere")


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_bare_files_of_other_projects(tmp_path: Path, dtype: str, given: bool) -> None:
    """Without a manifest, the type of ids is detected, and files named "val", "dev" or "test" are held out."""
    ids = np.arange(100)
    (tmp_path / "folder.bin").mkdir()
    for name in ("train_0", "train_1", "evaluated", "news_val_0", "validation", "dev", "wiki-test"):
        ids.astype(np.dtype(dtype).newbyteorder("<")).tofile(tmp_path / f"{name}.bin")
    data = open_tokens(tmp_path, vocab_size=100, dtype=dtype if given else "auto", eos_id=1)
    assert data.manifest.dtype == dtype
    assert {s.file: s.split for s in data.manifest.shards} == {
        **{"evaluated.bin": "train", "train_0.bin": "train", "train_1.bin": "train"},
        **dict.fromkeys(("news_val_0.bin", "validation.bin", "dev.bin", "wiki-test.bin"), "val"),
    }
    assert data.stream("train").read(0, 1000).tolist() == [*range(100)] * 3
    one = open_tokens(tmp_path / "train_1.bin", vocab_size=100)
    assert one.stream("train").read(98, 1000).tolist() == [98, 99]


@pytest.mark.parametrize(("magic", "dtype", "vocab_size"), [(20240520, "<u2", 50304), (20240801, "<u4", 128_256)])
def test_bare_files_with_the_header_of_llmc(tmp_path: Path, magic: int, dtype: str, vocab_size: int) -> None:
    """A header of 256 numbers defines the type of ids and is skipped; one with a wrong length is refused."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, 50
    file = tmp_path / "train.bin"
    file.write_bytes(header.tobytes() + np.arange(50, dtype=dtype).tobytes())
    data = open_tokens(file, vocab_size=vocab_size)
    assert data.stream("train").read(0, 99).tolist() == [*range(50)]
    assert open_tokens(file, vocab_size=50).manifest.dtype == data.manifest.dtype
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"train\.bin: its header says 50 tokens"):
        open_tokens(file, vocab_size=50)


def test_bare_files_that_are_not_valid(tmp_path: Path) -> None:
    """A wrong dtype, a broken length, ids outside the vocabulary, or no vocabulary at all are refused."""
    file = tmp_path / "train.bin"
    with pytest.raises(UserError, match="holds neither"):
        open_tokens(tmp_path)
    np.full(100, 999, "<u4").tofile(file)
    with pytest.raises(UserError, match=r"need --model\.vocab_size"):
        open_tokens(file)
    with pytest.raises(UserError, match=r"train\.bin: holds ids of uint32, not uint16; leave --data\.dtype out"):
        open_tokens(file, vocab_size=65_537, dtype="uint16")
    with pytest.raises(UserError, match=r"--data\.eos_id=65537: outside the vocabulary of 65537"):
        open_tokens(file, vocab_size=65_537, eos_id=65_537)
    np.full(100, 999, "<u2").tofile(file)
    with pytest.raises(UserError, match=r"train\.bin: holds ids of uint16, not uint32; leave --data\.dtype out"):
        open_tokens(file, vocab_size=1000, dtype="uint32")
    with pytest.raises(UserError, match=r"train\.bin: holds id 65471463, outside the vocabulary of 128256"):
        open_tokens(file, vocab_size=128_256)
    with pytest.raises(UserError, match=r"train\.bin: holds id 999, outside the vocabulary of 999"):
        open_tokens(file, vocab_size=999)
    for content in (b"\0" * 101, b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match="not a whole number of uint16 ids"):
            open_tokens(file, vocab_size=1000)


def test_the_type_of_bare_ids_is_detected(tmp_path: Path) -> None:
    """Ids of 64 bits and files of different types are refused; a file too short to detect has the given type."""
    for name, dtype in (("a", "<u2"), ("b", "<u4"), ("c", "<i8")):
        np.arange(5000, dtype=dtype).tofile(tmp_path / f"{name}.bin")
    with pytest.raises(UserError, match=r"c\.bin: holds ids of 64 bits"):
        open_tokens(tmp_path / "c.bin", vocab_size=50_304)
    (tmp_path / "c.bin").unlink()
    with pytest.raises(UserError, match=r"a\.bin holds ids of uint16, .*b\.bin of uint32"):
        open_tokens(tmp_path, vocab_size=50_304)
    (tmp_path / "b.bin").write_bytes((tmp_path / "b.bin").read_bytes()[:-2])
    with pytest.raises(UserError, match=r"b\.bin: 19998 bytes are not a whole number of uint32 ids"):
        open_tokens(tmp_path / "b.bin", vocab_size=50_304)
    np.array([5, 0, 6, 0], "<u2").tofile(tmp_path / "short.bin")
    for dtype, expected in (("auto", [5, 0, 6, 0]), ("uint16", [5, 0, 6, 0]), ("uint32", [5, 6])):
        data = open_tokens(tmp_path / "short.bin", vocab_size=100, dtype=dtype)
        assert data.stream("train").read(0, 9).tolist() == expected


def test_every_id_of_a_bare_file_is_verified(tmp_path: Path) -> None:
    """An id outside the vocabulary deep inside a bare file is found when it is opened."""
    ids = np.zeros((1 << 20) + 10, "<u2")
    ids[-1] = 500
    ids.tofile(tmp_path / "train.bin")
    open_tokens(tmp_path, vocab_size=501)
    with pytest.raises(UserError, match=r"train\.bin: holds id 500, outside the vocabulary of 500"):
        open_tokens(tmp_path, vocab_size=500)


def test_reading_crosses_shard_borders(tmp_path: Path) -> None:
    """Any range of a stream equals that range of the concatenated shards, clipped at the end."""
    documents = some_documents(30, 1000)
    manifest = write(tmp_path, documents, shard_tokens=20)
    data = TokenData(tmp_path, manifest)
    stream, joined = TokenStream([data.ids(shard) for shard in manifest.shards]), with_eos(documents)
    assert len(stream) == len(joined) and len(manifest.shards) > 4
    for start in range(len(joined) + 2):
        for length in (0, 1, 7, 45, 1000):
            got = stream.read(start, start + length)
            assert got.dtype == np.int64 and got.tolist() == joined[start : start + length]
    assert len(TokenStream([])) == 0


def test_shards_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    """Opening 200 MB of tokens and reading a few rows needs memory for these rows only."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not show a process's memory in /proc")

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for name in ("train_0.bin", "train_1.bin"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(100 << 20)
    before = resident_bytes()
    data = open_tokens(tmp_path, vocab_size=1000)
    windows = Windows(data.stream("train"), 512, EOS)
    rows = windows.rows(np.linspace(0, len(windows) - 1, 20).astype(np.int64))
    assert rows["tokens"].shape == (20, 512) and len(windows) == (100 << 20) // 512
    assert resident_bytes() - before < 20 << 20


def test_written_corpus(token_dir: Path, corpus: list[Document], tokenizer: Tokenizer) -> None:
    """Every document is in the shards of its domain and split, decodes to its text, and its bytes are counted."""
    data = open_tokens(token_dir, verify=True)
    assert data.manifest.tokenizer_sha256 == tokenizer.sha256 and data.manifest.vocab_size == 400
    for split in ("train", "val"):
        assert data.domains(split) == ["news", "reviews"]
        for domain in data.domains(split):
            texts = [d.text for d in corpus if d.domain == domain and is_held_out(d.text, 0.1) == (split == "val")]
            ids = data.stream(split, domain).read(0, 1 << 20)
            parts = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)
            assert [tokenizer.decode(part[:-1]) for part in parts[:-1]] == texts and len(parts[-1]) == 0
            assert data.text_bytes(split, domain) == sum(len(text.encode()) for text in texts)
    again = load_tokenizer(token_dir, data.manifest.tokenizer_sha256)
    assert again is not None and again.sha256 == tokenizer.sha256


def test_the_split_does_not_depend_on_the_order(tmp_path: Path, corpus: list[Document], tokenizer: Tokenizer) -> None:
    """The same documents are held out when the corpus is in another order or split into several."""

    def held_out(name: str, documents: list[Document]) -> set[str]:
        write_tokens(documents, tokenizer, tmp_path / name, held_out=0.2)
        ids = open_tokens(tmp_path / name).stream("val").read(0, 1 << 20)
        parts = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)
        return {tokenizer.decode(part) for part in parts[:-1]}

    all_together = held_out("forward", corpus)
    assert 40 < len(all_together) < 120
    assert held_out("backward", corpus[::-1]) == all_together
    assert held_out("first", corpus[:150]) | held_out("second", corpus[150:]) == all_together


def test_empty_texts_are_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A document without text leaves no lone <eos>."""
    seen: list[tuple[int, int]] = []
    documents = [Document("今天"), Document(""), Document("token")]
    manifest = write_tokens(documents, tokenizer, tmp_path, held_out=0.0, progress=lambda *counts: seen.append(counts))
    assert [s.documents for s in manifest.shards] == [2]
    assert seen[-1] == (2, manifest.shards[0].tokens)


def test_the_tokenizer_does_not_learn_from_held_out_documents(corpus: list[Document]) -> None:
    """A tokenizer trained for a corpus depends only on the documents that are not held out."""
    kept = [d.text for d in corpus if not is_held_out(d.text, 0.3)]
    assert train_tokenizer(corpus, 350, held_out=0.3).sha256 == Tokenizer.train(kept, 350).sha256
    assert train_tokenizer(corpus, 350, held_out=0.0).sha256 != Tokenizer.train(kept, 350).sha256


def test_another_tokenizer_beside_the_tokens_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A tokenizer that did not make the ids is refused; without tokenizer files, None is returned."""
    write_tokens([Document("今天")], tokenizer, tmp_path, held_out=0.0)
    sha256 = json.loads((tmp_path / MANIFEST).read_text())["tokenizer_sha256"]
    other = Tokenizer.train(["another corpus of text"], 290)
    other.save(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.model: is damaged or not the one that manifest\.json beside"):
        load_tokenizer(tmp_path, sha256)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(UserError, match="its tokenizer is not the one its shards were made with"):
        load_tokenizer(tmp_path, sha256)
    assert load_tokenizer(tmp_path / "nowhere", sha256) is None


def test_the_fingerprint_tells_data_apart(tmp_path: Path) -> None:
    """Equal documents in equal order have equal fingerprints; any difference changes the fingerprint."""
    documents = some_documents(20, 1000)
    fingerprints = {
        write(tmp_path / "a", documents).fingerprint(),
        write(tmp_path / "same", documents).fingerprint(),
        write(tmp_path / "order", documents[::-1]).fingerprint(),
        write(tmp_path / "vocabulary", documents, vocab_size=1001).fingerprint(),
        write(tmp_path / "token", [[*documents[0][:-1], 999], *documents[1:]]).fingerprint(),
    }
    assert len(fingerprints) == 4

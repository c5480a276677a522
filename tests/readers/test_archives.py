"""Archives of files: their files are read like those of a folder, up to any damage."""

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import read_conversations
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.text.dedup.decontaminate import evaluation_files, read_benchmarks
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition, require_fields
from tests.support.disk_fixtures import files_up_to

RANDOM = random.Random(3)
LOST = "damaged: what follows is lost"
CHECKSUM = "the checksum is wrong: all was read, but some of it may have changed"
LEFT_OUT = "files of the archive that are not read"
Files = Mapping[str, bytes]


def noise(n: int) -> str:
    return RANDOM.randbytes(n // 2).hex()


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def parquet(*texts: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), sink)
    return sink.getvalue()


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def streamed(files: Files) -> bytes:
    """A .zip archive whose heads hold no sizes, as written by programs that do not know them beforehand."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    sink = Pipe()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            with archive.open(name, "w") as file:
                file.write(content)
    return sink.getvalue()


def tarred(files: Files, mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[Files], bytes]] = {
    **{".zip": zipped, ".stored.zip": lambda files: zipped(files, zipfile.ZIP_STORED), ".streamed.zip": streamed},
    **{".bz2.zip": lambda files: zipped(files, zipfile.ZIP_BZIP2)},
    **{".tar": tarred, ".gnu.tar": lambda files: tarred(files, format=tarfile.GNU_FORMAT)},
    **{".tar.gz": lambda files: tarred(files, "w:gz"), ".tgz": lambda files: tarred(files, "w:gz")},
    **{".tar.bz2": lambda files: tarred(files, "w:bz2"), ".txz": lambda files: tarred(files, "w:xz")},
    ".tar.zst": lambda files: zstd(tarred(files)),
}
FILES = {
    "docs/a.txt": ("first text " + noise(300)).encode(),
    "docs/" + "long" * 40 + ".txt": ("of a long name " + noise(300)).encode(),
    "b.jsonl": lines(*(f"line {i} {noise(40)}" for i in range(500))),
    "c.csv.gz": gzip.compress(b"text\n" + "\n".join(f"row {i} {noise(40)}" for i in range(500)).encode()),
    "d.parquet": parquet(*(f"cell {i}" for i in range(500))),
    "e.html": f"<html><body><p>{noise(300)}</p></body></html>".encode(),
}
OTHERS = {"README.md": b"about", "__MACOSX/a.txt": b"fork", ".hidden/b.txt": b"x", "p.png": b"\x89PNG", "q.png": b"x"}


def read(path: Path, size: int = 1 << 30, **settings: Any) -> list[Document | Rejected]:
    config = ReadConfig(**settings)
    return [item for part in find_partitions([path], config, size) for item in read_partition(part, config)]


def texts(found: list[Document | Rejected]) -> list[str]:
    return [item.text for item in found if isinstance(item, Document)]


def reasons(found: list[Document | Rejected]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Rejected)]


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The texts of each file as read from a folder."""
    folder, found = tmp_path_factory.mktemp("loose"), {}
    for number, (name, content) in enumerate(FILES.items()):
        path = folder / str(number) / name[-40:]
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        found[name] = texts(read(path.parent))
    return {name: found[name] for name in FILES}


@pytest.mark.parametrize("suffix", PACKERS)
def test_files_of_an_archive_are_read_as_in_a_folder(tmp_path: Path, suffix: str, loose: dict[str, list[str]]) -> None:
    """Each file is read in its format under its name in the archive; what a folder leaves out is reported in a line."""
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(PACKERS[suffix](FILES | OTHERS))
    found = read(path)
    assert texts(found) == [text for name in FILES for text in loose[name]]
    (report,) = [item for item in found if isinstance(item, Rejected)]
    assert (report.place, report.reason, report.excerpt) == (path.name, LEFT_OUT, "2 .png, 1 README.md")
    ids = [item.id for item in found if isinstance(item, Document)]
    assert ids[0] == f"{path.name}/docs/a.txt" and ids[2] == f"{path.name}/b.jsonl:0"
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_a_large_archive_is_cut_from_file_to_file(tmp_path: Path, suffix: str) -> None:
    """Pieces yield what the whole yields, in the same order; a compressed archive stays whole."""
    path = tmp_path / f"many{suffix}"
    path.write_bytes(PACKERS[suffix]({f"{i:04}.txt": noise(2000).encode() for i in range(1500)} | OTHERS))
    pieces = find_partitions([path], ReadConfig(), 100_000)
    assert (len(pieces) > 10) == (suffix != ".tar.gz")
    assert texts(read(path, 100_000)) == texts(read(path)) and len(texts(read(path))) == 1500


def test_the_domain_is_that_of_a_folder_with_the_name_of_the_archive(tmp_path: Path) -> None:
    """An archive in a folder counts as a folder in it; one given by its own path counts as the given folder."""
    files = {"zh/1.txt": b"one", "en/2.txt": b"two", "3.txt": b"three"}
    for name in ("wiki-001.zip", "news.zip"):
        (tmp_path / name).write_bytes(zipped(files))
    found = [item for item in read(tmp_path) if isinstance(item, Document)]
    assert [item.domain for item in found] == ["news"] * 3 + ["wiki"] * 3
    found = [item for item in read(tmp_path / "news.zip") if isinstance(item, Document)]
    assert [item.domain for item in found] == ["zh", "en", "news"]
    found = [item for item in read(tmp_path / "news.zip", domain="file") if isinstance(item, Document)]
    assert [item.domain for item in found] == ["zh", "en", "news"]


def test_names_of_other_encodings(tmp_path: Path) -> None:
    """Names written by a Chinese Windows are read correctly, whether or not the archive names their encoding."""
    plain = zipped({"XXXXXXXXXXXX.txt": "文".encode()})
    name = "中文文件名字".encode("gb18030")
    (tmp_path / "a.zip").write_bytes(plain.replace(b"XXXXXXXXXXXX", name))
    (tmp_path / "b.zip").write_bytes(zipped({"目录/文件.txt": "字".encode()}))
    found = [item for item in read(tmp_path) if isinstance(item, Document)]
    assert [item.id.partition("/")[2] for item in found] == ["a.zip/中文文件名字.txt", "b.zip/目录/文件.txt"]


def test_archives_in_archives(tmp_path: Path) -> None:
    """An archive in an archive is read; one more level is rejected."""
    inner = tarred({"a.txt": b"within", "deep.zip": zipped({"b.txt": b"too deep"})}, "w:gz")
    (tmp_path / "outer.zip").write_bytes(zipped({"x/inner.tar.gz": inner}))
    found = read(tmp_path)
    assert texts(found) == ["within"]
    assert reasons(found) == ["an archive in an archive in an archive: unpack it first"]


def test_encrypted_files_are_reported(tmp_path: Path) -> None:
    """A file that needs a password is rejected in one line, and the others are read."""
    data = bytearray(zipped({"secret.txt": b"hidden", "open.txt": b"shown"}))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    found = read(tmp_path)
    assert texts(found) == ["shown"] and reasons(found) == ["encrypted: unpack the archive first"]


@pytest.mark.parametrize("suffix", PACKERS)
def test_all_before_a_cut_is_kept(tmp_path: Path, suffix: str) -> None:
    """Whole files and whole lines before the cut are kept; half a text is never taken for a text."""
    files = {"a.txt": noise(5000).encode(), "b.jsonl": lines(*(f"{i} {noise(3000)}" for i in range(400)))}
    data = PACKERS[suffix](files | {"c.txt": noise(500_000).encode()})
    path = tmp_path / f"cut{suffix}"
    whole = [files["a.txt"].decode(), *(json.loads(line)["text"] for line in files["b.jsonl"].splitlines())]
    for share, least in ((0.6, 2), (0.9, 250)):
        path.write_bytes(data[: int(len(data) * share)])
        found = read(path)
        assert texts(found) == whole[: len(texts(found))] and len(texts(found)) >= least, share
        reported = [reason for reason in reasons(found) if not reason.startswith("damaged: the directory")]
        assert reported in ([LOST], ["not valid JSON", LOST]), (share, reported)


def test_damage_within_an_archive_costs_one_file(tmp_path: Path) -> None:
    """Reading continues with the next file if its place is known or can be found."""
    files = {f"{i}.txt": f"{i} {noise(3000)}".encode() for i in range(9)}
    names = [content.decode() for content in files.values()]
    data = bytearray(zipped(files))
    middle = data.index(b"PK\3\4", data.index(b"4.txt") - 60) + 1000
    data[middle : middle + 60] = b"\xff" * 60
    (tmp_path / "a.zip").write_bytes(bytes(data))
    found = read(tmp_path / "a.zip")
    assert [text for text in texts(found) if text in names] == names[:4] + names[5:]
    assert reasons(found) in ([LOST], [CHECKSUM])

    stored = bytearray(zipped(files, zipfile.ZIP_STORED))
    stored[stored.index(files["4.txt"]) + 5] ^= 1
    (tmp_path / "b.zip").write_bytes(bytes(stored))
    found = read(tmp_path / "b.zip")
    assert len(texts(found)) == 9 and reasons(found) == [CHECKSUM]

    tape = bytearray(tarred(files))
    header = tape.index(b"4.txt")
    tape[header : header + 512] = b"\xfe" * 512
    (tmp_path / "c.tar").write_bytes(bytes(tape))
    found = read(tmp_path / "c.tar")
    assert texts(found) == names[:4] + names[5:]
    assert reasons(found) == ["damaged: a part of the archive between its files is lost"]


def test_joined_archives_and_false_ones(tmp_path: Path) -> None:
    """All of several joined archives are read, also compressed; an empty one or a file that is not one is rejected."""
    one, two = {"1.txt": b"one"}, {"2.txt": b"two"}
    (tmp_path / "a.tar").write_bytes(tarred(one) + tarred(two))
    (tmp_path / "b.tar.gz").write_bytes(tarred(one, "w:gz") + tarred(two, "w:gz"))
    assert texts(read(tmp_path)) == ["one", "two"] * 2
    for name, content in (("c.zip", noise(3000).encode()), ("c.tar", noise(3000).encode())):
        (tmp_path / name).write_bytes(content)
        found = read(tmp_path / name)
        assert not texts(found) and reasons(found)[0].startswith("damaged: "), name
    (tmp_path / "d.zip").write_bytes(zipped({}))
    assert reasons(read(tmp_path / "d.zip")) == ["the file holds no records"]


def test_a_part_of_an_archive(tmp_path: Path) -> None:
    """A limit may end within an archive, and the fields that settings name are looked for in it."""
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"plain", "b.jsonl": lines("one", "two", "three")}))
    assert texts(read(tmp_path, limit="3")) == ["plain", "one", "two"]
    for text in ("text", "content"):
        config = ReadConfig(text=text)
        partitions = find_partitions([tmp_path], config, 1 << 30)
        if text == "text":
            require_fields(partitions, config)
            continue
        with pytest.raises(UserError, match="none of the first 3 records has a field content"):
            require_fields(partitions, config)


def test_conversations_and_questions_in_archives(tmp_path: Path) -> None:
    """Files of conversations and of evaluation sets may be in archives."""
    chat = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]})
    (tmp_path / "chats.zip").write_bytes(zipped({"x/chats.jsonl": chat.encode(), "note.txt": b"a note"}))
    found = list(read_conversations(tmp_path / "chats.zip", FormatConfig()))
    assert [item.messages[1].content for item in found if isinstance(item, Conversation)] == ["yes"]
    assert [item.reason for item in found if isinstance(item, Rejected)] == [
        "a file of a kind that holds no conversations"
    ]
    question = "which of the seven colours of the rainbow comes directly after the colour yellow in it"
    (tmp_path / "test.tar").write_bytes(tarred({"q.jsonl": json.dumps({"question": question}).encode()}))
    benchmarks = read_benchmarks(evaluation_files([str(tmp_path / "test.tar")]), 8)
    assert benchmarks.texts == [question]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_no_room_to_unpack_is_an_error(tmp_path: Path, suffix: str) -> None:
    """A file that does not fit on the disk is never read in part, even where only the end of its last block is cut."""
    files = {"a.txt": noise(2_500_000).encode()}
    packed = zipped(files) if suffix == ".zip" else tarred(files, "w:gz" if suffix == ".tar.gz" else "w")
    (tmp_path / f"a{suffix}").write_bytes(packed)
    refusal = r"a\.txt: cannot be unpacked below .*; set TMPDIR to a folder with room"
    with files_up_to(2_499_990), pytest.raises(UserError, match=refusal):
        read(tmp_path)


def test_other_archives_are_named(tmp_path: Path) -> None:
    """An archive of a kind that is not read is refused with a message that says what to do."""
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"a\.rar: an archive of a kind that is not read; unpack it"):
        find_partitions([tmp_path / "a.rar"], ReadConfig(), 1 << 30)

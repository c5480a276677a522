"""Damaged files of every compression and format: all before the damage is kept, and one line reports the loss."""

import bz2
import gzip
import io
import json
import lzma
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from babyllm.documents import Document
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RANDOM = random.Random(7)
TEXTS = [f"text {i} {RANDOM.randbytes(24).hex()}" for i in range(300)]
LOST, LOST_RECORD = "damaged: what follows is lost", "damaged: this record is lost"
CHECKSUM = "the checksum is wrong: all was read, but some of it may have changed"


def arrow(codec: str) -> Callable[[bytes], bytes]:
    def packed(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(data)
        return bytes(sink.getvalue())

    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    **{".gz": gzip.compress, ".bz2": lambda data: bz2.compress(data, 1), ".xz": lzma.compress},
    **{".zst": arrow("zstd"), ".lz4": arrow("lz4")},
}


def record(text: str) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text.encode() + b"\r\n\r\n"


FORMATS: dict[str, list[bytes]] = {
    ".jsonl": [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS],
    ".csv": [b"text\n", *(text.encode() + b"\n" for text in TEXTS)],
    ".txt": [text.encode() + b"\n" for text in TEXTS],
    ".wet": [record(text) for text in TEXTS],
    ".json": [b"[", *(json.dumps({"text": text}).encode() + b"," for text in TEXTS), b"1]"],
}


def read(path: Path, data: bytes, **settings: Any) -> tuple[list[str], list[str]]:
    """The texts of a file with these bytes, and the reasons of its rejected records."""
    path.write_bytes(data)
    config = ReadConfig(txt=settings.pop("txt", "line"), **settings)
    items = [item for part in find_partitions([path], config, 1 << 30) for item in read_partition(part, config)]
    found = [item.text for item in items if isinstance(item, Document)]
    return found, [item.reason for item in items if isinstance(item, Rejected)]


def before_damage(data: bytes, suffix: str) -> tuple[bytes, bool]:
    """The bytes that the codec alone unpacks before the damage, and whether it detects the damage."""
    if suffix in (".zst", ".lz4"):
        codec, given = {".zst": "zstd", ".lz4": "lz4"}[suffix], b""
        with pa.CompressedInputStream(io.BytesIO(data), codec) as stream:
            try:
                while byte := stream.read(1):
                    given += byte
            except (OSError, ValueError):
                return given, True
        return given, False
    decoders: dict[str, Callable[[], Any]] = {".gz": lambda: zlib.decompressobj(31), ".bz2": bz2.BZ2Decompressor}
    decoder, given = decoders.get(suffix, lzma.LZMADecompressor)(), b""
    try:
        for i in range(len(data)):
            if decoder.eof:
                decoder = decoders.get(suffix, lzma.LZMADecompressor)()
            given += decoder.decompress(data[i : i + 1])
    except (OSError, ValueError, zlib.error, lzma.LZMAError):
        return given, True
    return given, not decoder.eof


def whole_texts(given: bytes, pieces: list[bytes]) -> list[str]:
    """The texts whose records are whole in the bytes that a codec unpacked, up to the first difference."""
    end, n_whole = 0, 0
    for piece in pieces:
        if given[end : end + len(piece)] != piece:
            break
        end, n_whole = end + len(piece), n_whole + 1
    return TEXTS[: max(0, n_whole - (len(pieces) - len(TEXTS)))]  # a table begins with the names of its columns


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a cut": lambda data: data[: len(data) * 3 // 4],
    "a cut trailer": lambda data: data[:-2],
    "its beginning": lambda data: data[:12] + b"\xff" * 8 + data[20:],
    "its middle": lambda data: data[: len(data) // 2] + b"\xff" * 40 + data[len(data) // 2 + 40 :],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", PACKERS)
def test_all_before_the_damage_is_kept(tmp_path: Path, suffix: str, damage: str) -> None:
    """In every format as much is read as the codec alone unpacks, and one line reports the rest."""
    for kind in (".jsonl", ".csv", ".txt", ".wet"):
        data = DAMAGES[damage](PACKERS[suffix](b"".join(FORMATS[kind])))
        given, is_seen = before_damage(data, suffix)
        expected = whole_texts(given, FORMATS[kind])
        found, reasons = read(tmp_path / f"a{kind}{suffix}", data)
        assert found[: len(expected)] == expected, kind
        # Arrow writes no checksum of zstd's content, so some damage is not detected.
        assert [reason for reason in reasons if reason in (LOST, LOST_RECORD, CHECKSUM)] or not is_seen, (kind, reasons)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_joined_files_are_kept_up_to_the_damage_of_one(tmp_path: Path, suffix: str) -> None:
    """Joined streams are read up to the damage; padding is ignored, and uncompressed bytes are reported in one line."""
    pack, half = PACKERS[suffix], len(TEXTS) // 2
    for kind in (".jsonl", ".wet"):
        first, second = (pack(b"".join(part)) for part in (FORMATS[kind][:half], FORMATS[kind][half:]))
        path = tmp_path / f"a{kind}{suffix}"
        assert read(path, first + pack(b"\n") + second) == (TEXTS, [])
        broken = second[: len(second) // 3]
        found, reasons = read(path, first + broken)
        assert found[:half] == TEXTS[:half] and reasons, kind
    assert read(tmp_path / f"a.jsonl{suffix}", pack(b"".join(FORMATS[".jsonl"])) + b"\0" * 512) == (TEXTS, [])
    found, reasons = read(tmp_path / f"a.jsonl{suffix}", pack(b"".join(FORMATS[".jsonl"])) + b"rubbish, not packed")
    assert found == TEXTS and reasons == ["what follows the compressed data is not compressed: it is left out"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_wrong_checksum_costs_nothing(tmp_path: Path, kind: str) -> None:
    """If only the trailer is wrong, every document is read, and one line names the checksum."""
    for suffix, place in ((".gz", -6), (".gz", -1), (".bz2", -2)):
        data = bytearray(PACKERS[suffix](b"".join(FORMATS[kind])))
        data[place] ^= 255
        found, reasons = read(tmp_path / f"a{kind}{suffix}", bytes(data))
        assert found == TEXTS and reasons[-1] == CHECKSUM, suffix
        assert len(reasons) == 1 + (kind == ".json"), reasons  # the number at the end of the array is not a document
    text = "\n".join(TEXTS).encode()
    data = bytearray(gzip.compress(text))
    data[-6] ^= 255
    assert read(tmp_path / "book.txt.gz", bytes(data), txt="file") == ([text.decode()], [CHECKSUM])
    assert read(tmp_path / "cut.txt.gz", bytes(data[:-200]), txt="file") == ([], [LOST])


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_broken_member_of_a_web_archive_costs_its_own_record(tmp_path: Path, suffix: str) -> None:
    """The members of a compressed archive are independent: reading continues with the next, each loss is one line."""
    for broken in ([0], [3], [3, 4, 6], [9]):
        members = [bytearray(PACKERS[suffix](record(text))) for text in TEXTS[:10]]
        for number in broken:
            middle = len(members[number]) // 2
            members[number][middle : middle + 20] = b"\xff" * 20
        found, reasons = read(tmp_path / f"a.wet{suffix}", b"".join(members))
        assert set(found) >= {text for i, text in enumerate(TEXTS[:10]) if i not in broken}
        assert set(reasons) <= {LOST, LOST_RECORD, CHECKSUM} and reasons
        # A broken zstd frame may leave no bytes that show that a record began there.
        assert len(reasons) == len(broken) or (suffix == ".zst" and len(reasons) < len(broken)), reasons
    members[2] = members[2][:-20]
    found, reasons = read(tmp_path / f"b.wet{suffix}", b"".join(members[:9]))
    assert set(found) >= set(TEXTS[:9]) - {TEXTS[2], TEXTS[3]} and reasons


def frame(content: bytes, window: int) -> bytes:
    """A zstd frame of one uncompressed block with a window of 2 to the power of `window` bytes."""
    block = (len(content) << 3 | 1).to_bytes(3, "little")  # the last one, not compressed
    return b"\x28\xb5\x2f\xfd\0" + bytes([(window - 10) << 3]) + block + content


def test_long_windows_of_zstd(tmp_path: Path) -> None:
    """A frame is read with any window up to that of `zstd --long=31`; one with a larger window counts as damaged."""
    parts = [b"".join(FORMATS[".jsonl"][i : i + 100]) for i in (0, 100, 200)]
    path, before = tmp_path / "a.jsonl.zst", PACKERS[".zst"](parts[0])
    assert read(path, before + frame(parts[1], 27) + frame(parts[2], 29)) == (TEXTS, [])
    assert read(path, before + frame(parts[1], 33)) == (TEXTS[:100], [LOST])


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory")
def test_a_window_beyond_the_memory(tmp_path: Path) -> None:
    """Without enough memory for a window the command ends with an error, and the file is not reported as damaged."""
    (tmp_path / "a.jsonl.zst").write_bytes(frame(FORMATS[".jsonl"][0], 31))
    code = """
import resource, sys
from pathlib import Path
from babyllm.text.readers import ReadConfig, find_partitions, read_partition
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), held + (1 << 30)))
config = ReadConfig()
print([list(read_partition(part, config)) for part in find_partitions([Path(sys.argv[1])], config, 1 << 30)])
"""
    made = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "a.jsonl.zst: cannot be read (there is not enough memory for its window)" in made.stderr


@pytest.mark.parametrize("suffix", [".zst", ".lz4"])
def test_frames_without_content(tmp_path: Path, suffix: str) -> None:
    """Skippable frames are ignored wherever they stand; one that is cut off is damage."""
    pack, half = PACKERS[suffix], len(TEXTS) // 2
    first, second = (pack(b"".join(part)) for part in (FORMATS[".jsonl"][:half], FORMATS[".jsonl"][half:]))
    for magic in (0x184D2A50, 0x184D2A5F):
        skipped = magic.to_bytes(4, "little") + (6).to_bytes(4, "little") + b"nobody"
        path = tmp_path / f"a.jsonl{suffix}"
        assert read(path, skipped + first + skipped + skipped + second + skipped) == (TEXTS, [])
        assert read(path, skipped + first + skipped[:-2]) == (TEXTS[:half], [LOST])


def test_a_dictionary_is_asked_for(tmp_path: Path) -> None:
    """A zstd frame that needs a dictionary is reported as such, after everything before it is read."""
    data = b"".join(FORMATS[".jsonl"])
    foreign = b"\x28\xb5\x2f\xfd\x21\x05\x05" + (len(b"nobody") << 3 | 1).to_bytes(3, "little") + b"nobody"
    found, reasons = read(tmp_path / "a.jsonl.zst", PACKERS[".zst"](data) + foreign)
    assert found == TEXTS and reasons == [
        "needs the dictionary that it was made with: unpack it first, with zstd -d -D"
    ]


def test_wrong_checksums_among_joined_files(tmp_path: Path) -> None:
    """A wrong checksum in the middle costs nothing, and one line reports it; it does not hide further losses."""
    parts = [b"".join(FORMATS[".jsonl"][i : i + 100]) for i in (0, 100, 200)]
    for suffix, pack in ((".gz", gzip.compress), (".zst", with_checksum)):
        for place in (-6, -1) if suffix == ".gz" else (-1,):
            members = [bytearray(pack(part)) for part in parts]
            members[0][place] ^= 255
            members[1][place] ^= 255
            path = tmp_path / f"a.jsonl{suffix}"
            assert read(path, b"".join(members)) == (TEXTS, [CHECKSUM])
            assert read(path, b"".join(members[:2]) + members[2][:-30])[1][-1] == LOST
            assert read(path, bytes(members[0]) + b"rest") == (TEXTS[:100], [LOST])


def with_checksum(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})

"""Text in many encodings: they are told apart, or rejected with a reason that says what to do."""

import gzip
import json
import zlib
from pathlib import Path

import pytest

from babyllm.documents import Document
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition

KOREAN = "오늘은 날씨가 매우 좋아서 우리는 공원에 산책을 갔습니다. 아이들은 잔디밭에서 뛰어놀았습니다."
THAI = "วันนี้อากาศดีมาก เราไปเดินเล่นที่สวนสาธารณะ แล้วก็กลับบ้านกินข้าวกับครอบครัว"
JAPANESE = "今日はとても天気がいいので、公園へ散歩に行きました。子供たちは芝生の上で遊んでいました。"
RUSSIAN = "Сегодня хорошая погода, и мы пошли гулять в парк. Дети играли на траве, а старики сидели на скамейках."
SIMPLIFIED = "今天天气很好，我们去公园散步，看到了许多美丽的花朵。孩子们在草地上奔跑，老人坐在长椅上聊天。"
TRADITIONAL = "今天天氣很好，我們去公園散步，看到了許多美麗的花朵。孩子們在草地上奔跑，老人坐在長椅上聊天。"
TEXTS = {
    **{"euc_kr": KOREAN, "cp949": KOREAN, "tis-620": THAI, "euc_jp": JAPANESE, "shift_jis": JAPANESE},
    **{"cp1251": RUSSIAN, "koi8-r": RUSSIAN, "gbk": SIMPLIFIED, "gb18030": TRADITIONAL, "big5": TRADITIONAL},
    **{"utf-16": KOREAN, "utf-32": THAI, "utf-8-sig": RUSSIAN, "utf-8": JAPANESE},
}
UNKNOWN = "the encoding is not recognised; name it with --read.encoding"
ADVICE = "(see --read.encoding and --read.errors)"


def read(path: Path, data: bytes, **settings: str) -> tuple[list[str], list[str]]:
    """The texts of a file with these bytes, and the reasons of its rejected records."""
    path.write_bytes(data)
    config = ReadConfig(**settings)  # type: ignore[arg-type]
    items = [item for part in find_partitions([path], config, 1 << 30) for item in read_partition(part, config)]
    found = [item.text for item in items if isinstance(item, Document)]
    return found, [item.reason for item in items if isinstance(item, Rejected)]


@pytest.mark.parametrize("encoding", TEXTS)
def test_encodings_are_told_apart(tmp_path: Path, encoding: str) -> None:
    """The encoding of a text of some lines is recognised, in every format and also in compressed files."""
    text = TEXTS[encoding]
    lines = [f"{text}{i}" for i in range(4)]
    records = [json.dumps({"text": line}, ensure_ascii=False) for line in lines]
    for name, content in {
        "a.jsonl": "\n".join(records),
        "a.json": "[" + ",\n".join(records) + "]",
        "a.csv": "\n".join(["text", *(f'"{line}"' for line in lines)]),
    }.items():
        assert read(tmp_path / name, content.encode(encoding)) == (lines, []), name
        assert read(tmp_path / f"{name}.gz", gzip.compress(content.encode(encoding))) == (lines, []), name
    assert read(tmp_path / "a.txt", "\n".join(lines).encode(encoding)) == (["\n".join(lines)], [])
    assert read(tmp_path / "b.txt", "\n".join(lines).encode(encoding), txt="line") == (lines, [])


@pytest.mark.parametrize("encoding", ["euc_kr", "tis-620", "euc_jp", "shift_jis", "koi8-r", "gbk", "big5"])
def test_pages_that_declare_no_encoding(tmp_path: Path, encoding: str) -> None:
    """An undeclared page is recognised like other files, and so is one that wrongly calls itself UTF-8."""
    pytest.importorskip("trafilatura", exc_type=ImportError)
    for head in ("", '<meta charset="utf-8">', '<meta charset="iso-8859-1">'):
        page = (
            f"<html><head>{head}</head><body><article><h1>.</h1>"
            + f"<p>{TEXTS[encoding]}</p>" * 3
            + "</article></body></html>"
        )
        [text], reasons = read(tmp_path / "a.html", page.encode(encoding))
        assert TEXTS[encoding] in text and not reasons
    odd = "".join(map(chr, range(0xC0, 0x100))) * 3
    assert read(tmp_path / "b.html", f"<p>{odd}</p>".encode("latin-1"))[1] == [UNKNOWN]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        (
            "cp1252",
            "Il était une fois une fée très âgée qui rêvait d'un été à la forêt, près de la rivière où naît l'été.",
        ),
        ("cp1253", "Σήμερα ο καιρός είναι πολύ καλός και πήγαμε βόλτα στο πάρκο με τα παιδιά και τους φίλους μας"),
        ("cp1255", "היום מזג האוויר טוב מאוד והלכנו לטייל בפארק עם הילדים והחברים שלנו"),
        ("cp1256", "الطقس جميل جدا اليوم وذهبنا للتنزه في الحديقة مع الأطفال والأصدقاء"),
        (
            "cp1250",
            "Dziś jest piękna pogoda i poszliśmy na spacer do parku, dzieci bawiły się na trawie",
        ),
    ],
)
def test_other_encodings_are_never_taken_for_chinese(tmp_path: Path, encoding: str, text: str) -> None:
    """A file in an unrecognised encoding is rejected in a line that names the setting; with the setting it is read."""
    lines = [text, text[10:], text[20:]]
    assert read(tmp_path / "a.txt", "\n".join(lines).encode(encoding)) == ([], [UNKNOWN])
    assert read(tmp_path / "a.txt", "\n".join(lines).encode(encoding), encoding=encoding)[0] == ["\n".join(lines)]
    records = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines)
    assert read(tmp_path / "a.jsonl", records.encode(encoding)) == ([], [f"not valid UTF-8 {ADVICE}"] * 3)


def test_too_little_evidence_is_not_guessed_from(tmp_path: Path) -> None:
    """Two letters of any script are not evidence; four common Chinese characters are."""
    for word, encoding in (("да", "cp1251"), ("네", "euc_kr"), ("é", "cp1252")):
        assert read(tmp_path / "a.txt", word.encode(encoding)) == ([], [UNKNOWN]), word
    assert read(tmp_path / "a.txt", "我们的中国".encode("gbk")) == (["我们的中国"], [])


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "big5", "euc_kr"])
def test_one_bad_byte_in_a_book(tmp_path: Path, encoding: str) -> None:
    """A bad byte rejects a book in a line that names the setting; with the setting it costs one character."""
    text = (TEXTS[encoding] + "\n") * 200
    data = text.encode(encoding) + b"\xff" + text.encode(encoding)
    found, [reason] = read(tmp_path / "a.txt", data)
    assert not found and reason.startswith("not valid ") and reason.endswith(ADVICE)
    assert read(tmp_path / "a.txt", data, errors="replace") == ([f"{text}\ufffd{text}"], [])
    found, reasons = read(tmp_path / "b.txt", data, txt="line")
    assert len(found) == 399 and reasons == [reason]
    assert read(tmp_path / "b.txt", data, txt="line", errors="replace")[0][200] == f"\ufffd{TEXTS[encoding]}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_joined_files_with_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    """Byte order marks at the beginning of a line, as in joined files, are not part of the text."""
    one = f"{SIMPLIFIED}一\n{SIMPLIFIED}二\n"
    data = one.encode(encoding) * 2
    assert read(tmp_path / "a.txt", data) == ([one * 2], [])
    assert read(tmp_path / "b.txt", data, txt="line")[0] == (one * 2).split("\n")[:-1]
    records = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in one.split("\n")[:-1])
    assert read(tmp_path / "a.jsonl", records.encode(encoding) * 2)[0] == (one * 2).split("\n")[:-1]


def warc(body: bytes, *headers: str, end: str = "\r\n", version: str = "1.0", media: str = "text/html") -> bytes:
    head = end.join(["HTTP/1.1 200 OK", f"Content-Type: {media}", *headers, "", ""]).encode() + body
    names = [f"WARC/{version}", "WARC-Type: response", "Content-Type: application/http", f"Content-Length: {len(head)}"]
    return end.join([*names, "", ""]).encode() + head + (end * 2).encode()


PAGE = f"<html><body><article><h1>标题</h1>{f'<p>{SIMPLIFIED}</p>' * 3}</article></body></html>".encode()


def test_compressed_contents_of_web_archives(tmp_path: Path) -> None:
    """Content compressed by a server is unpacked under any name of its compression, or rejected with that name."""
    pytest.importorskip("trafilatura", exc_type=ImportError)
    bare = zlib.compressobj(wbits=-15)
    raw = bare.compress(PAGE) + bare.flush()
    good = [
        *((gzip.compress(PAGE), name) for name in ("gzip", "GZIP", "x-gzip", "identity, gzip")),
        *((data, "Deflate") for data in (zlib.compress(PAGE), raw)),
        *((PAGE, name) for name in ("br", "gzip", "identity", "zstd")),  # stored unpacked under the old headers
        (gzip.compress(gzip.compress(PAGE)), "gzip, gzip"),
    ]
    records = [warc(data, f"Content-Encoding: {name}") for data, name in good]
    odd = bytes([0x8B, 0x2C, 0x80]) + bytes(range(256)) * 3
    records += [warc(odd, f"Content-Encoding: {name}", media="text/plain") for name in ("br", "zstd", "gzip")]
    found, reasons = read(tmp_path / "a.warc", b"".join(records))
    assert len(found) == len(good) and all(SIMPLIFIED in text for text in found)
    assert reasons == [
        *(f"the content is compressed by {name}" for name in ("br", "zstd")),
        "the compressed content is damaged",
    ]


def test_web_archives_as_others_write_them(tmp_path: Path) -> None:
    """All versions, lines that end in a line feed alone and chunked contents are read; broken chunks are reported."""
    pytest.importorskip("trafilatura", exc_type=ImportError)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)
    records = [
        *(warc(PAGE, version=version) for version in ("0.17", "0.18", "1.0", "1.1")),
        *(warc(PAGE, end="\n") for _ in range(2)),
        warc(chunked, "Transfer-Encoding: Chunked"),
        warc(PAGE, "Transfer-Encoding: chunked"),  # stored unchunked under the old headers
        warc(chunked[: len(chunked) // 2], "Transfer-Encoding: chunked"),
        warc(PAGE),
    ]
    found, reasons = read(tmp_path / "a.warc", b"".join(records))
    assert len(found) == len(records) - 1 and reasons == ["not a valid HTTP answer"]
    assert len(set(found)) == 1
    assert len(read(tmp_path / "a.warc", b"".join(records)[:-40])[0]) == len(records) - 2

"""Bytes as text: their encoding is detected from how common the resulting characters are.

bytes -> a byte order mark, or valid UTF-8  -> that encoding
      -> each candidate: bits that its characters take under the frequencies of its language
      -> the candidate with the fewest bits, if no other comes near; else not recognised

The same bytes are common characters in one encoding and rare ones in the others.
"""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from babyllm.text.readers.records import BadRecord, ReadConfig

BOM = codecs.BOM_UTF8
# Longer marks first: that of UTF-32 begins with that of UTF-16.
MARKS = {
    **{codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"},
    **{codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", BOM: "utf-8"},
}
# Text labelled with the first often holds characters of the second, a superset.
SUPERSETS = {
    **{"gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932", "big5": "big5hkscs"},
    **{"tis_620": "cp874", "tis-620": "cp874", "iso8859-1": "cp1252", "iso8859-11": "cp874", "ascii": "utf-8"},
}
MARK_AT_LINE = re.compile("^\ufeff+", re.MULTILINE)
UNKNOWN = "the encoding is not recognised; name it with --read.encoding"
ADVICE = " (see --read.encoding and --read.errors)"

ASCII_BITS, INVALID_BITS = 5.0, 24.0  # bits of an ASCII character, and of an invalid byte sequence
MOST_BITS = {1: 5.7, 2: 7.2}  # largest mean bits of a byte above ASCII, by the number of bytes of a character
DOUBT_BITS = 12.0  # bits by which the best candidate must beat every other
BONUS_BITS = 12.0  # bits in favour of GB18030, the encoding of most files that are not UTF-8
SAMPLE_BYTES = 1 << 16
ONE_BYTE = ("cp874", "cp1251", "koi8-r")
LOOKALIKES = ("cp1252", "cp1255", "cp1258")  # too close to related encodings to be told apart: they only raise doubt


# ---- decoding


def decoded(data: bytes, config: ReadConfig) -> str:
    """The text of a whole file, without byte order marks.

    Raises:
        BadRecord: its encoding is not recognised, or it is invalid in the one that was given.
    """
    encoding = recognised([data]) if config.encoding == "auto" else config.encoding
    if encoding is None and config.errors == "strict":
        raise BadRecord(UNKNOWN)
    return MARK_AT_LINE.sub("", text_of(data, encoding or "utf-8", config.errors))


def text_of_file(path: Path) -> str:
    """The text of a file that a person wrote, such as a word list.

    Raises:
        BadRecord: its encoding is not recognised.
        OSError: it cannot be read.
    """
    return decoded(path.read_bytes(), ReadConfig())


def text_of(data: bytes, encoding: str, errors: str = "strict") -> str:
    """The text of bytes in a known encoding.

    Args:
        data: bytes as stored.
        encoding: Python's name of the encoding.
        errors: strict, or replace to put U+FFFD in the place of invalid bytes.

    Raises:
        BadRecord: the bytes are invalid in the encoding.
    """
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError:
        raise BadRecord(f"not valid {encoding.upper()}{ADVICE}") from None


def is_wide(encoding: str) -> bool:
    """Whether a line break takes more than one byte, so that lines cannot be found without decoding."""
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def utf8(parts: Iterable[bytes], encoding: str, errors: str = "strict") -> Iterator[bytes]:
    """A stream of bytes recoded to UTF-8; under `strict` invalid bytes become bytes that are invalid in UTF-8 too."""
    if errors == "strict":
        errors = "surrogatepass" if is_wide(encoding) else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for part in parts:
        if text := decoder.decode(part):
            yield text.encode("utf-8", "surrogatepass")
    try:
        yield decoder.decode(b"", True).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        yield b"\xff"


def declared(label: str) -> str | None:
    """Python's name of the encoding that a page means by a label; None if the label is unknown."""
    try:
        name = codecs.lookup(label.strip()).name
        b"".decode(name)
    except LookupError:
        return None
    return SUPERSETS.get(name, name)


# ---- recognising


def recognised(samples: Sequence[bytes]) -> str | None:
    """The encoding of samples of a file, of which the first is its beginning; None if it is not recognised."""
    first, *later = samples
    for mark, encoding in MARKS.items():
        if first.startswith(mark):
            return encoding
    # A later sample may begin within a character; bytes below 0x30 are characters of their own in all encodings.
    data = b"\n".join([first, *(re.split(rb"[\x00-\x2f]", sample, maxsplit=1)[-1] for sample in later)])
    if data.isascii():
        return "utf-8"
    text = data.decode("utf-8", "replace")
    n_invalid = text.count("\ufffd") - data.count("\ufffd".encode())
    n_other = len(text) - len(text.encode("ascii", "ignore"))
    if 2 * n_invalid <= n_other:
        return "utf-8"
    return _likeliest(_beyond_ascii(data))


def _beyond_ascii(data: bytes) -> bytes:
    """The first lines that hold more than ASCII, up to `SAMPLE_BYTES`."""
    kept, size = [], 0
    for line in data.split(b"\n"):
        if not line.isascii():
            kept.append(line[: SAMPLE_BYTES - size])
            size += len(line)
            if size >= SAMPLE_BYTES:
                break
    return b"\n".join(kept)


def _likeliest(data: bytes) -> str | None:
    costs: dict[str, float] = {}
    for model in _models():
        costs[model.encoding] = min(_bits(data, model), costs.get(model.encoding, math.inf))
    weighed = costs | {"gb18030": costs["gb18030"] - BONUS_BITS}
    best, second = sorted(weighed, key=weighed.__getitem__)[:2]
    n_ascii = len(re.sub(rb"[\x80-\xff]+", b"", data))
    most = ASCII_BITS * n_ascii + MOST_BITS[1 if best in ONE_BYTE else 2] * (len(data) - n_ascii)
    is_sure = weighed[second] - weighed[best] >= DOUBT_BITS and costs[best] <= most
    return best if is_sure and best not in LOOKALIKES else None


@dataclass(frozen=True)
class _Model:
    """How many bits the characters of a language take in an encoding.

    Attributes:
        encoding: Python's name of the encoding.
        bits: bits of each common character.
        usual: other characters of the language.
        usual_bits: bits of each of these; every further character takes twice as many.
    """

    encoding: str
    bits: dict[str, float]
    usual: frozenset[str]
    usual_bits: float


def _bits(data: bytes, model: _Model) -> float:
    """The bits that a text takes in the encoding and language of a model."""
    total = 0.0
    for character, n in Counter(data.decode(model.encoding, "replace")).items():
        if character < "\x80":
            bits = ASCII_BITS
        elif character == "\ufffd":
            bits = INVALID_BITS
        else:
            bits = model.bits.get(character) or model.usual_bits * (1 if character in model.usual else 2)
        total += n * bits
    return total


@cache
def _models() -> tuple[_Model, ...]:
    simplified, traditional = _rows("gb2312", range(0xB0, 0xF8)), _rows("big5", range(0xA4, 0xC7), range(0x40, 0xFF))
    japanese, korean = _rows("euc_jp", range(0xB0, 0xD0)), _rows("euc_kr", range(0xB0, 0xC9))
    cyrillic = frozenset(map(chr, range(0x400, 0x460)))
    return (
        _model("gb18030", MARKS_OF_CHINESE + SIMPLIFIED, 0.65, simplified),
        *(_model(name, MARKS_OF_CHINESE + TRADITIONAL, 0.65, traditional) for name in ("gb18030", "big5hkscs")),
        *(_model(name, MARKS_OF_JAPANESE + KANA + KANJI, 0.85, japanese) for name in ("euc_jp", "cp932")),
        _model("cp949", HANGUL, 0.8, korean),
        _model("cp874", THAI, 0.98, frozenset(map(chr, range(0xE01, 0xE5C)))),
        *(_model(name, RUSSIAN, 0.95, cyrillic) for name in ("cp1251", "koi8-r")),
        *(_model(name, WESTERN, 0.9, frozenset(map(chr, range(0xA0, 0x100)))) for name in ("cp1252", "cp1258")),
        _model("cp1258", VIETNAMESE, 0.95, frozenset(map(chr, range(0xA0, 0x200)))),
        _model("cp1255", HEBREW, 0.98, frozenset()),
    )


def _model(encoding: str, ranked: str, share: float, usual: frozenset[str]) -> _Model:
    """A model whose common characters, the most common first, make up `share` of a text under Zipf's law."""
    characters = list(dict.fromkeys(ranked))
    weights = [1 / (rank + 5) for rank in range(len(characters))]
    scale = share / sum(weights)
    bits = {c: -math.log2(scale * weight) for c, weight in zip(characters, weights, strict=True)}
    rest = usual - set(characters)
    return _Model(encoding, bits, rest, math.log2(max(1, len(rest)) / (1 - share)))


def _rows(encoding: str, rows: Iterable[int], cells: Iterable[int] = range(0xA1, 0xFF)) -> frozenset[str]:
    codes = (bytes((row, cell)) for row in rows for cell in cells)
    return frozenset("".join(code.decode(encoding, "ignore") for code in codes))


MARKS_OF_CHINESE = "，。、：“”《》；？！（）「」—…·"
MARKS_OF_JAPANESE = "、。「」ー・（）"
SIMPLIFIED = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都"
    "同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由"
    "问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真"
    "论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空"
    "决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识"
    "候带导争运风花云春秋夜江城君归"
)
TRADITIONAL = (
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成方多經麼去法學如都"
    "同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由"
    "問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任常先海通教兒原東聲提立及比員解水名真"
    "論處走義各入幾口認條平系氣題活爾更別打女變四神總何電數安少報才結反受目太量再感建務做接必場件計管期市直德資命山金指克許統區保至隊形社便空"
    "決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識"
    "候帶導爭運風花雲春秋夜江城君歸"
)
KANA = (
    "のいしたにるてとをはがなかでれらまっすりあもくこさけうよきそんつだみえおわせめちろばどやびほじべゃげひょぞふゆごぎむーンスルトリアイックラドシロムレタ"
    "ジマカフプティコサュメバキニオグデウパナエ"
)
KANJI = (
    "日一国人年大十二本中長出三時行見月分後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川千水半男西電校語土木聞食車何南万毎白天"
    "母火右読友左休父雨会同事自社発者地業方新場員立開手力問代明動京目通言理体田主題意不作用度強公持野以思家世多正安院心界教文元重近考画海知道集別物"
    "使品計死特私始朝運終台広住無真有口少町料工建空急止送切転研足究楽起着店病質待試族銀早映親験英医仕去味写字答夜音注帰古歌買悪図週室歩風紙黒花春"
)
HANGUL = (
    "이다는에의을가고하지로기한리사어도를서자대은나시그아인정수해있것들라제일스으면게전니여보장부상적국과주구경원마신동안만중생오성비와조공러내세문소위트"
    "유발화무방선모당학계바르려우미분회드거말단실치업연간행개때년용산체관입식물외통본심음없야진명재작결요두더않력금등후저호까각월데람속표반점카권따법종직필"
    "최감태향집난날눈손길남북역할차군씨며였습합했너건프레터영크교강설목달복질활운처었양활민았예"
)
THAI = "านรอกเงมยลวดทสต่ะ้ีปบิคหัแจ็พชขใไโุูืึำ์ถผธซณฟศญษภๆ"
RUSSIAN = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъёПСВНОКМТРАДИБ—«»"
HEBREW = "יולאהתמברשנדחעקפטצסכגזםןךףץ"
VIETNAMESE = "\u0301\u0323\u0300\u0309đôưêâơàáăýúí\u0303óìòùéèÐĐ"
WESTERN = "éàèüöäçñáíóúßêâîôûåøæãõòìëï’“”–—…«»°©ÉÀÜÖÄ"

"""The effect of each filter on texts, one at a time and in batches."""

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.text.clean.filters import DEFAULT_FILTERS, CleanConfig, check_names
from babyllm.text.clean.filters.addresses import Emails, Urls
from babyllm.text.clean.filters.contract import Resources
from babyllm.text.clean.filters.edits import Controls, Traditional, Unicode, Whitespace
from babyllm.text.clean.filters.measures import Language, Length, Shares, Words
from babyllm.text.clean.filters.outliers import Outliers, Sums
from babyllm.text.clean.filters.punctuation import Punctuation, Runs, Width
from babyllm.text.clean.filters.repetition import Repetition
from babyllm.text.clean.syntax.markup import Html

CLEAN = (
    "今天天气很好，我们去公园看书。他说：“这本小说真有意思！”（小明也喜欢）……你呢？——不知道。",
    "The café’s “naïve” owner — Mr. Müller — paid £3.50 at 10:30 (see http://example.org/a?b=1,2).",
    "他１９９８年１月出生　全角空格、ＡＢＣ！｛｝～",
    "Привет, мир! Γειά σου. שלום مرحبا 안녕하세요 こんにちは。",
    "def f(x):\n    return {'a': x[1:2], \"b\": 3.14}  # ok\n\n\n- item\n  - inner",
)


def edited(text: str) -> str:
    for name in DEFAULT_FILTERS:
        chosen = getattr(CleanConfig(), name)
        text = chosen.edit(text) if hasattr(chosen, "edit") else text
    return text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("cafÃ©", "café"),
        ("ä½\xa0å¥½ï¼Œä¸–ç•Œ", "你好，世界"),
        ("It’s â€œfineâ€\x9d", "It’s “fine”"),
        ("cafe\u0301", "café"),
        ("⼈⺟", "人母"),
    ],
)
def test_unicode_repairs(before: str, after: str) -> None:
    """Misread UTF-8, separate accents and radicals become the characters that were meant."""
    assert Unicode().edit(before) == after


@pytest.mark.parametrize("text", CLEAN)
def test_unicode_leaves_good_text_alone(text: str) -> None:
    """Chinese text, full-width forms, curly quotes and other scripts stay unchanged."""
    assert Unicode().edit(text) == text


def test_controls() -> None:
    """Invisible characters are removed; line breaks, tabs, and joiners in emoji and Persian stay."""
    assert Controls().edit("\ufeff你\u200b好\x00\x07 a\u00adb\x1b[31m!\x1b[0m\u202e") == "你好 ab!"
    for text in ("a\tb\nc\r\n", "👨‍👩‍👧 ❤️‍🔥 1️⃣", "می‌خواهم", "\u200fשלום\u200f", "ไทย\u200bไทย", "ᠠ\u180eᠠ", "क्\u200dष"):
        assert Controls().edit(text) == text
    assert Controls().edit("汉\u200d字") == "汉字"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>一</p><br/>二<b>三</b>", "\n一\n\n二三"),
        ("<td>1</td><td>2</td>", " 1  2 "),
        ("AT&amp;T &lt;&copy;&#20320;&#x597d;", "AT&T <©你好"),
        ("a&amp;nbsp;b", "a&nbsp;b"),
        ("x<!-- c --><script>alert('<p>')</script>y<STYLE type=a>z</STYLE>", "xy"),
        ('<a href="http://x.y/?a=1&b=2" class=c>link</a>', "link"),
        ("<unk> a < b > c, 1<2 and <|im_start|> vector<int> R&D; &unknown;", None),
    ],
)
def test_html(before: str, after: str | None) -> None:
    """Tags are removed and entities resolved, blocks become line breaks; text that only looks like a tag stays."""
    assert Html().edit(before) == (before if after is None else after)


def test_urls_and_emails() -> None:
    """Addresses are removed or replaced; the sentence around them keeps its punctuation."""
    assert Urls().edit("见 http://a.com/b?c=1。好") == "见 。好"
    assert Urls("<url>").edit("(https://z.io/x_y), www.x.org/y. ftp://h") == "(<url>), <url>. <url>"
    assert Emails("<e>").edit("写给a.b+c@d-e.com.cn，或x@y.org.") == "写给<e>，或<e>."
    assert Emails().edit("写给<a@b.c.cn>吧") == "写给吧"
    for text in ("user@ host", "@name @ 3.5", "a://", "www. com"):
        assert Urls().edit(Emails().edit(text)) == text


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [
        ("[百度](https://www.baidu.com)是", "百度是", "[百度](U)是"),
        ('[甲](http://a.b/c_(d) "题")和![图](http://e/f.png)', "甲和图", "[甲](U)和[图](U)"),
        ("[![标](http://a/b.png)](http://c.d)好", "标好", "[[标](U)](U)好"),
        ("见<https://a.b/c>，好", "见，好", "见U，好"),
        ("见（https://a.b/c）。", "见。", "见（U）。"),
        ("(see https://en.wikipedia.org/wiki/C_(lang)), ok", "(see ), ok", "(see U), ok"),
        ("https://a.b/C_(lang)中文", "中文", "U中文"),
        ("访问http://例子.中国谢谢", "访问谢谢", "访问U谢谢"),
        ("访问http://中文.com/路，好", "访问路，好", "访问U路，好"),
        ("[1]: https://a.b/c 'x'\n后面", "后面", None),
        ("[甲](#x)和[乙](./c.md)，`http://a.b`", None, None),
        ("url = 'http://a.b/c'", None, None),
    ],
)
def test_what_belongs_to_an_address_is_removed_with_it(before: str, after: str | None, replaced: str | None) -> None:
    """The text of a link stays, brackets around an address are removed; IDN hosts and parentheses are part of it."""
    assert Urls().edit(before) == (before if after is None else after)
    if replaced is not None:
        assert Urls("U").edit(before) == replaced


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("１９９８年，ＡＢＣ－３．１４％", "1998年，ABC-3.14%"),
        ("文件Ａ．ｔｘｔ。｢好｣", "文件A.txt。「好」"),
        ("你好，世界！（全角）：；？～「」《》", None),
    ],
)
def test_width(before: str, after: str | None) -> None:
    """Full-width letters, digits and their signs become ordinary ones; Chinese punctuation stays."""
    assert Width().edit(before) == (before if after is None else after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("你好,世界!真的吗?是:一;二", "你好，世界！真的吗？是：一；二"),
        ("我用Python,它很好", "我用Python，它很好"),
        ("酒店不错, 地点很好.", "酒店不错，地点很好。"),
        ("很好.下次再来.", "很好。下次再来。"),
        ("他叫史蒂夫.乔布斯。", None),
        ("他说“好”,走了.", "他说“好”，走了。"),
        ("中国(China)和(笑)", "中国（China）和（笑）"),
        ("（混合)", "（混合）"),
        ("Hello，world。Fine（really）！", "Hello, world. Fine (really)!"),
        ("Beijing (北京) is f(x) in", None),
        ("上午10：30，比分3：1", "上午10:30，比分3:1"),
        ("1，000 apples", "1,000 apples"),
        ("版本3.14，时间10:30，文件名.txt，1.苹果，见http://a.com/s?q=1,2", None),
        ("网址:http://a.com/s?中文", "网址：http://a.com/s?中文"),
        ("我喜欢Python，Java和C。", None),
        ("好的:)", None),
        ('{"名": "值", "b": 1}', None),
    ],
)
def test_punctuation(before: str, after: str | None) -> None:
    """Marks take the width of the script around them; numbers, URLs, names, smileys and code keep theirs."""
    assert Punctuation().edit(before) == (before if after is None else after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("好。。。。。。", "好……"),
        ("好。。走", "好。走"),
        ("太好了！！！！？？", "太好了！？"),
        ("他说......走", "他说……走"),
        ("wait.......", "wait..."),
        ("Yes!!!! a ?? b", "Yes! a ?? b"),
        ("………… ——————", "…… ——"),
        ("**b** --- ======", "**b** --- ==="),
        ("3.14… 一——二", None),
    ],
)
def test_runs(before: str, after: str | None) -> None:
    """Runs of one mark are shortened as documented."""
    assert Runs().edit(before) == (before if after is None else after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("\u3000\u3000第一段\u3000词\r\n\u3000\u3000第二段  \n\n\n\n三", "第一段 词\n第二段\n\n三"),
        ("a \t b\x0cc\u2028d\xa0e", "a b\nc\nd e"),
        ("if x:\n    y\n\tz", None),
        ("  a\n", "a"),
    ],
)
def test_whitespace(before: str, after: str | None) -> None:
    """Spaces and line breaks become few and of one kind; indentation of code stays."""
    assert Whitespace().edit(before) == (before if after is None else after)


def test_traditional() -> None:
    """Traditional characters become simplified ones; a conversion that OpenCC lacks is named."""
    assert Traditional().edit("秦川雄帝宅，歸來見天子") == "秦川雄帝宅，归来见天子"
    with pytest.raises(UserError, match="x2y"):
        Traditional("x2y").edit("")


PIECES = st.sampled_from(
    [*"你好，。！?.,:() \n\t\u3000\u200b&<>/@-a1Ａ１：", "&amp;", "<p>", "http://a.b", "...", "Ã©"]
)


@given(st.lists(PIECES, max_size=40).map("".join) | st.text())
def test_edits_settle(text: str) -> None:
    """After three passes the default filters change no text any more."""
    settled = edited(edited(edited(text)))
    assert edited(settled) == settled
    assert settled == settled.strip("\n")


@pytest.mark.parametrize("text", [CLEAN[0], CLEAN[3], CLEAN[4].replace("\n\n\n", "\n\n").replace("  #", " #")])
def test_default_edits_leave_clean_text_alone(text: str) -> None:
    """Tidy Chinese prose, other scripts and code pass all default filters unchanged."""
    assert edited(text) == text


def test_length() -> None:
    """The bounds of a length are inclusive."""
    test = Length(3, 5).test
    assert [test("x" * n) is None for n in (2, 3, 5, 6)] == [False, True, True, False]


def test_shares() -> None:
    """Shares count characters other than spaces, and each kind has its bounds."""
    text = "汉字 ab\n12 ！?"  # two of each kind
    assert Shares((0.25, 0.25), (0.25, 0.25), (0.25, 0.25), (0.25, 0.25)).judge([text, "汉", text]) == [
        None,
        "share of chinese above 0.25",
        None,
    ]
    for kind, example in (("chinese", "汉字"), ("letters", "aб"), ("digits", "1２"), ("symbols", "+！")):
        assert Shares(**{kind: (0.5, 1.0)}).judge([example + "\u3000 ", text]) == [None, f"share of {kind} below 0.5"]
    assert Shares().judge(["", " \n"]) == [None, None]


def test_language() -> None:
    """Texts in languages other than those allowed are rejected; an unknown code is an error."""
    language = Language(("zh", "en"))
    assert language.test("今天天气很好，我们去公园看书，然后回家吃饭。") is None
    assert language.test("The weather is fine today and we are going to the park to read.") is None
    assert language.test("Das Wetter ist heute schön, und wir gehen in den Park, um zu lesen.") == "language de"
    with pytest.raises(UserError, match="klingon"):
        Language(("klingon",)).test("")


def test_words(tmp_path: Path) -> None:
    """Listed words count in upper and lower case, Latin ones only as whole words; count and share are limited."""
    file = tmp_path / "words.txt"
    file.write_text("赌博\nass\n 赌博网站 \n\n", encoding="utf-8")
    assert Words(str(file)).test("一个赌博网站") == "more than 0 listed words"
    assert Words(str(file)).test("first class 网站") is None
    assert Words(str(file)).test("an ASS.") is not None
    assert Words(str(file), max_count=2).test("赌博赌博网站") is None
    assert Words(str(file), max_count=1).test("赌博赌博网站") is not None
    share = Words(str(file), max_count=None, max_share=0.4)
    assert share.test("赌博网站一二三四五六") is None
    assert share.test("赌博网站一二三四五") is not None
    for path, message in (("", "missing"), (str(tmp_path / "none"), "none"), (os.devnull, "no words")):
        with pytest.raises(UserError, match=message):
            Words(path).test("x")


# ---- repetition


def published_rules(text: str) -> bool:
    """Whether a text breaks a rule of table A1, by plain counting."""
    units = re.findall(r"[一-鿿]|[a-z]+", text)
    total = sum(map(len, units))
    paragraphs, lines = ([s for p in x if (s := p.strip())] for x in (re.split(r"\n\s*\n", text), text.split("\n")))
    for pieces in (paragraphs, lines):
        repeated = [piece for i, piece in enumerate(pieces) if piece in pieces[:i]]
        if len(repeated) > 0.3 * len(pieces) or len("".join(repeated)) > 0.2 * len("".join(pieces)):
            return True
    for n, share in {2: 0.20, 3: 0.18, 4: 0.16}.items():
        grams = Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))
        if any(count > 1 and count * len("".join(gram)) > share * total for gram, count in grams.items()):
            return True
    for n, share in {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}.items():
        inside = set()
        for i in range(len(units) - n + 1):
            if any(units[j : j + n] == units[i : i + n] for j in range(i)):
                inside |= set(range(i, i + n))
        if sum(len(units[i]) for i in inside) > share * total:
            return True
    return False


WORDS = st.sampled_from(
    ["天", "地", "玄", "黄", "宇", "宙", "the ", "model ", "reads ", "一二三四五六七", "。", "\n", "\n\n"]
)
FILLER = "".join(map(chr, range(0x5000, 0x5200)))  # all characters distinct


@settings(max_examples=50)
@given(st.lists(st.tuples(st.lists(WORDS, max_size=40).map("".join), st.integers(0, 150)), min_size=1, max_size=3))
def test_repetition_follows_the_published_rules(parts: list[tuple[str, int]]) -> None:
    """Long texts are rejected exactly if they break a rule, whatever else is in their batch."""
    texts = [text + FILLER[:n] for text, n in parts]
    found = Repetition(min_characters=0).judge(texts)
    assert [reason is not None for reason in found] == [published_rules(text) for text in texts]


def test_repetition_in_short_texts() -> None:
    """A short text is rejected if most of it repeats, but not for repetitions that every short text has."""
    spam, song = "物流速度太慢了," * 10, "采莲南塘秋，莲花过人头。低头弄莲子，莲子清如水。采莲南塘秋。"
    assert published_rules(song)
    assert [bool(reason) for reason in Repetition().judge([spam, song, "", "好"])] == [True, False, False, False]


# ---- outliers


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_outliers_are_found_by_mean_and_deviation(lengths: list[int]) -> None:
    """The bounds are the mean minus and plus the given number of standard deviations."""
    sums = Sums(len(lengths), sum(lengths), sum(n * n for n in lengths))
    usual = Outliers(2.0).bounds({"a": {"characters": sums}})["a"]
    low, high = usual["characters"]
    mean = sum(lengths) / len(lengths)
    deviation = (sum((n - mean) ** 2 for n in lengths) / len(lengths)) ** 0.5
    assert (low, high) == pytest.approx((mean - 2 * deviation, mean + 2 * deviation), abs=1e-6)
    judge = Outliers(2.0).prepare(Resources(usual={"a": usual}))
    assert judge([Document("x" * 2000, domain="a")]) == [
        "characters above what is usual in its domain by 2 standard deviations"
    ]
    with pytest.raises(UserError, match="there is no 'letter': did you mean 'letters'"):
        Outliers(measures=["letter"]).prepare(Resources())


# ---- configuration


def test_every_filter_is_named_once() -> None:
    """The table contains every filter, the defaults among them, and a wrong name is answered with the nearest."""
    names = [f.name for f in dataclasses.fields(CleanConfig)][1:]
    check_names(names)
    assert set(DEFAULT_FILTERS) < set(names)
    with pytest.raises(UserError, match=r"'urlz'.*'urls'"):
        check_names(["urlz"])
    with pytest.raises(UserError, match=r"length\.min"):
        parse(CleanConfig, ["--length.mim=3"], prog="")

"""Dumps of wikis: which pages are read, what is left of their markup, pieces and damage."""

import bz2
import gzip
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from babyllm.documents import Document
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition
from babyllm.text.readers.formats.wiki_markup import chosen, plain_text

pytest.importorskip("mwparserfromhell")

DROPPED = frozenset(("file", "category", "文件", "分类"))
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh">
  <siteinfo>
    <sitename>维基百科</sitename>
    <base>https://zh.wikipedia.org/wiki/Wikipedia:%E9%A6%96%E9%A1%B5</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">讨论</namespace>
      <namespace key="6" case="first-letter">文件</namespace>
      <namespace key="14" case="first-letter">分类</namespace>
    </namespaces>
  </siteinfo>
"""
CHINA = """{{Infobox country
| name = 中国 | capital = {{link|北京}}
}}
'''中华人民共和国'''（{{lang-en|China}}），简称-{zh-hans:中国; zh-hant:中國}-，位于[[亚洲|亚洲]]东部<ref>{{x}}</ref>。
[[File:Flag.png|thumb|国旗的[[照片]]]][[分类:国家]][[en:China]]
== 历史 ==
{| class="wikitable"
! 年 !! 事
|-
| 1 || 2
|}
* [[夏朝]]，公元前&nbsp;2070年 [http://example.org 链接]<!-- 注 -->
__NOTOC__
== 参考文献 ==
{{reflist}}
[[Category:中国]]
"""
PLAIN = """中华人民共和国（China），简称中国，位于亚洲东部。

历史

- 夏朝，公元前\xa02070年 链接"""


def page(number: int, title: str, text: str, more: str = "", namespace: int = 0) -> str:
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{namespace}</ns>\n    <id>{number}</id>\n{more}"
        f"    <revision>\n      <id>{number}9</id>\n      <model>wikitext</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="9" xml:space="preserve">{escape(text)}</text>\n    </revision>\n  </page>\n'
    )


PAGES = [
    page(1, "中国", CHINA),
    page(2, "中华", "#重定向 [[中国]]", '    <redirect title="中国" />\n'),
    page(3, "讨论:中国", "讨论", namespace=1),
    page(4, "C & D", "The '''C''' language < [[D (language)|D]].\n\n\n\n<math>a<b</math>"),
]
DUMP = HEAD + "".join(PAGES) + "</mediawiki>\n"


def read(path: Path, size: int = 1 << 30, config: ReadConfig | None = None) -> list[Document | Rejected]:
    config = config or ReadConfig()
    return [item for part in find_partitions([path], config, size) for item in read_partition(part, config)]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("zhwiki-pages-articles.xml", bytes),
        ("zhwiki-pages-articles.xml.bz2", bz2.compress),
        ("zhwiki-pages-articles.xml.gz", gzip.compress),
    ],
)
def test_articles_become_documents(tmp_path: Path, name: str, pack: type[bytes]) -> None:
    """Articles keep title, text and address; redirects and other pages are counted, however the dump is packed."""
    (tmp_path / name).write_bytes(pack(DUMP.encode()))
    notes = Counter[str]()
    (part,) = find_partitions([tmp_path / name], ReadConfig(), 1 << 30)
    found = list(read_partition(part, ReadConfig(), notes))
    assert found == [
        Document(
            f"中国\n{PLAIN}", "zhwiki-pages-articles", f"{name}:1", "https://zh.wikipedia.org/wiki/%E4%B8%AD%E5%9B%BD"
        ),
        Document(
            "C & D\nThe C language < D.\n\n$a<b$",
            "zhwiki-pages-articles",
            f"{name}:4",
            "https://zh.wikipedia.org/wiki/C_%26_D",
        ),
    ]
    assert {note.rpartition(": ")[2]: n for note, n in notes.items()} == {"redirects": 1, "not articles": 1}


@pytest.mark.parametrize("is_packed", [False, True])
def test_pieces_hold_each_page_once(tmp_path: Path, is_packed: bool) -> None:
    """Cut anywhere, a dump in plain XML, or in bz2 of many streams, yields each page once and in order."""
    pages = [page(n, f"第{n}页", "字" * (n % 7) * 40 + f"{n}") for n in range(60)]
    streams = [HEAD, *("".join(pages[n : n + 4]) for n in range(0, 60, 4)), "</mediawiki>\n"]
    path = tmp_path / f"w.xml{'.bz2' * is_packed}"
    path.write_bytes(b"".join(bz2.compress(s.encode()) if is_packed else s.encode() for s in streams))
    whole = read(path)
    assert len(whole) == 60 and all(isinstance(item, Document) for item in whole)
    for n_pieces in (2, 5, 31):
        size = -(-path.stat().st_size // n_pieces)
        assert len(find_partitions([path], ReadConfig(), size)) == n_pieces
        assert read(path, size) == whole


def test_members_that_cut_pages_are_read_by_one_piece(tmp_path: Path) -> None:
    """A dump whose bz2 streams begin within pages, as parallel compressors make them, loses no page."""
    data = (HEAD + "".join(page(n, f"P{n}", "字" * 50) for n in range(40)) + "</mediawiki>").encode()
    path = tmp_path / "w.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(data[n : n + 1000]) for n in range(0, len(data), 1000)))
    assert len(read(path, 800)) == 40


def test_what_is_whole_in_a_damaged_dump_is_read(tmp_path: Path) -> None:
    """Pages before the damage and in later streams are read; the damage, a cut and a broken page are reported."""
    streams = [
        bz2.compress(text.encode()) for text in (HEAD, *PAGES[:1], PAGES[3], PAGES[0].replace("<id>1<", "<id>5<"))
    ]
    broken = bytearray(streams[2])
    broken[len(broken) // 2] ^= 255
    (tmp_path / "w.xml.bz2").write_bytes(b"".join((*streams[:2], broken, streams[3])))
    first, lost, last = read(tmp_path / "w.xml.bz2")
    assert isinstance(first, Document) and isinstance(last, Document) and isinstance(lost, Rejected)
    assert (first.id[-2:], last.id[-2:]) == (":1", ":5") and lost.reason.startswith("damaged")
    cut = DUMP[: DUMP.index("language")].replace("<title>中国<", "<title>中国</x><")
    (tmp_path / "cut.xml").write_text(cut, encoding="utf-8")
    assert [item.reason for item in read(tmp_path / "cut.xml") if isinstance(item, Rejected)] == [
        "not a valid page of a wiki",
        "the file ends within this record",
    ]
    (tmp_path / "other.xml").write_text("<rss></rss>", encoding="utf-8")
    (other,) = read(tmp_path / "other.xml")
    assert isinstance(other, Rejected) and other.reason == "XML that is not a dump of a wiki"
    reasons = [
        getattr(item, "reason", "") for item in read(tmp_path / "cut.xml", config=ReadConfig(max_record_bytes=300))
    ]
    assert reasons[0] == "longer than read.max_record_bytes"


@pytest.mark.parametrize(
    ("source", "simplified", "traditional"),
    [
        ("-{zh-hans:计算机;zh-hant:電腦;}-", "计算机", "電腦"),
        ("-{zh-cn:内存; zh-tw:記憶體; zh-hk:記憶體}-", "内存", "記憶體"),
        ("-{只有一种}-和-{R|原样}-", "只有一种和原样", "只有一种和原样"),
        ("-{H|zh-hans:甲;zh-hant:乙}--{T|题}-文", "文", "文"),
        ("-{A|zh-hans:外-{zh-hans:里;zh-hant:裡}-;zh-hant:-{裡}-}-", "外里", "裡"),
        ("-{zh-hans:http://a.b/;c;zh-hant:d}-", "http://a.b/;c", "d"),
    ],
)
def test_variants_of_chinese(source: str, simplified: str, traditional: str) -> None:
    """Where a page has several variants of Chinese, the chosen one, or one of its script, is taken."""
    assert (chosen(source, "zh-hans"), chosen(source, "zh-tw")) == (simplified, traditional)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("== A ==\n=== B ===\nb\n=== C ===\n== D ==\n[[Category:X]]", "A\n\nB\n\nb"),
        ("[[:Category:X]] [[文件:a.jpg|图]]x[[Wikt:甲|乙]] https://a.b", "Category:X x乙 https://a.b"),
        ("{{lang|fr|été}} {{unknown|x}}（）<gallery>\na.jpg\n</gallery><br/>z", "été\nz"),
        ("# one\n## ''two''\n: three&lt;four", "- one\n- - two\nthree<four"),
    ],
)
def test_markup(source: str, text: str) -> None:
    """Links keep their text, lists their items, sections without text lose their heading; the rest goes."""
    assert plain_text(source, "zh-hans", DROPPED) == text

"""Filters that users configure: rules, repetitions within a text, measures, lists of sites."""

import json
from pathlib import Path
from typing import Any

import pytest

from babyllm.commands.corpus import clean as command
from babyllm.config import parse
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import open_corpus
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.measures import Words
from babyllm.text.clean.filters.outliers import MEASURES, Outliers
from babyllm.text.clean.filters.rules import Repeats, Rules
from babyllm.text.clean.filters.sites import Sites
from babyllm.text.clean.stage import clean

ONE = WorkConfig(workers=1)
PAGE = """正文第一段。

== 参考文献 ==
[1] 甲

=== 子目 ===
丙

== 生平 ==
他生于此。

See also

* foo

## External links
* x

### More
* y

## Next
Text

References
==========
z
"""


def test_edits_are_regular_expressions(tmp_path: Path) -> None:
    """Patterns from YAML and from flags are replaced in order; groups and line ends work as in Python."""
    text = Rules(edits={r"\[\d+\]": "", "^本文来自.*\n?": "", "(a)(b)": r"\2\1"}).edit("本文来自某网\n文[12]ab")
    assert text == "文ba"
    (tmp_path / "a.txt").write_text("正文[12]很长很长很长很长很长很长", encoding="utf-8")
    (tmp_path / "c.yaml").write_text("filters: [rules]\nrules:\n  edits: {'\\[\\d+\\]': '。'}\n", encoding="utf-8")
    flags: Any = parse(command.Flags, [f"--config={tmp_path / 'c.yaml'}", "--work.workers=1"], prog="")
    command.run(flags, str(tmp_path / "a.txt"), str(tmp_path / "out"))
    assert [d.text for d in open_corpus(tmp_path / "out").documents()] == ["正文。很长很长很长很长很长很长"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(edits={"(": ""}), r"--rules\.edits: '\(' is not a regular expression"),
        (Rules(edits={"a": r"\3"}), r"--rules\.edits: '\\3' cannot replace 'a'"),
        (Rules(line_patterns=["[z"]), r"--rules\.line_patterns: '\[z'"),
        (Rules(paragraphs=["*"]), r"--rules\.paragraphs: '\*'"),
    ],
)
def test_an_invalid_pattern_is_named(rules: Rules, message: str, tmp_path: Path) -> None:
    """A pattern that cannot be compiled is reported in one line before the work begins."""
    (tmp_path / "a.txt").write_text("x" * 50)
    with pytest.raises(UserError, match=message):
        clean([tmp_path / "a.txt"], tmp_path / "out", CleanConfig(filters=["rules"], rules=rules), work=ONE)


def test_sections_are_removed_by_their_heading() -> None:
    """A section is removed with its subsections, whether its heading is marked as in a wiki, as in Markdown or not."""
    wanted = ["参考文献", "External Links", "see also", "references"]
    assert Rules(sections=wanted).edit(PAGE).split() == [
        *("正文第一段。", "==", "生平", "==", "他生于此。", "##", "Next", "Text")
    ]
    assert Rules(sections=["3. 参考文献"]).edit("文\n\n五、参考文献：\n甲\n乙") == "文\n"
    code = "# References\n\n```sh\n# Next\nls\n```\n"
    assert Rules(sections=["Next"]).edit(code) == code


def test_paragraphs_and_lines_are_removed() -> None:
    """Lines are removed by text, pattern or length, paragraphs by pattern; lines of code stay, however short."""
    rules = Rules(lines=["上一页", "Previous Page"], line_patterns=["^Share on"], min_line=2, max_line=20)
    text = "上一页\n正文\n previous page \nShare on X\n下\n\n```\n}\n```\n" + "长" * 21
    assert rules.edit(text) == "正文\n\n```\n}\n```"
    assert Rules(paragraphs=["版权"]).edit("一段\n\n二段\n版权所有\n\n三段").split() == ["一段", "三段"]
    assert Rules().edit(text) == text


def test_repetitions_within_a_text() -> None:
    """Repetitions are removed, the first occurrence stays; short lines, code and other texts do not count."""
    long = "这是一个比较长的段落，会重复。"
    assert Repeats().edit(f"{long}\n\n别的段落。\n\n{long}\n\n结尾").split() == [long, "别的段落。", "结尾"]
    assert Repeats().edit(f"{long}\n甲\n{long}\n乙") == f"{long}\n甲\n乙"
    for text in ("啦啦啦\n甲\n啦啦啦", "```\nreturn value + 1;\n}\nreturn value + 1;\n}\n```", f"{long}\n{long[1:]}"):
        assert Repeats().edit(text) == text
    assert Repeats().edit(f"{long}\n{long}") == long


def test_outliers_by_any_measure(tmp_path: Path) -> None:
    """A text of usual length that is an outlier by another measure is rejected; a wrong name is an error."""
    texts = [f"今天天气很好，我们去公园看书，{'甲乙丙丁戊己庚'[i % 7]}也来了。" for i in range(60)]
    odd = "9876543210" * 2 + texts[0][20:]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": t}) + "\n" for t in [*texts, odd]), encoding="utf-8")
    for number, (measures, n_kept) in enumerate(((["characters"], 61), (["characters", "digits"], 60))):
        config = CleanConfig(filters=["outliers"], outliers=Outliers(6.0, measures))
        report = clean([raw], tmp_path / str(number), config, work=ONE)
        assert report is not None and dict(report.facts)["documents kept"] == n_kept
    assert all(measure("") >= 0 and measure("甲a1!\n乙") > 0 for measure in MEASURES.values())
    with pytest.raises(UserError, match="did you mean 'digits'"):
        clean([raw], tmp_path / "wrong", CleanConfig(filters=["outliers"], outliers=Outliers(3.0, ["digit"])), work=ONE)


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("https://www.example.com/a?b", False),
        ("http://user:word@EXAMPLE.com:8080/", False),
        ("http://good.example.com/", True),
        ("http://notexample.com", True),
        ("https://foo.org/forum/1", False),
        ("https://foo.org/x", True),
        ("http://xn--fsqu00a.xn--fiqs8s/", False),
        ("http://listed.net./", False),
        ("", True),
    ],
)
def test_sites(url: str, stays: bool, tmp_path: Path) -> None:
    """Hosts with their subdomains and beginnings of URLs are blocked; allowed URLs stay; IDN equals its ASCII form."""
    file = tmp_path / "hosts.txt"
    file.write_text("# hosts\nlisted.net  # one\n\n", encoding="utf-8")
    sites = Sites(["example.com", "https://Foo.org/forum/", "例子.中国"], ["good.example.com"], [str(file)])
    assert (sites.test_url(url) is None) == stays


def test_sites_alone_allowed(tmp_path: Path) -> None:
    """Documents are rejected by their field `url`; without blocked entries only allowed documents are kept."""
    records = [
        {"text": f"{host} 今天天气很好，我们去公园。", "url": f"https://{host}/x"} for host in ("a.com", "b.com")
    ]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    clean([raw], tmp_path / "out", CleanConfig(filters=["sites"], sites=Sites(allow=["a.com"])), work=ONE)
    assert [d.url for d in open_corpus(tmp_path / "out").documents()] == ["https://a.com/x"]
    for sites, message in ((Sites(), "lists nothing"), (Sites(block_files=["none"]), "none: cannot be read")):
        with pytest.raises(UserError, match=message):
            clean([raw], tmp_path / "other", CleanConfig(filters=["sites"], sites=sites), work=ONE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_word_lists_are_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    """A list of words is decoded as texts are; a file whose encoding is in doubt is named."""
    words = ["今天天气很好我们去公园", "孩子们在草地上奔跑", "老人坐在长椅上聊天", "看到了许多美丽的花朵"]
    (tmp_path / "words.txt").write_bytes("\n".join(words).encode(encoding))
    filter = Words(file=str(tmp_path / "words.txt"))
    assert filter.test(f"据说{words[1]}。") and not filter.test("别的事情。")
    (tmp_path / "doubt.txt").write_bytes(b"\xe4\xf6\xfc")
    with pytest.raises(UserError, match=r"doubt\.txt: cannot be read .* save it as UTF-8 text"):
        Words(file=str(tmp_path / "doubt.txt")).test("别的事情。")

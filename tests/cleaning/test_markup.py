"""The filter `html`: markup loses its tags, other text keeps every character."""

import pytest

from babyllm.text.clean.syntax.markup import Html

PAGE = (
    "<!DOCTYPE html>\n<html><head><title>题</title></head>"
    '<body><div class="a">\n<p>若 a<b 且 b>c，&amp;lt;</p></div></body></html>'
)


@pytest.mark.parametrize(
    "text",
    [
        "若 a<b 且 b>c，则 a<c 成立，这是不等式的传递性。",
        "if (i<p && j>q) { swap(i, j); } else { return i<s || t>u; }  // plain C code",
        "std::vector<i> v; List<p> q; 序列以 <s> 开头，以 </s> 结尾，填充用 <pad>。",
        "段落写在 <p> 和 </p> 之间，换行用 <br>。",
        "写信到 <a@b.c>，<think>想</think><answer>42</answer>",
        "<note><to>甲</to><body>乙</body><from>丙</from></note>",
        "例子：\n```html\n<p>一</p><br>\n```\n与 `<b>粗</b>`。",
        "x = '<div class=\"a\">' + y + '</div>'",
        'printf("<p>%s</p>", a);',
        "p<q 而 q>p，b<i 而 i>b",
    ],
)
def test_text_that_only_looks_like_markup_stays(text: str) -> None:
    """Comparisons, generics, special tokens, and tags that a text mentions or that occur in code are not markup."""
    assert Html().edit(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "用 &lt;br&gt; 标签换行，用 &lt;script&gt;alert(1)&lt;/script&gt; 执行",
            "用 <br> 标签换行，用 <script>alert(1)</script> 执行",
        ),
        ("&amp;nbsp; 是空格，A&amp;B，a&nbsp;b", "&nbsp; 是空格，A&B，a\xa0b"),
        ("<p>用 <code>&lt;br&gt;</code> 换行</p>", "\n用 <br> 换行\n"),
        ("`&lt;` 是 &lt; 的写法", "`&lt;` 是 < 的写法"),
    ],
)
def test_what_was_escaped_is_text(before: str, after: str) -> None:
    """Entities are resolved once, and a tag that results is text."""
    assert Html().edit(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PAGE, "题|若 a<b 且 b>c，&lt;"),
        ("标题\n<p>第一段</p>\n<p>第二段</p>", "标题|第一段|第二段"),
        ("一<br>二<br/>三<BR>四", "一|二|三|四"),
        ("<p>甲<!-- 乙 --></p><!-- 没有尾", "甲|<!-- 没有尾"),
        ("<p>甲</p><script>if (a<b) x()</script>乙<script>丙", "甲|乙丙"),
        ("<div><b>粗</b>和 x<b 时 <unk></div>", "粗和 x<b 时 <unk>"),
        (
            "<div align=center>\n\n# T\n</div>\n\n`<br>` 与\n```c\nif (a<b) x&lt;y;\n```",
            "# T|`<br>` 与|```c|if (a<b) x&lt;y;|```",
        ),
        ("<table><tr><td title='a>b'>1</td></tr></table>", "1"),
    ],
)
def test_markup_loses_its_tags(before: str, after: str) -> None:
    """Pages and fragments of pages lose tags, comments and scripts; comparisons and fenced code stay."""
    assert "|".join(line.strip() for line in Html().edit(before).split("\n") if line.strip()) == after


def test_much_markup_takes_no_longer() -> None:
    """Tags that are not closed are scanned once."""
    for text in (
        "<!--" * 50_000,
        "<script>" * 20_000,
        "<p a='" * 20_000,
        "<b> " * 10_000 + "</b>",
        "<p>x</p>" + "<" * 100_000,
        "&" * 100_000,
    ):
        Html().edit(text)

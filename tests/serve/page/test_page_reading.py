"""Formulas and code in answers, and whole answers in Markdown on screens of two sizes, in a real browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_fixtures import ATTACK, Open, StandIn, finished, say, standing_in

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

FORMULAS = [  # text, elements that it has
    ("$x=\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}$", ["mfrac", "msqrt", "msup"]),
    ("$$\\sum_{i=1}^n x_i$$", ["munderover", "msub"]),
    ("\\[\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}\\]", ["mtable", "mtr", "mtd"]),
    ("\\begin{align}\na&=b\\\\\n&=c\n\\end{align}", ["mtable"]),
    ("\\(\\text{速度}=v\\)", ["mtext"]),
    ("$f'(x)\\in\\mathbb{R}$", ["mi", "mo"]),
]
UNKNOWN = ["$\\unknown{x}$", "$x^$", "$\\frac{1}$", "\\(\\begin{x}\\)"]
HARMFUL = [
    "$\\href{javascript:hacked=1}{x}$",
    "$\\url{https://b.c}$",
    "$\\includegraphics{https://b.c/x.png}$",
    "$\\htmlId{send}{x}$",
    "$\\class{problem}{x}$",
    "$\\style{position:fixed;inset:0}{x}$",
    "$\\data{x=y}{x}$",
    "$\\color{url(https://b.c)}x$",
    "$$\\label{settings}x\\ref{settings}$$",
    "$\\text{<img src=x onerror=hacked=1>}$",
    "$\\def\\a{\\a\\a}\\a$",
    "$\\rule{9999em}{9999em}\\kern-9999em x$",
    "$\\tag{<b>x</b>}x$",
]
CODE = {  # by language: a text, and its coloured pieces
    "python": (
        "@cache\ndef f(x=1.5):  # 注释\n    return '''a\nb''' + f\"{x}\"\n",
        {"meta": ["@cache"], "keyword": ["def", "return"], "call": ["f"], "comment": ["# 注释"], "number": ["1.5"]},
    ),
    "JavaScript": (
        "const s = `a\n${b}`; // c\n/* d\n*/ f(0x1F);\n",
        {"keyword": ["const"], "string": ["`a\n${b}`"], "comment": ["// c", "/* d\n*/"], "number": ["0x1F"]},
    ),
    "sql": ("SELECT a FROM t -- c\nWHERE b = 'x''y';", {"keyword": ["SELECT", "FROM", "WHERE"], "string": ["'x''y'"]}),
    "json": ('{"a": [true, -1.5e3], "b": "c"}', {"attribute": ['"a"', '"b"'], "keyword": ["true"], "string": ['"c"']}),
    "html": ('<a href="x">&amp;</a><!-- c', {"keyword": ["<a", ">", "</a", ">"], "comment": ["<!-- c"]}),
    "bash": ('# a\nif [ "$x" ]; then echo ${y} --z; fi', {"comment": ["# a"], "attribute": ["--z"], "meta": ["${y}"]}),
    "diff": ("@@ -1 +1 @@\n-a\n+b\n c", {"removed": ["-a"], "added": ["+b"], "meta": ["@@ -1 +1 @@"]}),
    "yaml": ("a: 1 # c\n- b: 'x'\n", {"attribute": ["a", "- b"], "comment": ["# c"], "string": ["'x'"]}),
    "unheard-of": ("def f(): pass", {}),
}
ANSWER = """## 标题与 `code`

求根公式 $x=\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}$，一个很长的行内公式
$\\sum_{i=1}^{n}\\left(x_i-\\bar{x}\\right)^2=\\sum_{i=1}^{n}x_i^2-n\\bar{x}^2=\\text{总平方和}-\\text{均值项}$，应当换行。

$$
\\mathrm{softmax}(z)_i=\\frac{e^{z_i}}{\\sum_{j=1}^{K}e^{z_j}},
\\qquad\\mathcal{L}=-\\frac1N\\sum_{n=1}^N\\log p_\\theta(y_n\\mid x_n)
$$

1. 第一步
   ```python
   def a_function_with_a_long_name(argument: int, another_argument: str) -> str:  # a long comment without an end
       return f"{argument!r}" + another_argument
   ```
   - 里面的列表，<img src=https://b.c/x.png onerror="window.hacked=1">
2. [点我](javascript:window.hacked=1) ![图](https://b.c/y.png)

| 方法 | 公式 | 复杂度 | 说明 | 备注 |
|:--|:-:|--:|--|--|
| 注意力 | $QK^\\top/\\sqrt{d}$ | $O(n^2d)$ | 需要很多内存的方法，但是并行 | 无 |

> 引用 **重点。**后文

<script>window.hacked=1</script> <iframe src="https://b.c"></iframe>
"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with standing_in(delay=0) as server, browser.new_context(locale="en-US") as context:
        page = context.new_page()
        page.goto(server.url)
        page.get_by_text("tiny chat").wait_for()
        yield page


def read(page: Page, text: str, script: str) -> object:
    """What a script says of the node `body` that a text is read into."""
    fill = "const body = document.createElement('div'); fillMarkdown(body, { content: text });"
    return page.evaluate(f"(text) => {{ {fill} {script} }}", text)


@pytest.mark.parametrize(("text", "elements"), FORMULAS)
def test_formulas_are_set(page: Page, text: str, elements: list[str]) -> None:
    """TeX between the usual marks becomes MathML; the TeX is its title."""
    names = read(page, text, "return [...body.querySelectorAll('math, math *')].map((node) => node.localName)")
    assert isinstance(names, list) and {"math", *elements} <= set(names)
    assert read(page, text, "return body.querySelector('math').getAttribute('title')") == text


@pytest.mark.parametrize("text", UNKNOWN)
def test_formulas_that_are_none_stay_as_they_were_typed(page: Page, text: str) -> None:
    """What is unknown or unfinished is shown as text."""
    assert read(page, text, "return [body.querySelectorAll('math').length, body.textContent]") == [0, text]


def test_a_formula_can_only_be_a_formula(page: Page) -> None:
    """No command loads, links, names or styles anything, or is set larger than a few letters."""
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    shown = """document.body.append(body);
      const nodes = [...body.querySelectorAll("*")], box = body.getBoundingClientRect();
      const attributes = new Set(nodes.flatMap((node) => node.getAttributeNames()));
      const bad = nodes.filter((node) => node.closest("math") && node.getBoundingClientRect().height > 300);
      body.remove();
      return [nodes.filter((node) => node.matches("a, img, script, [id], [href], [src]")).length, bad.length,
              [...attributes].filter((name) => /^(on|href|src|id|data)/.test(name)), box.height < 3000];"""
    assert read(page, "\n\n".join(HARMFUL), shown) == [0, 0, [], True]
    assert asked == [] and page.evaluate("window.hacked") is None


def test_a_mark_after_a_long_formula_stays_with_it(page: Page) -> None:
    """The full stop after a formula of several lines is a part of it; the text is the same."""
    text = "$a+b+c+d+e+f+g+h+i+j+k+l=m$。然后"
    assert read(page, text, "return body.querySelector('math .after').textContent") == "。"
    assert read(page, text, "return body.textContent.endsWith('m。然后')") is True


@pytest.mark.parametrize("language", CODE)
def test_code_is_coloured_and_unchanged(page: Page, language: str) -> None:
    """Keywords, strings, comments and numbers of a known language have classes; the text is that of the answer."""
    text, wanted = CODE[language]
    found = read(
        page,
        f"````{language}\n{text.strip()}\n````",
        """const code = body.querySelector("code"), kinds = {};
        for (const span of code.querySelectorAll("span")) (kinds[span.className] ??= []).push(span.textContent);
        return [code.textContent, kinds];""",
    )
    assert isinstance(found, list)
    assert found[0] == text.strip()
    assert {kind: found[1].get(kind) for kind in wanted} == wanted and bool(found[1]) == bool(wanted)


def test_code_is_coloured_the_same_while_it_grows(page: Page) -> None:
    """At each length of a text its colours are those of the text read at once."""
    differing = """(codes) => codes.filter(([language, text]) => {
      const one = document.createElement("code");
      for (let n = 1; n <= text.length; n += 1) {
        const other = document.createElement("code");
        fillCode(one, text.slice(0, n), language);
        fillCode(other, text.slice(0, n), language);
        if (one.innerHTML !== other.innerHTML || one.textContent !== text.slice(0, n)) return true;
      }
      return false;
    })"""
    assert page.evaluate(differing, [[language, text] for language, (text, _) in CODE.items()]) == []


def test_colours_and_formulas_cost_little(page: Page) -> None:
    """Long lines, many open quotes and deep groups are read, and none of them stops the page."""
    texts = [
        "```py\n" + '"' * 40_000,
        "```js\n" + "/*" * 30_000,
        "```html\n" + "<a " * 15_000,
        "```css\n" + "a:" * 20_000,
    ]
    texts += ["$" + "{" * 400 + "x" + "}" * 90 + "$", "$$" + "x^{" * 300 + "}" * 300 + "$$", "\\begin{align}\n" * 300]
    for text in texts:
        assert read(page, text, "return body.textContent.length > 0") is True


@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
@pytest.mark.parametrize("width", [358, 728])
def test_answers_of_real_models_fit_the_screen(page: Page, width: int) -> None:
    """Of 1,200 answers with lists, tables, code and formulas none is wider than its column, runs or loads anything."""
    folder = Path(os.environ["BABYLLM_DATA"]) / "preference"
    records = [
        one for name in ("zh", "en") for one in json.loads((folder / f"dpo_{name}_demo.json").read_text("utf-8"))
    ]
    answers = [record[side]["value"] for record in records for side in ("chosen", "rejected")]
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    wrong = """([answers, width]) => {
      const body = document.createElement("div"), blocks = "p, li, figure, blockquote, h3, h4, h5, h6, .table, math";
      body.className = "body reading";
      body.style.width = `${width}px`;
      document.body.append(body);
      const wrong = answers.filter((content) => {
        body.replaceChildren();
        fillMarkdown(body, { content });
        const isWide = (node) => !node.closest(".table *") && node.getBoundingClientRect().width > width + 1;
        return body.querySelector("img, script, iframe, style, object") ||
          [...body.querySelectorAll(blocks)].some(isWide);
      });
      body.remove();
      return wrong;
    }"""
    assert len(answers) == 1200 and page.evaluate(wrong, [answers, width]) == []
    assert asked == []


@pytest.mark.parametrize(("width", "theme"), [(1100, "light"), (390, "dark"), (360, "light")])
def test_whole_answers_fit_the_screen(visit: Open, server: StandIn, width: int, theme: str) -> None:
    """Lists, tables, code, formulas, HTML and attacks stay within the screen; nothing is run or loaded."""
    page = visit(viewport={"width": width, "height": 800}, color_scheme=theme, is_mobile=width < 500, locale="zh-CN")
    server.answers["hello"], server.delay = ANSWER + ATTACK, 0
    say(page, "hello")
    finished(page)
    wider = """[...document.querySelectorAll("#messages *")].filter((node) => !node.closest("pre, .table, math") &&
      node.getBoundingClientRect().right > innerWidth + 1).map((node) => node.outerHTML.slice(0, 80))"""
    assert page.evaluate(wider) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    overlaps = """[...document.querySelectorAll(".assistant .body > *")].some((node, i, all) => i &&
      node.getBoundingClientRect().top < all[i - 1].getBoundingClientRect().bottom - 1)"""
    assert page.evaluate(overlaps) is False
    assert page.locator(".body math").count() == 5 and page.locator("li figure code .keyword").count() == 2
    assert page.locator("#messages img, #messages script, #messages iframe").count() == 0
    assert page.evaluate("window.hacked") is None

"""What the chat page makes of the Markdown of an answer, in a real browser."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_fixtures import StandIn, finished, say, standing_in

import babyllm.serve.page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow

# Elements and text of a node; the heads of code, classes and wrappers without a meaning are left out.
OUTLINE = """body => {
  const outline = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    const tag = node.tagName.toLowerCase(), inner = [...node.childNodes].map(outline).join("");
    if (tag === "figcaption") return "";
    if (tag === "math") return `<math>${node.getAttribute("title")}</math>`;
    if (["span", "div", "figure"].includes(tag)) return inner;
    return ["br", "hr"].includes(tag) ? `<${tag}>` : `<${tag}>${inner}</${tag}>`;
  };
  return [...body.childNodes].map(outline).join("");
}"""

BLOCKS = [
    ("```print(1)```\nthen **text**", "<p><code>print(1)</code><br>then <strong>text</strong></p>"),
    ("````\n```\nx\n```\n````\nafter", "<pre><code>```\nx\n```</code></pre><p>after</p>"),
    ("```\r\ncode\r\n```\r\nafter\r\nall", "<pre><code>code</code></pre><p>after<br>all</p>"),
    ("~~~py\n```\n~~~\nafter", "<pre><code>```</code></pre><p>after</p>"),
    ("before\n```py\nx = 1\n\nthe rest", "<p>before</p><pre><code>x = 1\n\nthe rest</code></pre>"),
    ("- a\n  ```py\n  x\n    y\n  ```\n- b", "<ul><li>a<pre><code>x\n  y</code></pre></li><li>b</li></ul>"),
    ("3. a\n4. b\n   - c\n     - d", "<ol><li>a</li><li>b<ul><li>c<ul><li>d</li></ul></li></ul></li></ol>"),
    ("- [ ] a\n- [x] b", "<ul><li>☐ a</li><li>☑ b</li></ul>"),
    ("# A\n### B #\nC\n===", "<h3>A</h3><h5>B</h5><h3>C</h3>"),
    (
        "> a\n> > b\n\nc\n\n---\n\nd\n-",
        "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p><hr><p>d<br>-</p>",
    ),
    (
        "|a|b|\n|:-|-:|\n|1|`x`|",
        "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>x</code></td></tr></tbody></table>",
    ),
]
SPANS = [
    ("*a* _b_ **c** __d__", "<em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong>"),
    ("***e*** ~~f~~", "<em><strong>e</strong></em> <del>f</del>"),
    ("`` a`b `` snake_case_name 2 * 3 * 4 \\*x\\*", "<code>a`b</code> snake_case_name 2 * 3 * 4 *x*"),
    ("**你好。**世界", "<strong>你好。</strong>世界"),
    ("世界**“你好”**世界**(注)**内容", "世界<strong>“你好”</strong>世界<strong>(注)</strong>内容"),
    ("*重点！*然后~~删除。~~保留", "<em>重点！</em>然后<del>删除。</del>保留"),
    ("5~10 元，3~5 元", "5~10 元，3~5 元"),
    ("x**(y)**z **unclosed", "x**(y)**z **unclosed"),
    ("$a_1 * b_2$ and *a $b*c$ d*", "<math>$a_1 * b_2$</math> and <em>a <math>$b*c$</math> d</em>"),
    ("\\(x_1*y\\) and $$a_1*b*c_2$$", "<math>\\(x_1*y\\)</math> and <math>$$a_1*b*c_2$$</math>"),
    ("it costs $5 and $10", "it costs $5 and $10"),
    ("美元符号$表示价格。变量$x没有值", "美元符号$表示价格。变量$x没有值"),
    ("a < b && c > d, &lt;b&gt; &#65;", "a < b && c > d, <b> A"),
]  # fmt: skip
FORMULAS = [
    ("so\n\\[\nx_1\n= y_1\n\\]\nhence", "<p>so</p><math>\\[\nx_1\n= y_1\n\\]</math><p>hence</p>"),
    ("$$\nx\n- y\n# z\n***\n$$", "<code>$$\nx\n- y\n# z\n***\n$$</code>"),
    ("a\n$$\nx\n$$\nb\n---", "<p>a</p><math>$$\nx\n$$</math><h4>b</h4>"),
    ("\\[x\n\n# z", "<p>[x</p><h3>z</h3>"),
]
LINKS = [
    ("[a](https://b.c/d \"t\")", "https://b.c/d"),
    ("<https://b.c/>", "https://b.c/"),
    ("见https://b.c/路，谢谢", "https://b.c/%E8%B7%AF"),
    ("见https://b.c了解", "https://b.c/"),
    ("www.b.com", "http://www.b.com/"),
    ("a@b.org", "mailto:a@b.org"),
    ("![a](https://b.c/d.png)", "https://b.c/d.png"),
    ("[a][1]\n\n[1]: https://b.c/d", "https://b.c/d"),
]  # fmt: skip
HARMFUL = [
    "[a](javascript:hacked=1)",
    "[a](JaVaScRiPt:hacked=1)",
    "[a](javascript&#58;hacked=1)",
    "[a](java&#10;script:hacked=1)",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "![a](data:image/svg+xml,<svg onload=hacked=1>)",
    "[a](vbscript:x)",
    "[a](file:///etc/passwd)",
    "[a](blob:https://b.c/1)",
    "[a](/metrics)",
    "[a](//b.c)",
    "<javascript:hacked=1>",
    "<img src=x onerror=hacked=1>",
    "<svg onload=hacked=1><script>hacked=1</script></svg>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<style>*{display:none}</style><a href='javascript:hacked=1'>a</a>",
    "[a]: javascript:hacked=1\n\n[a]",
    "| <img src=x onerror=hacked=1> |\n|-|\n| <b>x</b> |",
    '```"><img src=x onerror=hacked=1>\n<img src=x onerror=hacked=1>\n```',
    "`<img src=x onerror=hacked=1>` **<img src=x onerror=hacked=1>**",
    "&lt;img src=x onerror=hacked=1&gt;",
]

Show = Callable[[str], "Locator"]


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    with standing_in(delay=0) as server:
        yield server


@pytest.fixture(scope="module")
def page(browser: Browser, stand_in: StandIn) -> Iterator[Page]:
    with browser.new_context(locale="en-US", permissions=["clipboard-read", "clipboard-write"]) as context:
        page = context.new_page()
        page.goto(stand_in.url)
        page.get_by_text("tiny chat").wait_for()
        yield page


@pytest.fixture
def show(page: Page, stand_in: StandIn) -> Show:
    """Lets the model say a text in a new conversation; returns the node of it."""

    def show(text: str) -> Locator:
        stand_in.answers["text"] = text
        page.get_by_role("button", name="New chat").click()
        say(page, "text")
        finished(page)
        return page.locator(".assistant .body")

    return show


@pytest.mark.parametrize(("text", "outline"), BLOCKS + FORMULAS)
def test_blocks_are_read_as_common_mark_has_it(show: Show, text: str, outline: str) -> None:
    """Code, lists, tables, quotes, headings, rules and formulas become what they are in CommonMark and GFM."""
    assert show(text).evaluate(OUTLINE) == outline


def test_spans_are_read_also_where_words_have_no_spaces(show: Show) -> None:
    """Emphasis, code and formulas within a line are found, also beside Chinese marks; ranges and prices are not."""
    text = "\n\n".join(text for text, _ in SPANS)
    assert show(text).evaluate(OUTLINE) == "".join(f"<p>{outline}</p>" for _, outline in SPANS)


def test_links_lead_to_the_web_and_to_mail(show: Show) -> None:
    """Links, bare addresses and images lead to http, https and mailto in a tab that knows nothing of this one."""
    links = show("\n\n".join(text for text, _ in LINKS)).locator("a")
    assert links.evaluate_all("nodes => nodes.map((node) => node.href)") == [href for _, href in LINKS]
    kinds = links.evaluate_all("nodes => nodes.map((node) => `${node.target} ${node.rel}`)")
    assert set(kinds) == {"_blank noopener noreferrer"}


def test_nothing_that_could_harm_becomes_an_element(show: Show, page: Page) -> None:
    """Scripts, handlers, frames and addresses of other kinds stay text, and nothing is run or asked for."""
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    body = show("\n\n".join(HARMFUL))
    assert body.locator("img, p svg, script, iframe, style, a, b, object").count() == 0
    assert page.evaluate("window.hacked") is None
    assert [url for url in asked if not url.endswith("/v1/chat/completions")] == []
    shown = body.inner_text()
    for text in ("[a](javascript:hacked=1)", "<img src=x onerror=hacked=1>", "<iframe srcdoc=", "[a](/metrics)"):
        assert text in shown


def test_the_page_runs_no_script_but_its_own(page: Page) -> None:
    """An element with a handler or a script that gets into the page all the same is not run: the policy forbids it."""
    run = """() => {
      const script = document.createElement("script"), image = document.createElement("img");
      const attempts = [
        () => { image.setAttribute("onerror", "window.hacked = 1"); },
        () => { image.src = "data:,"; document.body.append(image); },
        () => { script.append("window.hacked = 1"); document.body.append(script); },
        () => { document.body.innerHTML += "<img src=data:, onerror='window.hacked = 1'>"; },
      ];
      for (const attempt of attempts) try { attempt(); } catch { }
      const tell = (done) => () => { image.remove(); script.remove(); done(window.hacked ?? "safe"); };
      return new Promise((done) => setTimeout(tell(done), 50));
    }"""
    assert page.evaluate(run) == "safe"


def test_code_is_copied_as_it_is(show: Show, page: Page) -> None:
    """The button of a code block copies what stands in it, the message's button the answer as it was written."""
    text = "~~~py\nif x:\n    y  # <b>\n~~~\n*end*"
    body = show(text)
    body.get_by_role("button", name="Copy").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()) === 'if x:\\n    y  # <b>'")
    page.locator(".assistant footer").get_by_role("button", name="Copy").click()
    page.wait_for_function("async (text) => (await navigator.clipboard.readText()) === text", arg=text)


def test_an_answer_reads_the_same_while_it_grows(page: Page) -> None:
    """At each length of an answer its blocks are those of the text read at once: what was settled is not read again."""
    text = (
        "\n\n".join(text for text, _ in [*BLOCKS, *FORMULAS, *SPANS, *LINKS])
        + "\n\n- a\n--- x\n\npara\n#x\n\n    code\n\ny\n    z"
    )
    differing = """(text) => {
      const outline = """ + OUTLINE + """;
      const grown = { content: "" }, one = document.createElement("div"), wrong = [];
      for (let n = 1; n <= text.length; n += 3) {
        const other = document.createElement("div");
        grown.content = text.slice(0, n);
        fillMarkdown(one, grown);
        fillMarkdown(other, { content: grown.content });
        const isSame = outline(one) === outline(other) && one.textContent === other.textContent;
        if (!isSame) wrong.push(grown.content.slice(-40));
      }
      return wrong;
    }"""  # fmt: skip
    assert page.evaluate(differing, text) == []


def test_long_and_deep_texts_do_not_stop_the_page(page: Page) -> None:
    """Text made to be slow or too deep to read is shown, as it was typed where it cannot be read."""
    texts = ["**a* " * 20_000, "[" * 50_000, "\\(a " * 20_000, ">" * 3000 + " x", "- " * 2000 + "x", "字" * 100_000]
    fill = """(text) => {
      const body = document.createElement("div");
      fillMarkdown(body, { content: text });
      return body.textContent.length;
    }"""
    for text in texts:
        assert page.evaluate(fill, text) > 0


def test_the_files_of_others_are_those_that_are_named() -> None:
    """Each vendored file has the checksum beside its name, and is part of the page and of the package."""
    folder = Path(babyllm.serve.page.__file__).parent / "vendor"
    named = dict(
        re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    )
    assert named == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "README.md"
    }
    assert b"marked v18.2.1" in babyllm.serve.page.document()

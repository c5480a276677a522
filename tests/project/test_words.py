"""The words that docs/en/reference/glossary.md rules out, and the length of lines in documentation.

`python tests/project/test_words.py PATH...` prints each hit as `file:line: word: text`; without a path those of the
whole tree.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs/en/reference/glossary.md"
TREE = (
    *("babyllm", "benchmarks", "configs", "docs", "tests", "Makefile", ".ci/run", ".pre-commit-config.yaml"),
    *("CITATION.cff", "pyproject.toml", *(f"*{suffix}" for suffix in (".md", ".py")), "data/*.md", "data/*.py"),
)
MAX_COLUMNS = 120
MESSAGE_WORDS = 3  # A string of fewer words is a name, a key or a sample rather than a message.
SUFFIXES = (".cff", ".css", ".html", ".js", ".md", ".py", ".toml", ".yaml", ".yml", "")
SKIPPED = ("vendor", "__pycache__", "node_modules")
SECTIONS = ("Args:", "Attributes:")

_CODE_SPAN = re.compile(r"``[^\n]+?``|`[^`\n]+`")
_SPACE = r"(?:[ \t]+|[ \t]*\n[ \t]*)"
# What may stand between two words of one text in source code: a line's end, a comment's sign, quotes of the next part.
_BETWEEN = r"(?:\W|(?<=\W)[fFrRbBuU]{1,2}(?=[\"']))+"


class Rule(NamedTuple):
    """One row of the glossary's table.

    Attributes:
        words: Matches a word that is ruled out.
        in_attributes: True for words that only an attribute's text may not begin with.
        stays: Matches the phrases in which the words stay; None where there are none.
        instead: The words to write instead.
    """

    words: re.Pattern[str]
    in_attributes: bool
    stays: re.Pattern[str] | None
    instead: str


class Prose(NamedTuple):
    """Text that people read, the line of its file at which it begins, and whether its lines are those of the file."""

    text: str
    line: int
    has_lines: bool = True


class Hit(NamedTuple):
    """A place in a file, the rule it breaks, and the text of its line."""

    file: Path
    line: int
    word: str
    text: str

    def __str__(self) -> str:
        file = self.file.relative_to(ROOT) if self.file.is_relative_to(ROOT) else self.file
        return f"{file}:{self.line}: {self.word}: {self.text.strip()}"


def rules(glossary: str) -> list[Rule]:
    """The rows of the table `Words to replace`."""
    table = glossary.partition("## Words to replace")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    return [
        Rule(_phrases(words) or re.compile("$."), "attribute" in where, _phrases(stays), instead.strip())
        for words, where, stays, instead in rows
    ]


def suspicion(glossary: str) -> Callable[[str], bool]:
    """Whether a source may break a rule, as it stands; true for each file of which `hits` is not empty."""
    table = glossary.partition("## Words to replace")[2].partition("\n## ")[0]
    found: list[tuple[str, re.Pattern[str]]] = []
    for row in table.splitlines():
        if row.startswith("| `"):
            words, where = row.split("|")[1:3]
            for phrase in re.findall(r"`([^`]+)`", words):
                first, *others = phrase.split()
                rest = "".join(_BETWEEN + re.escape(other) for other in others) + r"\b"
                # A search for what is plain text comes first, since it takes next to no time.
                for start in (first, first.capitalize()):
                    plain = f": {start}" if "attribute" in where else start
                    found.append((plain, re.compile(re.escape(plain) + rest)))
    return lambda source: any(plain in source and pattern.search(source) for plain, pattern in found)


def hits(file: Path, found: list[Rule]) -> list[Hit]:
    """Every word of a file that a rule rules out, by line."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    prose = list(_python_prose(source)) if file.suffix == ".py" else [Prose(source, 1)]
    breaks = [
        Hit(file, number, match.group(), lines[number - 1])
        for part in prose
        for match, number in _breaks(part, found, file.suffix == ".py")
    ]
    return sorted(breaks, key=lambda hit: hit.line)


def long_lines(file: Path) -> list[Hit]:
    """The lines of a document that have more than `MAX_COLUMNS` characters; rows of tables cannot be broken."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [
        Hit(file, n, f"{len(line)} characters", line)
        for n, line in enumerate(lines, 1)
        if len(line) > MAX_COLUMNS and line[0] != "|"
    ]


def files(*patterns: str) -> list[Path]:
    """The text files that patterns such as `babyllm` and `docs/*.md` name, sorted."""
    found: set[Path] = set()
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        found.update(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    return sorted(file for file in found if file.suffix in SUFFIXES and not {*file.parts} & {*SKIPPED})


def _phrases(cell: str) -> re.Pattern[str] | None:
    phrases = re.findall(r"`([^`]+)`", cell)
    if not phrases:
        return None
    some = rf"(?:{_SPACE}[\w'-]+){{0,6}}?"  # `...` stands for up to six words
    parts = [_SPACE.join(re.escape(word) for word in phrase.split()) for phrase in phrases]
    parts = [part.replace(_SPACE + r"\.\.\.", some) for part in parts]
    parts = [f"[{part[0].upper()}{part[0]}]{part[1:]}" for part in parts]  # `is None` is not `is none`
    return re.compile(rf"(?<![\w.'\"{{-])(?:{'|'.join(parts)})(?![\w(-]| =)")  # names in code do not count


def _breaks(prose: Prose, found: list[Rule], is_python: bool) -> Iterator[tuple[re.Match[str], int]]:
    text = _CODE_SPAN.sub(lambda span: "`" * len(span.group()), prose.text)
    for rule in found:
        kept = [match.span() for match in rule.stays.finditer(text)] if rule.stays else []
        places = _attributes(text, rule.words) if rule.in_attributes else rule.words.finditer(text)
        for match in places if is_python or not rule.in_attributes else ():
            if not any(start <= match.start() and match.end() <= end for start, end in kept):
                yield match, prose.line + (text.count("\n", 0, match.start()) if prose.has_lines else 0)


def _attributes(docstring: str, words: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Matches at the beginning of an entry in a docstring's sections of arguments and attributes."""
    place, section = 0, None
    for line in docstring.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip())
        if line.strip() in SECTIONS:
            section = indent
        elif section is not None and line.strip() and indent <= section:
            section = None
        entry = re.match(r"\s+\*{0,2}\w+(?: \([^)]*\))?: ", line)
        if section is not None and entry and (match := words.match(docstring, place + entry.end())):
            yield match
        place += len(line)


def _python_prose(source: str) -> Iterator[Prose]:
    """The comments, docstrings and messages of a Python file."""
    yield Prose(_comments(source), 1)
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if id(node) in docstrings or len(text.split()) >= MESSAGE_WORDS:
            yield Prose(text, node.lineno, has_lines=text.count("\n") == (node.end_lineno or 0) - node.lineno)


def _comments(source: str) -> str:
    """A file of which only the comments are left, each in its line."""
    lines = [""] * (source.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = token.string.lstrip("#")
    return "\n".join(line or "\0" for line in lines)


def _found_in(*patterns: str) -> list[Hit]:
    glossary = GLOSSARY.read_text(encoding="utf-8")
    found, suspect = rules(glossary), suspicion(glossary)
    return [hit for file in files(*patterns) if suspect(file.read_text(encoding="utf-8")) for hit in hits(file, found)]


def test_no_word_that_the_glossary_rules_out_stands_in_the_tree() -> None:
    """Comments, docstrings, messages and pages use the glossary's words."""
    broken = _found_in(*TREE)
    assert not broken, "\n".join(str(hit) for hit in broken)


def test_lines_of_documentation_have_at_most_120_characters() -> None:
    """A change to a page is read line by line, so no line of one is longer than a line of code."""
    documents = files("*.md", "benchmarks/*.md", "data/*.md", "docs")
    broken = [hit for file in documents if file.suffix == ".md" for hit in long_lines(file)]
    assert not broken, "\n".join(str(hit) for hit in broken)


# With a bar in each word, so that this file is free of them.
PYTHON = '''"""Bytes be|hind the head."""

LIMIT = "be|hind"  # one word is n|o message


def read(path: str) -> None:
    """Read a file.

    Args:
        path: o|f the file; a server
            may stand be|hind a proxy. `to|ld` is code.
    """
    # The file is turned
    # awa|y here.
    raise ValueError(f"{path}: the user is to|ld "
                     f"what to do")
'''.replace("|", "")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A Python file with a word that is ruled out in each kind of text."""
    file = tmp_path / "example.py"
    file.write_text(PYTHON, encoding="utf-8")
    return file


def test_words_are_found_in_docstrings_comments_and_messages(example: Path) -> None:
    """Words across two lines are found, code and the phrases in which a word stays are not."""
    found = hits(example, rules(GLOSSARY.read_text(encoding="utf-8")))
    words = [(hit.line, " ".join(hit.word.split())) for hit in found]
    assert words == [(1, "behind"), (3, "is no"), (10, "of"), (13, "turned away"), (15, "told")]


def test_no_file_with_such_words_goes_unread(example: Path) -> None:
    """Each word that is found makes a file of its lines suspect, across comments and strings of several parts too."""
    glossary = GLOSSARY.read_text(encoding="utf-8")
    suspect, lines = suspicion(glossary), PYTHON.splitlines(keepends=True)
    for hit in hits(example, rules(glossary)):
        assert suspect("".join(lines[hit.line - 1 : hit.line + 1])), hit
    assert suspect('"it i|s " f"n|o {kind}"\n'.replace("|", ""))
    assert not suspect('"""A file without them."""\n')


def test_each_rule_says_what_to_write_instead() -> None:
    """The table of the glossary is read whole: every rule has words and a replacement."""
    text = GLOSSARY.read_text(encoding="utf-8")
    rows = [line for line in text.partition("## Words to replace")[2].splitlines() if line.startswith("| `")]
    assert len(rules(text)) == len(rows) >= 8
    assert all(rule.instead and not rule.words.fullmatch("") for rule in rules(text))


def _main(patterns: list[str]) -> int:
    found = _found_in(*(str(Path(pattern).resolve().relative_to(ROOT)) for pattern in patterns) if patterns else TREE)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1:]))

"""Malformed task files and data: one line that names the file, never a traceback, an endless loop or a full memory."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.evaluate.tasks.items import read_items
from babyllm.evaluate.tasks.task import load_task

TASKS = {
    "csv": """\
about: four options
items: [data.csv, data.txt]
where: "{{ subject != 'art' }}"
group: "{{ subject }}"
description: "以下是{{ group }}的选择题。\\n"
question: "{{ question | trim }}"
options: ["{{ A }}", "{{ B }}", "{{ C }}", "{{ D }}"]
answer: "{{ answer }}"
cue: 答案：
alpha: 0.5
""",
    "jsonl": """\
items: data.jsonl
each: [passage.questions, answers]
group: "{{ passage.text[:8] }}"
question: "{% for part in parts %}{{ part }}，{% endfor %}{{ parent.question }}"
options: choices.text
answer: "{{ choices.label.index(key) }}"
labels: ABCDEFGH
""",
    "tsv": """\
items: data.tsv
examples: data.tsv
shots: 2
columns: label,sentence
question: "{{ sentence }} 是"
options: [差评, 好评]
answer: "{{ label | int }}"
labels: ""
delimiter: " "
best: acc_pmi
""",
}
RECORD = (
    '{"passage": {"text": "天亮了。", "questions": [{"question": "什么亮了？", "answers": [{"choices": {"text": '
    '["天", "灯"], "label": ["A", "B"]}, "key": "B"}]}]}, "parts": ["一", "二"], "n": 1.5, "none": null}\n'
)
DATA = {
    "csv": "subject,question,A,B,C,D,answer\n" + '法律,"几, 个？",一,二,三,四,C\n历史,何时？,古,今,昔,后,A\n' * 3,
    "jsonl": RECORD * 4,
    "tsv": '1\t很好\n0\t"很差\n1\t不错\n' * 2,
}
HOSTILE = (
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ question.format(10**9) }}{{ '%1000000000d' % 1 }}",
    "{% set a = [1] %}{% for i in range(60) %}{% set a = [a, a] %}{% endfor %}{{ a }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 1 // 0 }}",
    "{{ missing.field }}",
    "{% include 'x' %}",
    "{% if %}",
    "{{ " + "(" * 500 + ")" * 500 + " }}",
    "{{ [1, 2] | first | int + 'a' }}",
    "{{ self.blocks }}{{ range }}",
    "{{ namespace }}",
    "{{ '%c' % 1114112 }}",
    "{{ none }}{{ n.real.real }}",
    "\\ud800",
)
VALUES = (
    "",
    "null",
    "[]",
    "{}",
    "9" * 400,
    "1e999",
    "-1",
    "true",
    "[[[[]]]]",
    "/",
    "..",
    "../*",
    "**",
    "***",
    "&a *a",
    "!!python/x",
)
OF_A_WHOLE_FILE = "UTF-8|not valid YAML|duplicate key|has no file|cannot be searched|hold no|new-line|unexpected"
KEYS = ("items", "question", "options", "answer", "group", "each", "columns", "where", "labels", "target", "examples")
Change = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, raw: bytes) -> bytes:
    """Some bytes replaced by others."""
    found = bytearray(raw)
    for _ in range(rng.randint(1, 8)):
        found[rng.randrange(len(found))] = rng.choice((0, 10, 13, 34, 44, 92, 123, 255, rng.randrange(256)))
    return bytes(found)


def cut(rng: random.Random, raw: bytes) -> bytes:
    """The file without a stretch of its bytes, which may hold several lines or half a character."""
    start = rng.randrange(len(raw))
    return raw[:start] + raw[start + rng.randint(1, len(raw)) :]


def doubled(rng: random.Random, raw: bytes) -> bytes:
    """A stretch of bytes twice, such as a key that occurs twice."""
    start, end = sorted((rng.randrange(len(raw)), rng.randrange(len(raw))))
    return raw[:end] + raw[start:]


def renamed(rng: random.Random, raw: bytes) -> bytes:
    """A word that occurs in the file, a key perhaps, spelled otherwise."""
    words = [
        word
        for word in (b"question", b"answer", b"choices", b"label", b"text", b"options", b"items", b"A")
        if word in raw
    ]
    return raw.replace(
        rng.choice(words or [b"\n"]), rng.choice((b"x", b"Question", b"", b"a.b", b"parent")), rng.randint(1, 3)
    )


def deep(rng: random.Random, raw: bytes) -> bytes:
    """A value that is nested deeply, in place of a stretch of the file."""
    n, at = rng.choice((10, 1000, 100_000)), rng.randrange(len(raw))
    left, right = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")")))
    return raw[:at] + left * n + right * rng.choice((0, n)) + raw[at + 1 :]


def retyped(rng: random.Random, raw: bytes) -> bytes:
    """A value of another type or a huge number in place of the rest of a line or of a text in quotation marks."""
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(rng.choice((b":", b",", b"\t")))
    lines[at] = key + colon + b" " + rng.choice((*VALUES, *HOSTILE)).encode()
    return b"\n".join(lines)


def hostile(rng: random.Random, raw: bytes) -> bytes:
    """A key of the task set to a template that would run without end, fill the memory or reach the machine."""
    key, value = rng.choice(KEYS), rng.choice((*HOSTILE, *VALUES))
    lines = [line for line in raw.decode("utf-8").splitlines() if not line.startswith(f"{key}:")]
    quoted = value if value in VALUES else '"' + value.replace('"', "'") + '"'
    return "\n".join(
        [*lines, f"{key}: [{quoted}, {quoted}]" if rng.random() < 0.3 else f"{key}: {quoted}", ""]
    ).encode()


CHANGES: tuple[Change, ...] = (flipped, cut, doubled, renamed, deep, retyped)


@pytest.mark.slow
@pytest.mark.parametrize("n_files", [120, pytest.param(667, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("kind", TASKS)
def test_damaged_files_are_one_line(kind: str, n_files: int, tmp_path: Path) -> None:
    """Each damaged file is read, or is a `UserError` of one line that names the file and its line."""
    rng = random.Random(f"task files {kind}")
    task_file, data_file = tmp_path / f"{kind}.yaml", tmp_path / f"data.{kind}"
    n_read = n_refused = 0
    for _ in range(n_files):
        task, data = TASKS[kind].encode(), DATA[kind].encode()
        if rng.random() < 0.5:
            task = rng.choice((*CHANGES, hostile, hostile, hostile))(rng, task)
        else:
            data = rng.choice(CHANGES)(rng, data)
        task_file.write_bytes(task)
        data_file.write_bytes(data)
        try:
            read_items(load_task(str(task_file)), tmp_path)
            n_read += 1
        except UserError as error:
            n_refused += 1
            assert "\n" not in str(error), error
            assert str(tmp_path) in str(error), error
            has_line = re.search(r"\.(yaml|csv|jsonl|tsv):\d+", str(error))
            assert has_line or re.search(OF_A_WHOLE_FILE, str(error)), error
    assert n_read > n_files // 24 and n_refused > n_files // 4


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_ends(template: str, tmp_path: Path) -> None:
    """Templates that loop, grow or reach for the machine end within the budget of a rendering."""
    file = tmp_path / "own.yaml"
    quoted = template.replace('"', "'")
    file.write_text(f'items: data.csv\nquestion: "{quoted}"\noptions: [a, b]\nanswer: "0"\n', encoding="utf-8")
    (tmp_path / "data.csv").write_text("question,n\nWho?,1\n", encoding="utf-8")
    try:
        (item,) = read_items(load_task(str(file)), tmp_path).items
        assert len(item.question) < 1 << 22 and "subprocess" not in item.question
    except UserError as error:
        assert re.search(r"own.yaml:2: 'question'|data.csv:2: ", str(error)), error

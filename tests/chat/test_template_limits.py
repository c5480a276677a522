"""Chat templates that never end or fill the memory: each is refused in one line that names the file."""

from pathlib import Path

import pytest

from babyllm.chat.jinja.sandbox import within_budget
from babyllm.chat.jinja.syntax import ENVIRONMENT
from babyllm.chat.load import load_template
from babyllm.chat.messages import Message, Unusable
from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer

DOUBLED = "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = EXPRESSION %}{% endfor %}{{ ns.s }}"
# A value that holds the last one twice, on two chains, so that no comparison ends at the same object.
NESTED = (
    "{% set ns = namespace(a=(1, 2), b=(1, 2)) %}{% for i in range(60) %}{% set v = ns.a %}{% set ns.a = MADE %}"
    "{% set v = ns.b %}{% set ns.b = MADE %}{% endfor %}USED"
)
USES = [
    ("equal", "[v, v]", "{{ ns.a == ns.b }}"),
    ("searched", "[v, v]", "{{ ns.a in [ns.b] }}"),
    ("sorted", "[v, v]", "{{ [ns.a, ns.b]|sort|length }}"),
    ("unique", "(v, v)", "{{ [ns.a, ns.b]|unique|list|length }}"),
    ("a key", "(v, v)", "{{ {ns.a: 1}[ns.b] }}"),
    ("tested", "{'a': v, 'b': v}", "{{ ns.a is eq(ns.b) }}"),
    ("multiplied", "[v] * 2", "{{ ns.a == ns.b }}"),
    ("added", "[v] + [v]", "{{ ns.a == ns.b }}"),
    ("a call", "dict(a=v, b=v)", "{{ ns.a == ns.b }}"),
    ("defaults", "[x, x]|map('default', v)|list", "{{ ns.a == ns.b }}"),
    ("arguments", "[v, v]", "{% macro f() %}{{ varargs }}{% endmacro %}{{ f(ns.a, ns.b) }}"),
    ("from keys", "{}.fromkeys('ab', v)", "{{ ns.a == ns.b }}"),
]
HOSTILE = {
    "nested loops": "{% for a in range(9999) %}" * 5 + "x" + "{% endfor %}" * 5,
    "nested loops over literals": "{% for a in [1,2,3,4,5,6,7,8,9,0] %}" * 10 + "x" + "{% endfor %}" * 10,
    "nested loops over generators": "{% for a in range(9999)|map('string') %}" * 3 + "x" + "{% endfor %}" * 3,
    "a long range": "{% for a in range(10**9) %}{% endfor %}",
    "a long text": "{{ 'x' * 10**9 }}",
    "a long list": "{% set x = [0] * 10**10 %}",
    "a large number": "{{ 2 ** 1000000000 }}",
    "numbers that grow": DOUBLED.replace("'x'", "9").replace("EXPRESSION", "ns.s * ns.s"),
    "a sum that doubles": DOUBLED.replace("EXPRESSION", "ns.s + ns.s"),
    "a join that doubles": DOUBLED.replace("EXPRESSION", "ns.s ~ ns.s"),
    "a list that doubles": DOUBLED.replace("EXPRESSION", "[ns.s, ns.s]"),
    "a list that doubles as JSON": DOUBLED.replace("EXPRESSION", "[ns.s, ns.s]").replace("{{ ns.s", "{{ ns.s|tojson"),
    **{f"values within values: {how}": NESTED.replace("MADE", made).replace("USED", used) for how, made, used in USES},
    "a replacement that doubles": DOUBLED.replace("EXPRESSION", "ns.s.replace('x', 'xx')"),
    "a replacing filter": DOUBLED.replace("EXPRESSION", "ns.s|replace('x', 'xxxx')"),
    "joined lists": DOUBLED.replace("EXPRESSION", "[ns.s, ns.s]|join"),
    "a joining text": DOUBLED.replace("EXPRESSION", "ns.s.join([ns.s, ns.s, ns.s])"),
    "a block that doubles": "{% set s %}xx{% endset %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 40 + "{{ s }}",
    "a wide field": "{{ 'x'.ljust(10**9) }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a wide format of its own": "{{ '%*d' % (10**9, 1) }}",
    "a wide format method": "{{ '{:1000000000}'.format(1) }}",
    "a computed width": "{{ '{:{}}'.format(1, 10**9) }}",
    "a wide indent": "{{ 'x\n'|indent(10**9) }}",
    "a wide JSON": "{{ [1]|tojson(indent=10**9) }}",
    "a wide filter": "{{ 'x'|center(10**9) }}",
    "lorem ipsum": "{{ lipsum(n=10**9) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursion twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(100) }}",
    "another file": "{% include '/etc/passwd' %}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "a long source": "x" * (2 << 20),
    "secrets": "{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__.os }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_without_end_or_measure_is_refused(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """What takes too many steps or too much room, or reaches beyond itself, is one line that names the file."""
    file = tmp_path / "chat_template.jinja"
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    file.write_text(f"{marked}{HOSTILE[name]}", encoding="utf-8")
    for path in (str(file), None) if name == "nested loops" else (None,):
        with pytest.raises(UserError) as found:
            load_template(path, tokenizer, tmp_path)
        assert str(file) in str(found.value) and "\n" not in str(found.value)


def test_a_long_conversation_stays_within_the_limits(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """What messages need grows with them: many and long ones are rendered by a template that copies them often."""
    file = tmp_path / "mine.jinja"
    file.write_text(
        "{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{% for m in messages %}{% for other in messages %}{% endfor %}{{ '<|im_start|>' + m.role ~ ns.n }}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% endfor %}",
        encoding="utf-8",
    )
    template = load_template(str(file), tokenizer)
    turns = [Message("user", "天" * 40), Message("assistant", "气" * 40)]
    assert len(template.render(turns * 400).ids) > 800 * 40
    assert len(template.render([turns[0], Message("assistant", "b " * 300_000)]).ids) > 300_000


def test_a_refused_conversation_does_not_spoil_the_next(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The budget is that of one rendering: a template may fail for one conversation and serve the others."""
    file = tmp_path / "mine.jinja"
    file.write_text(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% if m.content == 'loop' %}{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
        "{% endif %}{% endfor %}",
        encoding="utf-8",
    )
    template = load_template(str(file), tokenizer)
    for _ in range(2):
        with pytest.raises(Unusable, match="takes more steps than a conversation needs"):
            template.render([Message("user", "a"), Message("assistant", "loop")])
        assert template.render([Message("user", "a"), Message("assistant", "b")]).turns.any()


def test_expressions_mean_what_they_mean_in_jinja() -> None:
    """Sums, joins, filters and formats have the results of Python."""
    for source, expected in {
        "{{ 1 + 2 + 3 }}": "6",
        "{% set a, b = 1, [2] %}{{ (a, b) == (1, [2]) }} {{ b in [[1], b] }} {{ {a: b}[1] }}": "True True [2]",
        "{{ 'a' + ('b' + 'c') + 'd' }}": "abcd",
        "{{ ([1] + [2])|join(', ') }}": "1, 2",
        "{{ 1 + 2 * 3 - 4 }}": "3",
        "{{ 'a' ~ 1 ~ none ~ [2] }}": "a1None[2]",
        "{{ '%s has %03d' % ('it', 7) }}": "it has 007",
        "{{ '%s!'|format('x') }} {{ '{}-{:.1f}'.format(1, 2.25) }}": "x! 1-2.2",
        "{{ [3, 1]|sort|map('string')|join('/') }} {{ ['a', 'b']|map('upper')|list }}": "1/3 ['A', 'B']",
        "{{ 'a\nb'|indent(2) }}|{{ {'k': [1]}|tojson(indent=1) }}": 'a\n  b|{\n "k": [\n  1\n ]\n}',
        "{% for k, v in {'a': 1}.items() %}{{ loop.last }}{{ k }}{{ v }}{% endfor %}": "Truea1",
        "{% for x in [1, 2]|select('odd') %}{{ loop.length }}{{ x }}{% endfor %}": "11",
        "{{ 2 ** 10 }} {{ 'ab' * 2 }} {{ 'a-b'.replace('-', '+').split('+') }}": "1024 abab ['a', 'b']",
    }.items():
        template = ENVIRONMENT.from_string(source)
        assert within_budget(template.render, 0, 0) == expected, source

"""Verdicts on answers: sums, JSON by a schema, programs and queries; records that cannot be checked."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from babyllm.errors import UserError
from babyllm.rollouts.rewards.reward_sum import make_rewards
from babyllm.rollouts.rollout_config import AnswerRewards
from babyllm.verification.verifier import Verdict, Verifier, verify
from babyllm.verification.verify_config import VerifyConfig

RIGHT = {
    "1,200 × (3 + 4) ÷ 7": "It is 1200.",
    "2 ** 10 - 2^3": "1,016",
    "1 / 3": "0.33",
    "10 % 3 + 15% * 200": "答案是 31。",
    "0.1 + 0.2": "So 0.3",
    "sqrt(16) + max(1, 2) + gcd(12, 18)": "12",
    "（１２＋３）": "15",
    "3 x 4": "$12.00.",
    "2 - 5": "-3",
}
WITHOUT_VALUE = ("9 ** 9 ** 9", "__import__('os')", "1 / 0", "(" * 99 + "1" + ")" * 99, "-" * 900 + "1", "x", "", "1e9")


def arithmetic(answer: str, **record: Any) -> Verdict:
    return verify("arithmetic", {"answer": answer, **record})


def test_a_result_is_compared_exactly() -> None:
    """The last number must be the expression's exact value, or that rounded to at least two places."""
    for expression, answer in RIGHT.items():
        assert arithmetic(answer, expression=expression).passed, expression
        assert arithmetic(answer + " plus 1", expression=expression).reason.startswith("wrong: the answer is")
    assert not arithmetic("0.3", expression="1 / 3").passed and not arithmetic("none", expression="1").passed
    for expression in (*WITHOUT_VALUE, "1 + " * 999 + "1", "2 ** 99999 ** 2", "lambda: 1", "'a' * 9"):
        assert arithmetic("1", expression=expression).is_fault, expression


def test_every_equation_of_an_answer_must_hold() -> None:
    """Runs of numbers with an equals sign are worked out; what words interrupt is left out."""
    for answer in ("2+3=5", "（2＋3）×4＝20", "48/2 = <<48/2=24>>24 and 1/3 = 0.33", "x = 3 + 4 = 7", "45 + 49 = 94%"):
        assert arithmetic(answer).passed, answer
    for answer in ("3 + 4 = 8", "2 * 3 = 6, 2 * 4 = 9", "1 + 1 = 2 = 3"):
        assert arithmetic(answer).reason.startswith("wrong: ") and "equation" not in arithmetic(answer).reason
    for answer in ("2 apples + 3 = 6", "3 + x = 9", "none", "15 pages x 1/3 = 5"):
        assert arithmetic(answer).reason == "wrong: the answer has no equation"


PERSON = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


def test_json_is_held_to_its_schema() -> None:
    """An answer is JSON that the schema admits, with or without a fence; a reason says where it is not."""
    with Verifier(VerifyConfig(seconds=1)) as verifier:

        def check(answer: str, schema: Any = PERSON) -> Verdict:
            return verifier.verify("json_schema", {"schema": schema}, answer)

        assert check('{"age": 3}').passed and check('```json\n{"age": 3}\n```').passed
        assert check('{"age": -3}').reason == "wrong: $.age: -3 is less than the minimum of 0"
        for answer in ('{"age": 3', "[" * 100_000, "NaN", ""):
            assert check(answer).reason.startswith("wrong: not JSON")
        for schema in ({"type": "x"}, {"$ref": "http://127.0.0.1:1/x"}, {"$ref": "#"}, {"pattern": "("}, 3, None):
            assert check('"a"', schema).is_fault, schema
        twice = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
        for schema in ({"pattern": "(a+)+$"}, {"$defs": {**twice, "a40": {}}, "$ref": "#/$defs/a0"}):
            assert check('"' + "a" * 40 + 'b"', schema) == Verdict(False, "timeout", is_fault=True)
        assert check('{"age": 5}').passed


def test_programs_pass_calls_cases_and_assertions() -> None:
    """Values are compared outside the process, which never has them; prints are compared line by line."""
    square = "Here:\n```python\ndef f(x):\n    return x * x\n```\nDone."
    with Verifier(VerifyConfig(seconds=20, unguarded=True)) as verifier:

        def check(answer: str, **record: Any) -> Verdict:
            return verifier.verify("python", {"messages": [{"role": "assistant", "content": answer}], **record})

        calls = [{"call": "f(3)", "expected": 9}, {"call": "f(0.1)", "expected": 0.01}]
        assert check(square, calls=calls).passed and check(square, tests="assert f(2) == 4").passed
        assert check(square, calls=[{"call": "f(2)", "expected": 5}]).reason == "wrong: f(2) is 4, not 5"
        assert check("def f(x): return True", calls=[{"call": "f(1)", "expected": 1}]).reason.startswith("wrong")
        cases = [{"stdin": "4", "output": "8\n"}, {"stdin": "5", "output": "11"}]
        assert check("print(int(input()) * 2)", cases=cases[:1]).passed
        assert check("print(int(input()) * 2)", cases=cases).reason == "wrong: case 2 prints '10\\n', not '11'"
        assert check("import sys; sys.exit()", tests=["assert False"]).reason == "error: SystemExit: None"
        for record in ({}, {"calls": [1]}, {"calls": "f"}, {"tests": 3}):
            assert check(square, **record).is_fault, record


def test_queries_need_a_folder(tmp_path: Path) -> None:
    """A query passes if it returns the rows of the record's; without a folder of databases nothing can be said."""
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection:
        connection.executescript("CREATE TABLE a(b); INSERT INTO a VALUES (1), (2);")
    record = {"database": "shop", "sql": "SELECT sum(b) FROM a", "output": "SELECT 3"}
    with Verifier(VerifyConfig(databases=str(tmp_path))) as verifier:
        assert verifier.verify("sql", record) == Verdict(True)
        assert verifier.verify("sql", {**record, "output": "SELECT 4"}).reason == "other rows"
        for change in ({"database": "none"}, {"sql": "SELECT x FROM a"}, {"sql": None}):
            assert verifier.verify("sql", {**record, **change}).is_fault
    with pytest.raises(UserError, match="databases=DIR"):
        verify("sql", record)


def test_what_cannot_be_checked_is_told_apart() -> None:
    """A record without an answer is at fault; an unknown kind is a user's mistake."""
    assert verify("arithmetic", {"expression": "1"}) == Verdict(False, "record: has no answer", is_fault=True)
    assert verify("arithmetic", {"conversations": [{"from": "gpt", "value": "1+1=2"}]}).passed
    with pytest.raises(UserError, match="there is no check called magic; write one of arithmetic"):
        verify("magic", {})


def test_checks_are_rewards() -> None:
    """An answer that passes has 1, one that fails 0, and none where the record has nothing to check."""
    options = AnswerRewards({"arithmetic": 1.0, "json_schema": 1.0})
    rewards = make_rewards(options, options.functions)
    records = [{"expression": "2 + 2", "schema": True}, {"expression": "2 + 2"}, {"expression": "1 / 0"}]
    found = rewards.parts([[]] * 3, ["4", "5", "6"], records)
    rewards.close()
    assert found == {"arithmetic": [1.0, 0.0, None], "json_schema": [1.0, None, None]}

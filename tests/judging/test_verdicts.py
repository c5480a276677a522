"""Verdicts in what judges write, and the texts that judges read."""

from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.judging.judge_prompts import dimension_lines, filled, judge_prompt
from babyllm.judging.verdicts import choice_in, scores_in


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Verdict: A", "A"),
        ("Fine.\n\n**Verdict:** B\n", "B"),
        ("**Verdict: tie**", "tie"),
        ("verdict: a tie", "tie"),
        ("结论：A", "A"),
        ("两者都好。\n结论：**平局**", "tie"),
        ("结论：回答B更好", "B"),
        ("Verdict: Answer B.", "B"),
        ("Verdict: A is better than B", "A"),
        ("My verdict is clear. [[B]]", "B"),
        ("[[C]]", "tie"),
        ('{"verdict": "A"}', "A"),
        ("A", "A"),
        ("B is wrong.\n\n(A).", "A"),
        ("Verdict: A\nNo, wait.\nVerdict: B", "B"),
        ("[[A]] at first, but\nVerdict: B", "B"),
        ("<think>Verdict: A</think>Verdict: B", "B"),
        ("<think>Verdict: A", None),
        ("Verdict: A/B/tie", None),
        ("Verdict: A or B", None),
        ("结论：A和B一样", None),
        ("Verdict: Answer", None),
        ("Verdict: Both", None),
        ("Both are good. A", None),
        ("A is better.", None),
        pytest.param("Verdict:" + "* \n" * 100_000, None, id="marks"),
        ("", None),
    ],
)
def test_the_last_verdict_counts(text: str, choice: str | None) -> None:
    """A verdict is found in the forms that judges use; a text without a clear one has none."""
    assert choice_in(text) == choice


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("helpful: 7\nsafe talk: 3", (7, 3)),
        ("**Helpful**: 7/10\n- `safe talk` : 8.5", (7, 8.5)),
        ("helpful：7分\nsafe talk：10", (7, 10)),
        ('{"helpful": 7, "safe talk": 1}', (7, 1)),
        ("helpful: 2\nhelpful: 9\nsafe talk: 1", (9, 1)),
        ("unhelpful: 2\nsafe talk: 1", None),
        ("helpful: 7", None),
        ("helpful: 0\nsafe talk: 3", None),
        ("helpful: 11\nsafe talk: 3", None),
        ("helpful: 7/100\nsafe talk: 3", None),
        ("helpful: 3/5\nsafe talk: 3", None),
        ("helpful: good\nsafe talk: 3", None),
        ("helpful: -7\nsafe talk: 3", None),
    ],
)
def test_every_dimension_has_a_score_in_range(text: str, scores: tuple[float, float] | None) -> None:
    """Each dimension has its last number from 1 to 10, or the reply has no scores at all."""
    expected = None if scores is None else dict(zip(("helpful", "safe talk"), scores, strict=True))
    assert scores_in(text, ("helpful", "safe talk")) == expected


@pytest.mark.parametrize("language", ["en", "zh"])
def test_built_in_prompts_end_in_what_is_parsed(language: str, tmp_path: Path) -> None:
    """The form that a built-in prompt asks for is one that is understood, and texts are put in as they are."""
    prompt = judge_prompt("pair", language, None)  # type: ignore[arg-type]
    assert choice_in(prompt) == "tie"
    text = filled(prompt, {"prompt": "{answer_b}", "answer_a": "{x} {reference}", "answer_b": "乙"}, "so")
    assert "<prompt>\n{answer_b}\n</prompt>" in text and "{x} {reference}" in text and text.count("乙") == 1
    assert "<reference_answer>\nso\n</reference_answer>" in text
    assert "reference_answer" not in filled(prompt, {"prompt": "", "answer_a": "", "answer_b": ""}, None)
    lines = dimension_lines({"helpful": 1, "brief": 2}, language)  # type: ignore[arg-type]
    scoring = filled(judge_prompt("score", language, None), lines | {"prompt": "p", "answer": "a"}, None)  # type: ignore[arg-type]
    assert "{" not in scoring and "- brief\n" in scoring and "- helpful" in scoring
    file = tmp_path / "own.txt"
    file.write_text("{prompt} {answer_a}")
    with pytest.raises(UserError, match=r"own.txt lacks \{answer_b\}"):
        judge_prompt("pair", "en", file)

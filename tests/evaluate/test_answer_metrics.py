"""Metrics of answers: what they are, and that they equal the packages that people compare with."""

import json
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from babyllm.errors import UserError
from babyllm.evaluate.answer_metrics import METRICS
from babyllm.evaluate.answer_metrics.answer_scores import AnswerScores, bootstrap_error
from babyllm.evaluate.answer_metrics.matching import last_number, strict_number

CHINESE = [
    "今天天气很好，我们去公园看书。",
    "这本小说很有意思！他说明年再来北京。",
    "我们明年再去北京，今天不去",
    "大学的生活很有意思",
]
ENGLISH = [
    "The cat sat on the mat.",
    "A cat is on a mat, and it's 3.5 m long!",
    "the dog SAT on the cat's mat",
    "no words",
]


def pairs(texts: Sequence[str], n: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Answers that are stirred references, with one to three references each."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        references = rng.choices(texts, k=rng.randint(1, 3))
        answer = rng.choice([*references, rng.choice(texts)])
        cut = rng.randint(0, len(answer))
        found.append((answer[cut:] + answer[: rng.randint(0, cut)], references))
    return found


def test_equality_ignores_what_it_says() -> None:
    """`exact` ignores spaces around a text; `exact_normalised` also case, width, punctuation and spaces within."""
    exact, normalised = METRICS["exact"], METRICS["exact_normalised"]
    assert exact(" 北京\n", ["上海", "北京"]) == 1 and exact("北京。", ["北京"]) == 0
    assert normalised("ＢＥＩＪＩＮＧ， 北 京！", ["beijing 北京"]) == 1 and normalised("35", ["3.5"]) == 0
    assert normalised("+", ["-"]) == 0 and normalised("？", ["?"]) == 1
    assert METRICS["contains"]("it is 42.", ["41", "42"]) == 1 and METRICS["contains"]("", ["42"]) == 0


@pytest.mark.parametrize("name", ["f1", "rouge_1", "rouge_2", "rouge_l", "bleu", "chrf", "exact", "exact_normalised"])
def test_equal_texts_have_the_highest_score(name: str) -> None:
    """An answer that equals any of its references scores 1, or 100 in sacrebleu's unit, in every language."""
    highest = 100 if name in ("bleu", "chrf") else 1
    for text in ("今天天气很好", "the cat sat on the mat", "кот сидит на большом ковре", "ネコがいる"):
        assert METRICS[name](text, ["其他", text]) == pytest.approx(highest), text
    assert METRICS[name]("", ["今天天气很好"]) == 0


def test_overlap_by_hand() -> None:
    """F1 counts shared tokens, ROUGE-2 pairs of them, ROUGE-L those in order."""
    answer, reference = "我爱北京", ["我北京爱"]
    assert METRICS["f1"](answer, reference) == 1
    assert METRICS["rouge_2"](answer, reference) == pytest.approx(1 / 3)
    assert METRICS["rouge_l"](answer, reference) == 0.75
    assert METRICS["f1"]("用 Python 3", ["用Python"]) == pytest.approx(0.8)


def test_numbers_by_hand() -> None:
    """The strict number follows ####, the flexible one is the last; commas, dollars and a final stop do not count."""
    number, strict = METRICS["number"], METRICS["number_strict"]
    target = ["She makes $9 * 2 = $18.\n#### 1,018"]
    assert number("so it is $1,018.", target) == 1 and strict("so it is $1,018.", target) == 0
    assert strict("#### 1018 or 7", target) == 1 and number("#### 1018 or 7", target) == 0
    assert number("none", ["none"]) == 0 and number("1018.0", target) == 0


def messy(n: int) -> list[str]:
    rng = random.Random(3)
    parts = [
        "#### ",
        "####",
        "-",
        "$",
        ",",
        ".",
        "\n",
        " ",
        "1",
        "42",
        "0.5",
        "1,000",
        "１２",
        "abc",
        "七",
        "ANSWER",
        "-$3",
    ]
    return ["".join(rng.choices(parts, k=rng.randint(0, 9))) for _ in range(n)]


def test_numbers_equal_lm_eval() -> None:
    """Extraction and comparison equal lm-evaluation-harness's filters and metric of GSM8K, on messy answers too."""
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    metrics = pytest.importorskip("lm_eval.api.metrics")
    strict = extraction.RegexFilter("#### (\\-?[0-9\\.\\,]+)")
    flexible = extraction.RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    answers = messy(500)
    for name in ("test.jsonl", "train_1500.jsonl"):
        if (file := Path(os.environ.get("BABYLLM_DATA", "")) / "eval" / "gsm8k" / name).is_file():
            answers += [json.loads(line)["answer"] for line in file.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(1)
    for answer in answers:
        target = rng.choice([answer, rng.choice(answers)])
        for theirs, ours, name in ((strict, strict_number, "number_strict"), (flexible, last_number, "number")):
            ((found,),) = theirs.apply([[answer]], [{}])
            assert found == ours(answer)
            ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
            expected = metrics.exact_match_fn(
                predictions=[found], references=[target], ignore_case=True, regexes_to_ignore=ignored
            )
            assert METRICS[name](answer, [target]) == expected["exact_match"], (answer, target)


def test_rouge_equals_rouge_score_in_english() -> None:
    """For English the three numbers are those of the package rouge-score without stemming."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    for answer, references in pairs(ENGLISH, 200):
        expected = scorer.score_multi(references, answer)
        for name in ("rouge1", "rouge2", "rougeL"):
            ours = METRICS[f"rouge_{name[-1].lower()}"](answer, references)
            assert ours == expected[name].fmeasure, (name, answer, references)


def test_rouge_equals_rouge_chinese_on_characters() -> None:
    """For Chinese they are those of rouge-chinese on characters, which it counts with `exclusive=False`."""
    rouge = pytest.importorskip("rouge_chinese").Rouge(exclusive=False)
    for answer, (reference, *_) in pairs([re.sub("[，。！]", "", text) for text in CHINESE], 200):
        if answer:
            (expected,) = rouge.get_scores(" ".join(answer), " ".join(reference))
            for name, theirs in expected.items():
                # It adds 1e-8 to a denominator.
                assert METRICS[name.replace("-", "_")](answer, [reference]) == pytest.approx(theirs["f"], abs=1e-7)


@pytest.mark.parametrize(("texts", "tokenize"), [(CHINESE, "zh"), (ENGLISH, "13a")])
def test_bleu_and_chrf_equal_sacrebleu(texts: list[str], tokenize: str) -> None:
    """BLEU and chrF equal sacrebleu's to the last digit, for one answer and for all, with several references."""
    sacrebleu = pytest.importorskip("sacrebleu")
    some = pairs(texts, 60)
    scores = AnswerScores(["bleu", "chrf"])
    for answer, references in some:
        scores.add(answer, references)
        assert (
            METRICS["bleu"](answer, references) == sacrebleu.sentence_bleu(answer, references, tokenize=tokenize).score
        )
        assert METRICS["chrf"](answer, references) == sacrebleu.sentence_chrf(answer, references).score
    answers = [answer for answer, _ in some]
    streams = [[r[i] if i < len(r) else None for _, r in some] for i in range(3)]
    estimates = scores.estimates()
    assert estimates["bleu"].value == sacrebleu.corpus_bleu(answers, streams, tokenize=tokenize).score
    assert estimates["chrf"].value == sacrebleu.corpus_chrf(answers, streams).score
    assert 0 < estimates["bleu"].error < 10 and estimates["bleu"].n == 60


def test_errors_of_answers() -> None:
    """Means have the usual standard error; the seeded bootstrap of a mean agrees with it; clusters widen both."""
    some = pairs(ENGLISH, 200)
    alone, grouped = AnswerScores(["f1", "bleu"], seed=1), AnswerScores(["f1", "bleu"], seed=1)
    for answer, references in some:
        alone.add(answer, references)
        for _ in range(4):
            grouped.add(answer, references, cluster=(answer, *references))
    first, second = alone.estimates(), grouped.estimates()
    values = [METRICS["f1"](answer, references) for answer, references in some]
    assert first["f1"].value == pytest.approx(np.mean(values))
    assert first["f1"].error == pytest.approx(np.std(values, ddof=1) / 200**0.5)
    assert alone.estimates() == first and second["bleu"].value == pytest.approx(first["bleu"].value)
    assert second["bleu"].error == pytest.approx(first["bleu"].error, rel=0.3)
    counts = np.array([[round(value * 1000), 1000] for value in values])
    assert bootstrap_error(counts, lambda total: total[0] / total[1]) == pytest.approx(first["f1"].error, rel=0.1)
    assert AnswerScores(["f1"]).estimates() == {}


def test_an_unknown_metric_is_named() -> None:
    """A metric that does not exist is refused with the names of those that do."""
    with pytest.raises(UserError, match=r"metric rouge: unknown; choose from exact, .*rouge_l"):
        AnswerScores(["rouge"])

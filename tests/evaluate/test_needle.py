"""The needle test: where the fact lies, how long prompts are, and what a model that copies or guesses scores."""

import random
from pathlib import Path
from typing import Literal

import pytest

from babyllm.chat.load import ChatTemplate
from babyllm.errors import UserError
from babyllm.evaluate.needle import needle_evaluation, needle_results, needle_table
from babyllm.evaluate.needle_config import NeedleConfig
from babyllm.evaluate.needle_prompts import NeedlePrompts
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("is_chat", [False, True])
def test_where_the_fact_lies(
    tokenizer: Tokenizer, template: ChatTemplate, language: Literal["zh", "en"], is_chat: bool
) -> None:
    """The fact lies at its depth, once, in a prompt of nearly the asked length; other values are not in it."""
    config = NeedleConfig(language=language)
    prompts = NeedlePrompts(tokenizer, config, template=template if is_chat else None)
    for length in (400, 1500):
        for depth in (0.0, 0.3, 0.5, 1.0):
            needle = prompts.needle(length, depth, 3)
            assert needle == prompts.needle(length, depth, 3) != prompts.needle(length, depth, 4)
            assert length - 300 < len(needle.ids) <= length
            text = tokenizer.decode(list(needle.ids))
            assert text.count(needle.values[0]) == 1 and not any(value in text for value in needle.values[1:])
            assert len(set(needle.values)) == 10 and len(needle.options) == 10
            assert text.index(needle.values[0]) / len(text) == pytest.approx(depth, abs=0.1 + 120 / len(text))
            option = tokenizer.decode(list(needle.options[0]))
            assert option.strip(" 。.") == needle.values[0]


def test_a_text_of_ones_own(tokenizer: Tokenizer, tmp_path: Path, model: Transformer, runtime: Runtime) -> None:
    """The text around the fact is the user's, cut between sentences; a blank or missing one is named."""
    text = "今天天气很好。We read a book. 明天再来！\n\n"
    prompt = tokenizer.decode(list(NeedlePrompts(tokenizer, NeedleConfig(), text).needle(200, 0.5, 0).ids))
    assert "今天天气很好。" in prompt and "We read a book. " in prompt
    with pytest.raises(UserError, match=r"needle\.text: is blank"):
        NeedlePrompts(tokenizer, NeedleConfig(), " \n ")
    with pytest.raises(UserError, match=r"needle\.lengths=20: has no room"):
        NeedlePrompts(tokenizer, NeedleConfig()).needle(20, 0, 0)
    with pytest.raises(UserError, match=r"needle\.lengths=120: leaves no room for an answer in the context of 128"):
        needle_results(model, tokenizer, runtime, NeedleConfig(lengths=[120]))
    with pytest.raises(UserError, match=r"needle\.text: .*gone\.txt cannot be read"):
        needle_table(model, tokenizer, runtime, NeedleConfig(text=str(tmp_path / "gone.txt")))


def test_a_model_that_guesses(model: Transformer, tokenizer: Tokenizer, runtime: Runtime, tmp_path: Path) -> None:
    """Random weights find nothing and prefer the value as often as chance, which the report says."""
    (tmp_path / "text.txt").write_text("今天去公园。", "utf-8")
    config = NeedleConfig(lengths=[90, 100], depths=[0.0, 1.0], repeats=20, text=str(tmp_path / "text.txt"))
    evaluation = needle_table(model, tokenizer, runtime, config)
    assert evaluation.values["found"]["value"] == 0
    assert evaluation.values["preferred"]["value"] == pytest.approx(0.1, abs=0.15)
    facts = dict(evaluation.report.facts)
    assert str(facts["preferred"]).endswith("of 80 prompts, not distinguished from chance")
    assert [table.columns for table in evaluation.report.tables] == [["depth", "90 tokens", "100 tokens"]] * 2
    assert [row[0] for row in evaluation.report.tables[0].rows] == ["0%", "100%"]
    assert needle_table(model, tokenizer, runtime, config).values == evaluation.values


def test_the_table_is_of_its_cells() -> None:
    """Each cell is the mean of its prompts, and the summary that of all."""
    from babyllm.evaluate.needle import NeedleResult

    rng = random.Random(0)
    results = {
        (length, depth): NeedleResult([float(rng.random() < 0.5) for _ in range(8)], [1.0] * 8)
        for length in (512, 64)
        for depth in (0.5, 0.0)
    }
    evaluation = needle_evaluation(results)
    found = evaluation.report.tables[0]
    assert found.columns == ["depth", "64 tokens", "512 tokens"]
    assert found.rows[1] == ["50%", sum(results[64, 0.5].found) / 8, sum(results[512, 0.5].found) / 8]
    assert dict(evaluation.report.facts)["preferred"] == "1.000 ± 0.000 of 32 prompts, above chance"

"""Scorers of texts, rewards and functions, several together, and scores in bounded memory."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fixtures import some_conversations, talk
from fake_endpoint import faking, says
from model_fixtures import Tiny, decisive

from babyllm.chat.messages import Conversation, Message
from babyllm.endpoint.config import EndpointConfig
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.heads import WithHead
from babyllm.reward_model import RewardModel, load_reward_model
from babyllm.rollouts.rollout_config import JudgeConfig
from babyllm.selection.scorers.conversation_rewards import FunctionScores, JudgeScores, ModelRewards
from babyllm.selection.scorers.necessity import necessity, own_answers
from babyllm.selection.scorers.scored_batches import Together, score_conversations
from babyllm.selection.scorers.text_statistics import TextStatistics, mtld
from babyllm.tokenizer import Tokenizer

MODULE = """
def lengths(conversations):
    print("noise")
    return [len(one["messages"][-1]["content"]) for one in conversations]
def roles(conversations): return [float(one["messages"][0]["role"] == "system") for one in conversations]
def some(conversations): return [None, float("nan"), 1][:len(conversations)]
def raising(conversations): raise KeyError("nope")
def short(conversations): return [1.0]
"""
UNANSWERED = Conversation((Message("user", "a"),))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with the module `mine`."""
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, tokenizer: Tokenizer) -> RewardModel:
    folder = tmp_path_factory.mktemp("reward")
    shape = replace(tiny(), vocab_size=tokenizer.vocab_size + 2)
    save_model(folder, WithHead(decisive(shape)), tokenizer.extended(["<|im_start|>", "<|im_end|>"]))
    return load_reward_model(folder)


def function_scores(name: str, conversations: list[Conversation]) -> tuple[list[float], list[str]]:
    scorer = FunctionScores(f"mine:{name}", timeout_s=30)
    try:
        scores = scorer.score(conversations)
    finally:
        scorer.close()
    assert scorer.names == (name,)
    return scores.columns[name].tolist(), scores.reasons


def test_lengths_and_ratios(tokenizer: Tokenizer) -> None:
    """Prompt and answers are counted apart, in characters and in tokens of their own texts."""
    scores = TextStatistics(tokenizer).score([talk("今天", "很好。", "ab", "c", system="s"), UNANSWERED])
    found = {name: values[0] for name, values in scores.columns.items()}
    n_asked, n_answered = (sum(len(tokenizer.encode(t)) for t in ts) for ts in (["s", "今天", "ab"], ["很好。", "c"]))
    assert found == {
        **{"prompt_characters": 5, "answer_characters": 4, "character_ratio": 0.8, "n_answers": 2, "mtld": 3},
        **{"prompt_length": n_asked, "answer_length": n_answered, "length_ratio": n_answered / n_asked},
    }
    assert all(np.isnan(values[1]) for values in scores.columns.values()) and scores.reasons[1]
    assert set(TextStatistics().score([]).columns) < set(scores.columns)


def test_lexical_diversity() -> None:
    """MTLD counts runs whose share of different words stays above 0.72, in both directions, the last one in part."""
    assert mtld([]) is None and mtld(list("abcdef")) == 6
    assert mtld(["a"] * 10) == 2  # a run ends at each second word
    assert mtld(list("abacdce")) == (7 / 2 + 7 / 1) / 2  # aba cdc e, and backwards ecdcaba
    assert mtld(list("abcdea")) == pytest.approx(6 / ((1 - 5 / 6) / (1 - 0.72)))  # a part of a run


def test_a_function_of_the_user_scores(here: Path) -> None:
    """It is called with messages, task and id, and may print; what is not a finite number is NaN with a reason."""
    assert function_scores("lengths", [talk("a", "bcd"), talk("e", "f")]) == ([3, 1], ["", ""])
    assert function_scores("roles", [talk("a", "b", system="s"), talk("a", "b")])[0] == [1, 0]
    values, reasons = function_scores("some", [talk("a", "b")] * 3)
    assert np.isnan(values).tolist() == [bool(why) for why in reasons] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:raising", "mine:raising raised KeyError"),
        ("mine:short", "returned 1 scores for 2 conversations"),
        ("mine:absent", "the score mine:absent cannot be imported"),
        ("mine", "write module:function"),
    ],
)
def test_a_function_that_fails_ends_the_scoring(here: Path, name: str, message: str) -> None:
    """The error names the function and what happened."""
    with pytest.raises(UserError, match=message):
        FunctionScores(name, timeout_s=30).score([talk("a", "b")] * 2)


def test_a_reward_model_scores_last_answers(reward_model: RewardModel) -> None:
    """Scores are those of the reward model; what it cannot read has a reason."""
    conversations = [talk("a", "b"), talk("a" * 90, "b"), UNANSWERED, talk("c", "d", "e", "f")]
    scores = ModelRewards(reward_model).score(conversations)
    expected = reward_model.scores([conversation.messages for conversation in conversations])
    assert [bool(why) for why in scores.reasons] == [False, True, True, False]
    assert [None if np.isnan(x) else x for x in scores.columns["reward"]] == expected


def test_a_classifier_is_not_a_reward_model(reward_model: RewardModel, tiny: Tiny) -> None:
    """A model with several outputs has no reward."""
    several = WithHead(decisive(tiny()), ["good", "bad"])
    with pytest.raises(UserError, match="has 2 outputs"):
        ModelRewards(replace(reward_model, model=several))


def test_a_judge_scores_last_answers() -> None:
    """The judge is shown prompt and answer; a reply without a score and a missing answer are NaN with a reason."""
    with faking(lambda said, n: says("helpful: 7" if "good" in said else "hm")) as server:
        endpoint = EndpointConfig(url=server.url, model="m", backoff_s=0.001, retries=1)
        scorer = JudgeScores(JudgeConfig(endpoint=endpoint), "judge")
        scores = scorer.score([talk("ask", "good"), talk("ask", "bad"), UNANSWERED])
        none = scorer.score([talk("ask", "worse")])
    assert scores.columns["judge"][0] == 7 and np.isnan(scores.columns["judge"][1:]).all()
    assert [bool(why) for why in scores.reasons] == [False, True, True]
    assert np.isnan(none.columns["judge"]).all() and none.reasons[0].startswith("the judge")


def test_settings_of_a_judge_are_named_as_they_are_typed() -> None:
    """Messages name the section that the caller has."""
    with pytest.raises(UserError, match=r"--score\.judge\.dimensions"):
        JudgeScores(JudgeConfig({}), "score.judge")


def test_several_scorers_are_one(here: Path) -> None:
    """Columns stand side by side and reasons are joined; a column of two scorers is refused."""
    function = FunctionScores("mine:some", timeout_s=30)
    together = Together([TextStatistics(), function])
    scores = together.score([UNANSWERED, talk("a", "b")])
    function.close()
    assert tuple(scores.columns) == together.names
    assert scores.reasons[0].count(";") == 1 and "some returned" in scores.reasons[1]
    with pytest.raises(UserError, match="two scorers make the column answer_characters"):
        Together([TextStatistics(), TextStatistics()])


def test_conversations_are_read_as_they_are_scored() -> None:
    """No more than a batch is read ahead, the order stays, and the batch does not change the scores."""
    n_read = 0

    def source() -> Iterator[Conversation]:
        nonlocal n_read
        for conversation in some_conversations():
            n_read += 1
            yield conversation

    found: list[tuple[Conversation, float]] = []
    for scored in score_conversations(source(), TextStatistics(), 7):
        found += zip(scored.conversations, scored.scores.columns["character_ratio"], strict=True)
        assert n_read == len(found)
    conversations = some_conversations()
    whole = TextStatistics().score(conversations).columns["character_ratio"].tolist()
    assert found == list(zip(conversations, whole, strict=True))
    assert list(score_conversations([], TextStatistics())) == []


def predictions(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_necessity_of_a_record_is_the_reward_of_the_models_own_answer(
    reward_model: RewardModel, tmp_path: Path
) -> None:
    """Predicted answers are scored in place of the record's, by its id or number; several have their mean."""
    asked = {"instruction": "a", "output": "the record's own", "finish": "stop"}
    path = predictions(
        tmp_path,
        {**asked, "id": "x", "prediction": "b"},
        {**asked, "id": "y", "predictions": ["b", "c"], "finish": ["stop", "stop"]},
        {"instruction": "a", "id": "z", "error": "too long"},
        {**asked, "id": 4, "prediction": "a" * 90},
    )
    one, other = reward_model.scores([talk("a", "b").messages, talk("a", "c").messages])
    assert one is not None and other is not None
    expected = [one, (one + other) / 2, np.nan, np.nan]
    for field, names in (("id", ["x", "y", "z", "4"]), (None, ["0", "1", "2", "3"])):
        found = necessity(path, ModelRewards(reward_model), "reward", id_field=field, batch=2)
        assert list(found) == names
        assert list(found.values()) == pytest.approx(expected, nan_ok=True, rel=1e-5)
    conversations = dict(own_answers(path))["1"]
    assert [one.messages[-1].content for one in conversations] == ["b", "c"]


@pytest.mark.parametrize(
    ("records", "field", "message"),
    [
        ([{"instruction": "a", "output": "b"}], None, "no record has a prediction"),
        ([{"instruction": "a", "prediction": "b"}], "id", "record 0 has no id in the field id"),
        ([{"instruction": "a", "prediction": "b", "id": 1}] * 2, "id", "two records have the id 1"),
    ],
)
def test_predictions_that_cannot_be_used(tmp_path: Path, records: list[Any], field: str | None, message: str) -> None:
    """The message names the file and what it lacks."""
    with pytest.raises(UserError, match=f"predictions.jsonl: {message}"):
        necessity(predictions(tmp_path, *records), TextStatistics(), "mtld", id_field=field)

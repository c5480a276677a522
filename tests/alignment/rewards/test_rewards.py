"""Rewards: the built-in ones, functions of users that misbehave, and weights."""

import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.rollouts.rewards.reward_sum import Rewards, make_rewards
from babyllm.rollouts.rewards.user_rewards import RewardFailed, UserReward
from babyllm.rollouts.rollout_config import AnswerRewards

MODULE = """
import os, subprocess, sys, time
def shout(prompts, answers, records):
    print("not an answer")
    return [float(len(answer)) + records[i]["bonus"] for i, answer in enumerate(answers)]
def raising(prompts, answers, records): raise KeyError("nope")
def odd(prompts, answers, records): return [float("nan"), None, 1, float("inf")][:len(answers)]
def short(prompts, answers, records): return [1.0]
def words(prompts, answers, records): return ["good"] * len(answers)
def nothing(prompts, answers, records): return None
def hanging(prompts, answers, records): time.sleep(60)
def leaving(prompts, answers, records): os._exit(3)
def forking(prompts, answers, records): subprocess.run(["sleep", "60"])
def roles(prompts, answers, records): return [float(turns[-1]["role"] == "user") for turns in prompts]
"""
TURNS = [{"role": "user", "content": "hi"}]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., UserReward]]:
    """`user(name)`: a function of a module in the present folder."""
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    made: list[UserReward] = []

    def make(name: str, timeout_s: float = 30.0) -> UserReward:
        made.append(UserReward(f"mine:{name}", timeout_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(reward: UserReward, *answers: str) -> list[float | None]:
    return reward([TURNS] * len(answers), answers, [{"bonus": 0.5}] * len(answers))


def test_a_function_of_the_user_may_print(user: Callable[..., UserReward]) -> None:
    """Its rewards arrive, call after call, whatever it prints; it sees prompts as messages, and the records."""
    reward = user("shout")
    assert asked(reward, "abc", "") == [3.5, 0.5] and asked(reward, "a") == [1.5]
    assert asked(user("roles"), "a") == [1.0]


def test_rewards_that_are_not_numbers_are_none(user: Callable[..., UserReward]) -> None:
    """Whole numbers are rewards; NaN, None and infinity are not."""
    assert asked(user("odd"), *"abcd") == [None, None, 1.0, None]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising", "raised KeyError: 'nope'"),
        ("short", "returned 1 rewards for 2 answers"),
        ("words", "raised ValueError"),
        ("nothing", "raised TypeError"),
        ("leaving", "ended its process"),
    ],
)
def test_a_function_that_fails_is_named(user: Callable[..., UserReward], name: str, message: str) -> None:
    """A failed call says why, and the next call starts another process."""
    reward = user(name)
    for _ in range(2):
        with pytest.raises(RewardFailed, match=message):
            asked(reward, "a", "b")


def test_a_function_that_cannot_be_imported_is_an_error_at_once(user: Callable[..., UserReward]) -> None:
    """No patience helps there, so the first call names it."""
    with pytest.raises(UserError, match=r"mine:missing cannot be imported \(AttributeError"):
        asked(user("missing"), "a")


def test_a_function_that_hangs_is_ended(user: Callable[..., UserReward]) -> None:
    """After its time the process is killed."""
    with pytest.raises(RewardFailed, match=r"took more than 0\.3 s"):
        asked(user("hanging", 0.3), "a")


def test_a_function_whose_child_hangs_is_ended(user: Callable[..., UserReward]) -> None:
    """What it has started is killed with it, so that nobody waits for its pipe."""
    reward = user("forking", 0.5)
    with pytest.raises(RewardFailed, match="took more than"):
        asked(reward, "a")


def test_failures_cost_rewards_until_patience_ends(user: Callable[..., UserReward]) -> None:
    """Answers of a failed call have no reward; the third failure in a row ends the run with the function's name."""
    said: list[str] = []
    rewards = Rewards({"mine:raising": user("raising")}, {"mine:raising": 1.0}, 3, said.append)
    for _ in range(2):
        parts = rewards.parts([TURNS], ["a"], [{}])
        assert parts == {"mine:raising": [None]} and math.isnan(rewards.total(parts)[0])
    assert "1 answers have no reward" in said[0]
    with pytest.raises(UserError, match=r"mine:raising raised KeyError.* 3 times in a row"):
        rewards.parts([TURNS], ["a"], [{}])


def values(config: AnswerRewards, answers: list[str], record: dict[str, object]) -> list[float]:
    rewards = make_rewards(config, config.functions)
    found = rewards.total(rewards.parts([TURNS] * len(answers), answers, [record] * len(answers)))
    rewards.close()
    return found


def test_built_in_rewards_add_up_by_weight() -> None:
    """Equal texts, equal numbers, form and length, each with its weight; an empty answer is scored."""
    config = AnswerRewards(
        {"exact_match": 1, "number_match": 2, "format": 4, "length": 8}, pattern=r"\d+", target_length=4
    )
    found = values(config, ["18", "it is 18", "", "7" * 6], {"reference": "18"})
    assert found == [15.0, 2 + 0.0, 0.0, 4 + 8 * 0.5]
    assert math.isnan(values(AnswerRewards({"exact_match": 1}), ["a"], {})[0])


def test_queries_are_rewarded_by_their_rows(tmp_path: Path) -> None:
    """A query that returns the rows of the record's own has 1, another or an empty answer 0."""
    with sqlite3.connect(tmp_path / "shop.sqlite") as database:
        database.execute("create table t (a)")
        database.execute("insert into t values (1), (2)")
    database.close()
    record = {"db_id": "shop", "query": "select sum(a) from t"}
    config = AnswerRewards({"sql": 1}, databases=str(tmp_path))
    assert values(config, ["SELECT 3", "select 4", "", "drop table t"], record) == [1.0, 0.0, 0.0, 0.0]
    assert math.isnan(values(config, ["select 3"], {**record, "db_id": "../shop"})[0])


def test_records_reach_the_function_as_json(user: Callable[..., UserReward]) -> None:
    """Values that JSON does not have are passed as texts."""
    assert user("shout")([TURNS], ["a"], [{"bonus": 1, "at": Path("x")}]) == [2.0]

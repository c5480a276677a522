"""A judge as a reward: its scores, replies without one, what is stored, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Answer, FakeEndpoint, fails, faking, says
from policy_run_fixtures import configured, write_policy, write_prompts

from babyllm.endpoint.config import EndpointConfig
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.rollouts.rewards.reward_sum import make_rewards
from babyllm.rollouts.rollout_config import AnswerRewards, JudgeConfig
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.policy.grpo import begin

TURNS = [{"role": "user", "content": "ask"}]


def shown(said: str) -> str:
    """The answer that the judge was shown."""
    found = re.search(r"<answer>\n(.*?)\n</answer>", said, re.DOTALL)
    assert found, said
    return found[1]


def by_length(said: str, n: int) -> Answer:
    """A judge who likes long answers, at most 10 characters of them."""
    return says(f"Long.\nhelpful: {min(10, max(1, len(shown(said))))}")


def judged(server: FakeEndpoint, *, dimensions: dict[str, float] | None = None, **more: Any) -> AnswerRewards:
    endpoint = EndpointConfig(**{"url": server.url, "model": "m", "backoff_s": 0.001, "retries": 1, **more})
    return AnswerRewards({"judge": 0.5}, judge=JudgeConfig(dimensions or {"helpful": 1.0}, endpoint=endpoint))


def parts(options: AnswerRewards, *answers: str, record: dict[str, Any] | None = None) -> list[float | None]:
    rewards = make_rewards(options, options.functions)
    return rewards.parts([TURNS] * len(answers), answers, [record or {}] * len(answers))["judge"]


def test_scores_are_rewards() -> None:
    """Each answer has the weighted mean of its dimensions; the judge is shown prompt, answer and right answer."""
    with faking(lambda said, n: says("thinking...\nkind: 10\nhelpful: 4")) as server:
        assert parts(judged(server, dimensions={"kind": 1.0, "helpful": 2.0}), "a", record={"reference": "r"}) == [6.0]
        (said,) = server.asked
    assert shown(said) == "a" and "<reference_answer>\nr\n" in said and "ask" in said and "kind" in said


def test_answers_are_judged_at_once_and_never_twice(tmp_path: Path) -> None:
    """Requests run together, equal ones are one, and another run asks nothing again."""
    with faking(by_length) as server:
        for _ in range(2):
            options = judged(server, cache=str(tmp_path / "replies"), concurrency=4)
            assert parts(options, "ab", "abcd", "ab", "") == [2, 4, 2, 1]
            assert sum(server.asked.values()) == 3
        assert "key" not in (tmp_path / "replies" / "replies.jsonl").read_text().replace('{"key"', "")


def test_what_cannot_be_scored_has_no_reward() -> None:
    """Nonsense, a score out of range, a cut reply and a failed request cost one answer its reward."""
    replies = {"a": says("I like it"), "b": says("helpful: 11"), "c": says("helpful: 7", "length"), "d": fails(500)}
    with faking(lambda said, n: replies.get(shown(said)) or by_length(said, n)) as server:
        options = judged(server)
        assert parts(options, "a", "b", "c", "d", "eee") == [None, None, None, None, 3.0]
        assert make_rewards(options, {"judge": 0.5}).total({"judge": [None, 3.0]})[1] == 1.5
        with pytest.raises(UserError, match=r"reward\.functions: judge gave no score: the reply has no verdict; mend"):
            parts(options, "a", "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": None}, r"--reward\.judge\.endpoint\.url and --reward\.judge\.endpoint\.model are needed"),
        ({"key_variable": "NO_SUCH_KEY"}, r"--reward\.judge\.endpoint\.key_variable: .* NO_SUCH_KEY has no value"),
        ({"price_in": 1e6, "price_out": 1e6, "max_cost": 1e-3}, r"--reward\.judge\.endpoint\.max_cost=0\.001"),
        ({"dimensions": {"total": 1.0}}, r"--reward\.judge\.dimensions: 'total' cannot be"),
    ],
)
def test_settings_are_named_as_they_are_given(change: dict[str, Any], message: str) -> None:
    """A missing address or key, a spent budget and an unusable dimension are errors that name the flag."""
    with faking(by_length) as server, pytest.raises(UserError, match=message):
        parts(judged(server, **change), "a")


def test_ranks_share_what_a_judge_may_cost() -> None:
    """Together they stay below the budget and the number of requests at a time."""
    endpoint = EndpointConfig("http://a/v1", "m", price_in=1, price_out=1, max_cost=3.0, concurrency=8)
    (one,) = AnswerRewards(judge=JudgeConfig(endpoint=endpoint)).of_rank(3, Path("x")).judge.judges().values()
    assert (one.max_cost, one.concurrency, one.cache) == (1.0, 2, "x")


def test_several_judges_share_the_prompts(tmp_path: Path) -> None:
    """All answers to a prompt are scored by the same judge; ranks have their part of each one's limits."""
    score = {"low": 2, "high": 9}

    def judge(name: str) -> Callable[[str, int], Answer]:
        return lambda said, n: says(f"helpful: {score[name]}")

    with faking(judge("low")) as low, faking(judge("high")) as high:
        file = tmp_path / "endpoints.yaml"
        file.write_text("".join(f"{n}: {{url: '{s.url}', model: m}}\n" for n, s in (("low", low), ("high", high))))
        options = AnswerRewards({"judge": 1.0}, judge=JudgeConfig(endpoints=str(file))).of_rank(2, tmp_path / "replies")
        assert {one.concurrency for one in options.judge.judges().values()} == {4}
        prompts = [[{"role": "user", "content": f"ask {i}"}] for i in range(16) for _ in range(3)]
        answers = [str(i) for i in range(len(prompts))]
        found = make_rewards(options, options.functions).parts(prompts, answers, [{}] * len(answers))["judge"]
        assert low.asked and high.asked and low.asked.total() + high.asked.total() == 48
    assert all(len(set(found[i : i + 3])) == 1 for i in range(0, 48, 3)) and set(found) == {2.0, 9.0}
    both = JudgeConfig(endpoints=str(file), endpoint=EndpointConfig("http://a/v1", "m"))
    with pytest.raises(UserError, match=r"--reward\.judge\.endpoints and --reward\.judge\.endpoint\.url: give one"):
        make_rewards(AnswerRewards({"judge": 1.0}, judge=both), {"judge": 1.0})


def test_a_policy_is_rewarded_by_a_judge(tmp_path: Path, tokenizer: Tokenizer, tiny: Any, runtime: Runtime) -> None:
    """A rollout has the judge's scores, an answer without one is counted, and a run that goes on pays nothing twice."""
    shape: ModelConfig = tiny()
    base = write_policy(tmp_path / "base", tokenizer, shape)
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    empty = says("nothing")
    with faking(lambda said, n: by_length(said, n) if sum(map(ord, shown(said))) % 3 else empty) as server:
        flags = [f"--reward.judge.endpoint.url={server.url}", "--reward.judge.endpoint.model=m"]
        config = configured(base, prompts, tmp_path / "run", "--reward.functions={judge: 1}", *flags)
        found = []
        for _ in range(2):
            stream = begin(config, runtime).state.stream
            next(stream)
            numbers = stream.metrics()
            found.append({name: numbers[f"rollout/{name}"] for name in ("reward", "unrewarded", "reward/judge")})
            n_asked = sum(server.asked.values())
        assert found[0] == found[1] and 1 <= found[0]["reward"] <= 10 and 0 < found[0]["unrewarded"] < 1
        assert n_asked == len(server.asked) == len((tmp_path / "run/judge/replies.jsonl").read_text().splitlines())

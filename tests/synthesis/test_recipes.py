"""Every recipe against a scripted endpoint: requests and costs are accounted for, and training reads the records."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import faking
from scripted_model import bad_model, fault, model, number_of, stalling_model
from synthesis_fixtures import check_accounts, flags_of, made_by

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.preferences import PreferencePair, to_preference
from babyllm.errors import UserError
from babyllm.sandbox.python import Snippets
from babyllm.synthesis.recipe import BUILT_IN, read_recipe

MORE = {"code": ["--n=4"], "self_instruct": ["--n=12"]}
FAULTS = {"refused": "request failed", "never": "request failed", "cut short": "cut at max_tokens"}
FAULTS |= {"long": "longer than 200,000 characters", "controls": "control characters", "nonsense": "no JSON"}


def shows(said: str, kind: str) -> bool:
    """Whether a prompt meets with a fault that is seen in its reply; nonsense is one only where JSON is wanted."""
    return fault(said) == kind and (kind != "nonsense" or '{"' in said)


def skip_without_isolation(name: str) -> None:
    if name == "code":
        try:
            Snippets().run("")
        except UserError as error:
            pytest.skip(str(error))


def check_readable(records: list[dict[str, Any]], name: str, language: str) -> None:
    """Training reads each record."""
    for record in records:
        if "messages" in record:
            found = to_conversation(record, FormatConfig(), task="", id="")
            assert found.messages[-1].role == "assistant" and found.messages[-1].content
        else:
            assert isinstance(to_preference(record, FormatConfig(), task="", id=""), PreferencePair)
        assert record["language"] == language and record["recipe"] == name and record["cost"] > 0


@pytest.mark.campaign
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_recipe_makes_records(name: str, tmp_path: Path, inputs: Path) -> None:
    """With a model that answers well, most items become records that training reads, in either language."""
    skip_without_isolation(name)
    for language in ("en", "zh"):
        with faking(model) as server:
            flags = flags_of(server, inputs, read_recipe(name)[0].source, language) + MORE.get(name, [])
            records, rejected, report = made_by(tmp_path / language, name, *flags)
        check_accounts(records, rejected, report)
        check_readable(records, name, language)
        assert len(records) >= (4 if name == "pairs" else 8)


def test_a_stalling_endpoint_is_waited_for_once(tmp_path: Path, inputs: Path) -> None:
    """What drips is asked again after its time, and equal requests are paid for once."""
    chats = inputs / "en" / "chats.jsonl"
    (tmp_path / "twice.jsonl").write_bytes(chats.read_bytes() + b"\n" + chats.read_bytes())
    with faking(stalling_model) as server:
        flags = [*flags_of(server, inputs, "", "en"), f"--inputs={tmp_path / 'twice.jsonl'}", "--endpoint.timeout_s=2"]
        records, rejected, report = made_by(tmp_path / "out", "distil", *flags)
    check_accounts(records, rejected, report)
    facts = dict(report["facts"])
    assert 4 < len(records) <= 12 and facts["inputs"] == 24 and facts["tokens read"] <= 10 * 12
    assert any(number_of(said, "stall") % 7 == 0 and n > 1 for said, n in server.asked.items())


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_request_is_accounted_for(name: str, tmp_path: Path, inputs: Path) -> None:
    """With an endpoint that errs, limits, cuts and lies, each request ends as a record or with its reason."""
    skip_without_isolation(name)
    language = ("en", "zh")[BUILT_IN.index(name) % 2]
    with faking(bad_model) as server:
        flags = flags_of(server, inputs, read_recipe(name)[0].source, language) + MORE.get(name, [])
        records, rejected, report = made_by(tmp_path / "out", name, *flags)
    check_accounts(records, rejected, report)
    check_readable(records, name, language)
    assert len(records) >= 2
    n_expected = {"busy": 2, "cut": 2, "hangs up": 2, "broken": 2, "never": 3}
    bodies = Counter(json.dumps(body, sort_keys=True) for body in server.bodies)
    of_prompts = Counter(json.loads(body)["messages"][-1]["content"] for body in bodies)
    for body, n in bodies.items():
        said = json.loads(body)["messages"][-1]["content"]
        if of_prompts[said] == 1:  # the endpoint counts the attempts at a prompt, whatever else is in the body
            assert n == n_expected.get(fault(said), 1)
    expected = {reason for kind, reason in FAULTS.items() if any(shows(said, kind) for said in of_prompts)}
    assert expected <= {line["reason"] for line in rejected}


def test_earlier_turns_stay_in_the_records(tmp_path: Path, inputs: Path) -> None:
    """Answers to a last question are made, judged and written with the conversation before it."""
    turns = [("system", "be kind"), ("user", "first question"), ("assistant", "first answer"), ("user", "and then?")]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("assistant", "a bad second answer")]]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": messages}))
    with faking(model) as server:
        flags = [*flags_of(server, inputs, "", "en"), f"--inputs={tmp_path / 'chats.jsonl'}"]
        pairs, _, _ = made_by(tmp_path / "pairs", "pairs", *flags, "--set={samples: 8, margin: 1}")
        judged = [said for said in server.asked if "strict judge" in said]
        rewritten, _, _ = made_by(tmp_path / "rewritten", "rewrite", *flags)
    assert [message["content"] for message in pairs[0]["prompt"]] == [text for _, text in turns]
    assert judged and all("User: first question\n\nAssistant: first answer" in said for said in judged)
    assert len(rewritten) > 2
    for record in rewritten:
        *before, asked, answer = record["messages"]
        assert before == messages[:3] and asked["content"].startswith("and then?\n") and answer["role"] == "assistant"

"""Bad cases of a harvest through `babyllm synth repair`, and what a turn of the flywheel trains on of them."""

import json
from pathlib import Path

from fake_endpoint import Answer, faking, says
from stored_sessions import answered, rated, records, write_log

from babyllm.__main__ import run
from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.preferences import PreferencePair, to_preference


def test_bad_cases_are_repaired(tmp_path: Path) -> None:
    """Each bad case of a harvest is asked for with its conversation, reason and correction, and becomes a pair."""
    write_log(
        tmp_path / "log",
        answered("a", "What is the capital of France?", "Rome"),
        answered("b", "首都是哪里？", "我不知道", "德国的首都呢？", "巴黎"),
        answered("c", "I want a long story", "Once upon a", finish="length"),
        answered("d", "Who wrote Faust?", "Schiller did"),
        rated("a", -1),
        rated("b", -1),
        rated("d", -1, correction="Goethe, in two parts."),
    )
    run(["harvest", str(tmp_path / "log"), str(tmp_path / "harvested"), "--held_out=0"])
    bad = records(tmp_path / "harvested" / "bad.jsonl")
    assert len(bad) == 4

    def repaired(said: str, n: int) -> Answer:
        return says(json.dumps({"fault": f"it is wrong {len(said)}", "answer": f"a better answer, number {len(said)}"}))

    with faking(repaired) as server:
        flags = [f"--inputs={tmp_path}/harvested/bad.jsonl", f"--endpoint.url={server.url}", "--endpoint.model=m"]
        run(["synth", "repair", str(tmp_path / "repaired"), *flags])
        asked = list(server.asked)
    made = records(tmp_path / "repaired" / "records.jsonl")
    assert not records(tmp_path / "repaired" / "rejected.jsonl") and len(made) == len(asked) == 4
    assert [one["rejected"] for one in made] == [one["messages"][-1]["content"] for one in bad]
    assert [one["parents"] for one in made] == [[one["id"]] for one in bad]
    assert all(isinstance(to_preference(one, FormatConfig(), task="", id=""), PreferencePair) for one in made)
    in_context = next(prompt for prompt in asked if "德国的首都呢？" in prompt)
    assert "首都是哪里？" in in_context and "我不知道" in in_context and "rated bad" in in_context
    assert sum("<correction>\nGoethe, in two parts.\n" in prompt for prompt in asked) == 1
    assert sum("cut at the length limit" in prompt for prompt in asked) == 1
    by_parent = {one["parents"][0]: one["prompt"] for one in made}
    assert by_parent["a#0"] == "What is the capital of France?"
    assert [message["content"] for message in by_parent["b#0"]] == ["首都是哪里？", "我不知道", "德国的首都呢？"]
    for one in made:  # as `babyllm flywheel --repaired` reads them
        chosen = to_conversation(one, FormatConfig(prompt="prompt", answer="chosen"), task="", id="")
        assert chosen.messages[-1].content == one["chosen"]
        assert len(chosen.messages) == (4 if one["parents"] == ["b#0"] else 2)

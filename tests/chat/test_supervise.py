"""What is supervised of a conversation, and what is done with long ones."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_template_fixtures import DIALOGUE, as_dicts, assistant, own, spelled, system, turn_texts, user

from babyllm.chat.load import (
    ChatTemplate,
    Supervise,
    fit,
    load_template,
    split_turns,
)
from babyllm.chat.messages import Conversation, Message
from babyllm.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("supervise", "messages", "expected"),
    [
        (Supervise(), DIALOGUE, ["two#", "four#"]),
        (Supervise("last"), DIALOGUE, ["four#"]),
        (Supervise(prompts=True), DIALOGUE, ["be brief#", "1+1?#", "two#", "and 2+2?#", "four#"]),
        (Supervise("last", prompts=True), DIALOGUE[1:], ["1+1?#", "and 2+2?#", "four#"]),
        (Supervise(prompts=True, weights={"system": 0}), DIALOGUE[:2], ["1+1?#"]),
        (Supervise(weights={"assistant": 0}), DIALOGUE, []),
        (Supervise(weights={"narrator": 1}), (Message("narrator", "dusk"), user("a"), assistant("b")), ["dusk#", "b#"]),
        (Supervise(), (user("a", 1), assistant("b", 0), user("c"), assistant("d")), ["a#", "d#"]),
        (Supervise("last"), (user("a"), assistant("b", 1), user("c"), assistant("d", 0)), ["b#"]),
        (Supervise(), (user("", 1), assistant("")), ["#", "#"]),
    ],
)
def test_what_is_supervised(
    vocabulary: Tokenizer, supervise: Supervise, messages: Sequence[Message], expected: list[str]
) -> None:
    """All answers, the last, prompts, roles and single messages can be chosen; each is a turn with its end token."""
    template = load_template("chatml", vocabulary)
    rendered = template.render(messages, supervise)
    assert turn_texts(rendered, vocabulary) == [text.replace("#", "<|im_end|>") for text in expected]
    assert spelled(rendered.ids, vocabulary) == spelled(template.render(messages).ids, vocabulary)


@pytest.mark.parametrize("name", ["llama2", "alpaca", "plain"])
def test_a_supervised_prompt_without_an_end_token(vocabulary: Tokenizer, name: str) -> None:
    """Where a prompt has no end token its text alone is trained on, of alpaca and llama2 nothing of what is around."""
    template = load_template(name, vocabulary)
    texts = turn_texts(template.render([user("one two"), assistant("A")], Supervise(prompts=True)), vocabulary)
    assert texts == ["one two" + ("<s>" if name == "plain" else ""), " A</s>" if name == "llama2" else "A</s>"]


def test_each_turn_by_itself(vocabulary: Tokenizer, name: str) -> None:
    """Split, each answer ends a conversation with all before it, and together they train on what the whole does."""
    template = load_template(name, vocabulary)
    whole = Conversation((*DIALOGUE, user("?")), "sums", "a.jsonl:1")
    parts = split_turns(whole)
    assert [part.messages[-1].content for part in parts] == ["two", "four"]
    assert {(part.task, part.id) for part in parts} == {("sums", "a.jsonl:1")}
    for supervise in (Supervise(), Supervise(prompts=True)):
        texts = [turn_texts(template.render(part.messages, supervise), vocabulary) for part in parts]
        assert [text for some in texts for text in some] == turn_texts(
            template.render(whole.messages[:5], supervise), vocabulary
        )
    unweighted = replace(whole, messages=(user("a"), assistant("b", 0), user("c"), assistant("d")))
    assert [part.messages[-1].content for part in split_turns(unweighted)] == ["d"]


LONG = Conversation((system("S"), *(m for i in range(6) for m in (user(f"question {i}"), assistant(f"answer {i}")))))


def test_what_fits_stays_whole(vocabulary: Tokenizer, name: str) -> None:
    """A conversation of as many inputs as a row has is whole; one id more is too long."""
    template = load_template(name, vocabulary)
    rendered = template.render(LONG.messages)
    room = len(rendered.ids) - 1
    for too_long in ("drop_oldest", "truncate", "skip"):
        fitted = fit(template, LONG, Supervise(), room, too_long)
        assert fitted.outcome == "whole"
        np.testing.assert_array_equal(fitted.rendered, rendered)
        assert fit(template, LONG, Supervise(), room - 1, too_long).outcome != "whole"
    assert fit(template, LONG, Supervise(), room - 1, "skip") == (None, "skipped")


def test_dropping_the_oldest_turns(vocabulary: Tokenizer, name: str) -> None:
    """As few turns as possible go, never the system message nor a part of a turn; too long a last one is skipped."""
    template = load_template(name, vocabulary)
    kept = [template.render((LONG.messages[0], *LONG.messages[1 + 2 * n :])) for n in range(6)]
    sizes = [len(rendered.ids) - 1 for rendered in kept]
    for room in {1, *sizes, *(size - 1 for size in sizes)}:
        fitted = fit(template, LONG, Supervise(), room, "drop_oldest")
        expected = next((rendered for rendered, size in zip(kept, sizes, strict=True) if size <= room), None)
        if expected is None:
            assert fitted == (None, "skipped")
        else:
            assert fitted.outcome == ("whole" if room == sizes[0] else "dropped")
            np.testing.assert_array_equal(fitted.rendered, expected)


def test_a_call_and_its_result_stay_together(vocabulary: Tokenizer) -> None:
    """No turn begins at a tool's result, so it is never kept without the call before it."""
    template = load_template("chatml", vocabulary)
    messages = (user("a"), assistant("b"), user("c"), assistant("call"), Message("tool", "42"), assistant("d"))
    room = len(template.render(messages[2:]).ids) - 1
    fitted = fit(template, Conversation(messages), Supervise(), room, "drop_oldest")
    assert fitted.rendered is not None
    assert turn_texts(fitted.rendered, vocabulary) == ["call<|im_end|>", "d<|im_end|>"]
    assert fit(template, Conversation(messages), Supervise(), room - 1, "drop_oldest") == (None, "skipped")


def test_truncation_adds_no_end_token(vocabulary: Tokenizer, name: str) -> None:
    """Truncated, the ids are the first of the whole; an answer that is cut has no end token, and no answer: skipped."""
    template = load_template(name, vocabulary)
    whole = template.render(LONG.messages)
    first_target = int(np.flatnonzero(whole.turns)[0])
    for room in (1, first_target - 1, first_target, first_target + 2, len(whole.ids) - 2):
        rendered, outcome = fit(template, LONG, Supervise(), room, "truncate")
        if room < first_target:
            assert rendered is None and outcome == "skipped"
        else:
            assert rendered is not None and outcome == "truncated"
            np.testing.assert_array_equal(rendered, [whole.ids[: room + 1], whole.turns[: room + 1]])


def test_a_conversation_with_nothing_to_train_on_is_skipped(vocabulary: Tokenizer, name: str) -> None:
    """Without a supervised id that can be a target a conversation is skipped, be it ever so short."""
    template = load_template(name, vocabulary)
    unanswered = Conversation((user("hello"),))
    assert fit(template, unanswered, Supervise(), 1000, "drop_oldest") == (None, "skipped")
    assert fit(template, replace(LONG, messages=DIALOGUE), Supervise(weights={"assistant": 0}), 1000, "skip") == (
        None,
        "skipped",
    )
    if name == "plain":
        one = fit(template, Conversation((user("9"),)), Supervise(prompts=True), 1000, "skip")
        assert one == (None, "skipped")  # its only id has none before it


CLOCK = """{% set seen = namespace(n=0) %}{{ strftime_now('%H:%M:%S') }}{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}
{% set seen.n = seen.n + 1 %}{{ {'é<': [seen.n, none]} | tojson }}
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% endfor %}"""


def test_the_language_of_transformers(vocabulary: Tokenizer, theirs: Any, tmp_path: Path) -> None:
    """Templates may use what transformers offers them: loop controls, JSON without escapes, the clock of the moment."""
    template = load_template(own(tmp_path, CLOCK), vocabulary)
    texts = []
    for _ in range(2):
        time.sleep(1.3 - time.time() % 1)  # away from the border between two seconds
        texts.append(spelled(template.render(DIALOGUE).ids, vocabulary))
        assert texts[-1] == theirs.apply_chat_template(as_dicts(DIALOGUE), chat_template=CLOCK, tokenize=False)
    assert texts[0] != texts[1]


def test_many_tokens_of_one_name(vocabulary: Tokenizer) -> None:
    """Of special tokens that begin alike the longest is meant."""
    longer = vocabulary.extended(["<|im_end|>\n"])
    template = ChatTemplate(load_template("chatml", vocabulary).source, longer)
    assert template.end_ids == [vocabulary.special["<|im_end|>"], vocabulary.eos_id]
    ids = template.render([user("a"), assistant("b")]).ids.tolist()
    assert ids.count(vocabulary.special["<|im_end|>"]) == 1 and ids.count(longer.special["<|im_end|>\n"]) == 1

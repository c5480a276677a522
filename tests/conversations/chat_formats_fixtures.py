"""What tests of chat formats share."""

import json
from typing import Any

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.messages import Conversation

AUTO = FormatConfig()


TALK = [("user", "在吗？"), ("assistant", "在。"), ("user", "几点了"), ("assistant", " 三点。\n")]


def said(record: dict[str, Any], config: FormatConfig = AUTO) -> list[tuple[str, str]]:
    """(role, content) of the messages of a record."""
    return [(m.role, m.content) for m in to_conversation(record, config, task="file", id="a:0").messages]


def messages(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def sharegpt(*turns: tuple[str, str]) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names.get(role, role), "value": content} for role, content in turns]}


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


# ---- formats

FORMATS: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("alpaca", {"instruction": "q", "input": "", "output": " a\n"}, [("user", "q"), ("assistant", " a\n")]),
    ("alpaca", {"instruction": "q ", "input": " x", "output": "a"}, [("user", "q \n x"), ("assistant", "a")]),
    ("alpaca", {"instruction": "q", "input": None, "output": "a"}, [("user", "q"), ("assistant", "a")]),
    ("alpaca", {"instruction": "", "input": "x", "output": "a"}, [("user", "x"), ("assistant", "a")]),
    (
        "alpaca",
        {"instruction": "q", "output": "a", "history": [["q0", "a0"]], "system": "s"},
        [("system", "s"), ("user", "q0"), ("assistant", "a0"), ("user", "q"), ("assistant", "a")],
    ),
    *(
        (
            "alpaca",
            {"instruction": "q", "input": i, "context": "c", "output": "a"},
            [("user", "q\nc"), ("assistant", "a")],
        )
        for i in ("", " ", None)
    ),
    ("alpaca", {"instruction": "q", "context": "c", "response": "a"}, [("user", "q\nc"), ("assistant", "a")]),
    ("sharegpt", sharegpt(*TALK), TALK),
    ("sharegpt", {"system": "s", **sharegpt(*TALK)}, [("system", "s"), *TALK]),
    ("sharegpt", {"conversation": sharegpt(*TALK)["conversations"], "system": ""}, TALK),
    ("sharegpt", {"conversations": json.dumps(sharegpt(*TALK)["conversations"])}, TALK),
    ("sharegpt", {"conversation": [{"human": "q", "assistant": "a"}]}, [("user", "q"), ("assistant", "a")]),
    ("sharegpt", {"conversation": [{"assistant": "a", "human": "q"}]}, [("user", "q"), ("assistant", "a")]),
    ("messages", messages(("system", "s"), *TALK), [("system", "s"), *TALK]),
    ("messages", {"conversations": messages(*TALK)["messages"]}, TALK),
    ("messages", {"prompt": "not this", **messages(*TALK)}, TALK),
    ("firefly", {"kind": "NLI", "input": "q", "target": "a"}, [("user", "q"), ("assistant", "a")]),
    ("prompt", {"prompt": "q", "completion": "a"}, [("user", "q"), ("assistant", "a")]),
    ("prompt", {"prompt": "q", "response": "a", "system": "s"}, [("system", "s"), ("user", "q"), ("assistant", "a")]),
    ("prompt", {"question": "q", "answer": "a", "text": "t"}, [("user", "q"), ("assistant", "a")]),
    ("prompt", {"query": "q", "response": "a"}, [("user", "q"), ("assistant", "a")]),
    ("prompt", {"input": "q", "output": "a"}, [("user", "q"), ("assistant", "a")]),
    ("prompt", {"问": "q", "答": "a"}, [("user", "q"), ("assistant", "a")]),
    (
        "prompt",
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        [("user", "q"), ("assistant", "a")],
    ),
]

"""Ratings that the server stores."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from model_fixtures import Tiny
from serve_fixtures import (
    load_of,
    serving,
    talkative,
)

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import ASSISTANT, USER, Conversation, Message
from babyllm.chat.reading import read_conversations
from babyllm.chat.supervise import Supervise
from babyllm.errors import UserError
from babyllm.serve.api.feedback.feedback_file import FeedbackFile
from babyllm.text.readers import Rejected


def test_feedback_is_training_data(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """Praise is read as a conversation whose last answer is trained on; blame is kept, but not as a conversation."""
    file = tmp_path / "ratings.jsonl"
    file.write_text('{"messages": [{"role"')  # what a crash left
    chat = [("system", "s"), ("user", "今天\u2028"), ("assistant", "😀"), ("user", "y"), ("assistant", "天气\n很好")]
    messages = [{"role": role, "content": content} for role, content in chat]
    with serving(load_of(talkative(tiny()), template.tokenizer, template), feedback=file) as server:
        assert server.get("/v1/models").json()["babyllm"]["feedback"] is True
        for rating in (1, -1):
            assert server.post("/v1/feedback", {"messages": messages, "rating": rating}).status_code == 200
        for wrong in (
            {"messages": messages, "rating": 0},
            {"messages": messages, "rating": True},
            {"messages": messages[:-1], "rating": 1},
            {"messages": [], "rating": 1},
            {"messages": messages, "rating": 1, "path": "/etc/passwd"},
        ):
            assert server.post("/v1/feedback", wrong).status_code == 400
    lines = [json.loads(line) for line in file.read_text("utf-8").split("\n")[1:-1]]
    assert [line["rating"] for line in lines] == [1, -1] and all("time" in line for line in lines)
    found = list(read_conversations(file, FormatConfig()))
    praised = [item for item in found if isinstance(item, Conversation)]
    assert len(praised) == 1 and [(m.role, m.content) for m in praised[0].messages] == chat
    rendered = template.render(praised[0].messages, Supervise())
    assert template.tokenizer.decode(rendered.ids[rendered.turns > 0].tolist()) == "天气\n很好"
    blamed = [item for item in found if isinstance(item, Rejected)]
    assert len(blamed) == 2 and "preferences" in blamed[1].reason


def test_ratings_from_many_threads_are_whole_lines(tmp_path: Path) -> None:
    """Ratings that come at once do not mix; a file that cannot be written is refused at the door."""
    file = FeedbackFile(tmp_path / "ratings.jsonl")
    texts = [chr(0x4E00 + i) * 5000 for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: file.add([Message(USER, "x"), Message(ASSISTANT, text)], 1), texts))
    file.close()
    lines = (tmp_path / "ratings.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["messages"][1]["content"] for line in lines} == set(texts) and len(lines) == 20
    with pytest.raises(UserError, match=r"--feedback=.*cannot be written"):
        FeedbackFile(tmp_path / "absent" / "ratings.jsonl")

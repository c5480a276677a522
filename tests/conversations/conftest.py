"""What tests of this folder share."""

import json
import random
from pathlib import Path

import pytest
from conversations_fixtures import SEQ_LEN, chats, prepare, text, write_jsonl

from babyllm.chat.load import (
    ChatTemplate,
    load_template,
)
from babyllm.store.conversations import ConversationStore
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chats, a line that is not JSON, a record without an answer, one far too long, and instructions."""
    folder = tmp_path_factory.mktemp("files")
    records = [*chats(60, 1), '{"messages": ', {"messages": [{"role": "user", "content": "在吗"}]}, *chats(20, 2)]
    endless = [{"role": "user", "content": "书"}, {"role": "assistant", "content": "好" * 5 * SEQ_LEN}]
    write_jsonl(folder / "chats.jsonl", [*records, {"messages": endless, "task": "闲聊"}, *chats(20, 3)])
    rng = random.Random(4)
    alpaca = [{"instruction": text(rng), "input": "", "output": text(rng)} for _ in range(30)]
    (folder / "alpaca.json").write_text(json.dumps(alpaca, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, files: Path, template: ChatTemplate) -> ConversationStore:
    directory = tmp_path_factory.mktemp("store")
    assert prepare(files, directory, template) is not None
    return ConversationStore.open(directory)

"""What tests of conversations share."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations

SEQ_LEN, HELD_OUT = 96, 0.2


ONE = WorkConfig(workers=1)


def text(rng: random.Random) -> str:
    return "".join(rng.choices("今天气很好我们去公园看书 the model 123<|im_end|>\n", k=rng.randint(1, 25))) + "。"


def chats(n: int, seed: int) -> list[dict[str, Any]]:
    """Records of one to four turns, some of them too long for `SEQ_LEN`."""
    rng = random.Random(seed)
    records = []
    for i in range(n):
        messages = [{"role": "system", "content": text(rng)}] if rng.random() < 0.3 else []
        for _ in range(rng.randint(1, 4)):
            messages.append({"role": "user", "content": text(rng)})
            messages.append({"role": "assistant", "content": text(rng)})
        if rng.random() < 0.2:
            messages[-1]["weight"] = 0 if len(messages) > 3 else 1  # type: ignore[assignment]
        records.append({"messages": messages, "task": rng.choice(["闲聊", "questions"]), "number": i})
    return records


def write_jsonl(file: Path, records: Sequence[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def prepare(files: Path, directory: Path, template: ChatTemplate, **options: Any) -> dict[str, Any] | None:
    settings: dict[str, Any] = {"seq_len": SEQ_LEN, "supervise": Supervise(), "held_out": HELD_OUT, "work": ONE}
    return prepare_conversations([files], directory, template, FormatConfig(), **settings | options)

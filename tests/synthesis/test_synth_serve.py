"""`babyllm synth` with a model that `babyllm serve` serves."""

from collections.abc import Callable
from pathlib import Path

import torch
from model_fixtures import chain
from serve_fixtures import NAME, chatml, load_of, serving
from synthesis_fixtures import made_by

from babyllm.model.config import ModelConfig
from babyllm.tokenizer import Tokenizer

RECIPE = """
about: answers with scores
source: prompts
steps:
- {name: messages, do: start_messages}
- {name: answers, history: true, into: answer, append: assistant}
- {name: scores, ask: "Score: {answer}", reply: {score: score}}
record: {messages: "{messages}", fields: {score: "{score}"}}
"""


def test_the_own_server_answers_in_the_form_that_is_wanted(
    tmp_path: Path, tiny: Callable[..., ModelConfig], tokenizer: Tokenizer
) -> None:
    """A served model that always says the same answers; held to a schema, even it writes JSON with a score."""
    torch.set_num_threads(1)
    said = [*tokenizer.encode("好的"), tokenizer.special["<|im_end|>"]]
    model = chain(tiny(max_seq_len=4000, n_layers=1, tie_embeddings=False), said)
    (tmp_path / "in.jsonl").write_text('{"prompt": "今天天气怎么样？"}\n{"prompt": "Why?"}')
    (tmp_path / "mine.yaml").write_text(RECIPE)
    with serving(load_of(model, tokenizer, chatml(tokenizer))) as server:
        flags = [f"--inputs={tmp_path}/in.jsonl", "--structured", "--endpoint.max_tokens=200"]
        flags += [f"--endpoint.url={server.url}/v1", f"--endpoint.model={NAME}", "--endpoint.seed=1"]
        records, rejected, _ = made_by(tmp_path / "out", str(tmp_path / "mine.yaml"), *flags)
    assert not rejected and [record["messages"][1]["content"] for record in records] == ["好的", "好的"]
    assert all(record["score"] in range(1, 11) and record["model"] == NAME for record in records)

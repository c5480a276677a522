"""Texts and conversations as token ids, and back."""

from typing import Any

import pytest
from serve_fixtures import COMPLETE, NAME, Server, asking

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import ASSISTANT, USER, Message
from babyllm.tokenizer import Tokenizer


def tokens(server: Server, **body: Any) -> list[int]:
    answer = server.post("/tokenize", body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["count"] == len(told["tokens"]) and told["max_model_len"] == 256
    return told["tokens"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("text", ["今天 the model", "", "<|im_end|>龘"])
def test_a_text_has_the_ids_that_a_completion_reads(server: Server, tokenizer: Tokenizer, text: str) -> None:
    """With the token before every document, unless it is left out; the way back returns the text."""
    plain = tokens(server, prompt=text, add_special_tokens=False)
    assert plain == tokenizer.encode(text)
    ids = tokens(server, prompt=text, model=NAME)
    assert ids == [tokenizer.begin_id, *plain]
    answer = server.post(COMPLETE, {"prompt": text, "max_tokens": 0, "echo": True}).json()
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert server.post("/detokenize", {"tokens": plain}).json() == {"prompt": text}
    strings = server.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()["token_strs"]
    assert len(strings) == len(ids) and strings[0] in tokenizer.special


def test_a_conversation_has_the_ids_that_a_chat_reads(server: Server, template: ChatTemplate) -> None:
    """With and without the header of an answer, and up to the end of one that is continued."""
    asked = [Message(USER, "今天"), Message(ASSISTANT, "the")]
    messages = [{"role": message.role, "content": message.content} for message in asked]
    assert tokens(server, messages=messages) == template.prompt(asked)
    assert tokens(server, messages=messages, add_generation_prompt=False) == template.transcript(asked)
    opened = tokens(server, messages=messages, continue_final_message=True, add_special_tokens=False)
    assert opened == template.transcript(asked, is_open=True)
    names = server.post("/detokenize", {"tokens": template.prompt(asked)}).json()["prompt"]
    assert names.startswith("<|im_start|>user\n今天<|im_end|>")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, ""),
        ("/tokenize", {"prompt": "x", **asking("x")}, None),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": asking("x")["messages"], "add_special_tokens": True}, ""),
        ("/detokenize", {"tokens": [400]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "other"}, "model"),
    ],
)
def test_what_is_no_text(server: Server, path: str, body: dict[str, Any], param: str | None) -> None:
    """Mistakes are refused by name."""
    refused = server.post(path, body)
    assert refused.status_code in (400, 404)
    if param is not None:
        assert (refused.json()["error"]["param"] or "") == param

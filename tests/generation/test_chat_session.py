"""A chat that goes on: what joins it, and what does not."""

import pytest
import torch
from model_fixtures import Tiny

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.errors import UserError
from babyllm.generation import Engine, Sampling
from babyllm.generation.chat_session import ChatSession
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture
def model(tiny: Tiny) -> Transformer:
    torch.manual_seed(3)
    return Transformer(tiny(max_seq_len=200)).eval()


@pytest.fixture
def chat(model: Transformer, template: ChatTemplate) -> ChatSession:
    """A chat with a random model, whose answers are of eight tokens."""
    return ChatSession(Engine(model, slots=1), template, Sampling(max_new_tokens=8, temperature=1.5, seed=1))


def test_what_is_said_joins_the_chat(chat: ChatSession) -> None:
    """Messages and answers stand in turn; another answer replaces the last one; a reset keeps the system message."""
    chat.set_system("小说")
    first, second = chat.say("今天"), chat.say("公园")
    assert [message["content"] for message in chat.messages] == ["今天", first, "公园", second]
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    other = "".join(chat.retry())
    assert other != second and [message["content"] for message in chat.messages][-2:] == ["公园", other]
    chat.reset()
    assert chat.messages == [] and chat.session.system == "小说"


def test_an_answer_that_is_cut_short_stays(chat: ChatSession) -> None:
    """Of an answer that nobody reads to its end, what was read is part of the chat, which goes on."""
    answer = chat.stream("今天")
    begun = next(answer)
    answer.close()
    assert [message["content"] for message in chat.messages] == ["今天", begun]
    assert chat.say("公园") and len(chat.messages) == 4


def test_what_fails_is_not_part_of_the_chat(chat: ChatSession, model: Transformer) -> None:
    """A message too long for the context, scores that are not numbers, a retry of nothing: the chat stays as it was."""
    with pytest.raises(UserError, match="no answer to give again"):
        chat.retry()
    before = chat.say("今天")
    with pytest.raises(UserError, match="say it in fewer words"):
        chat.say("今天" * 200)
    assert [message["content"] for message in chat.messages] == ["今天", before]
    with torch.no_grad():
        model.embed_tokens.weight.fill_(torch.nan)
    broken = ChatSession(Engine(model, slots=1), chat.template, chat.sampling, chat.session)
    with pytest.raises(UserError, match="not numbers"):
        broken.say("公园")
    assert broken.messages == chat.messages

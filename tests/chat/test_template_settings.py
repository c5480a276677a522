"""What a template gets beside contents: Alpaca's inputs, a default system message, special tokens in contents."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import Message
from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer

NAMES = ("chatml", "llama3", "llama2", "alpaca", "plain")
ASKED, ANSWERED = Message("user", "q"), Message("assistant", "a")
SYSTEM = 'say "no" \\ {{ x }} {% y %} 你好😀\nnow'


def spelled(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    names = {i: name.encode() for name, i in tokenizer.special.items()}
    return b"".join(names.get(int(i), tokenizer.token_bytes(int(i))) for i in ids).decode()


def text_of(template: ChatTemplate, *messages: Message) -> str:
    return spelled(template.render(messages).ids, template.tokenizer)


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same vocabulary in transformers."""
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("vocabulary")
    tokenizer.save(directory)
    return transformers.AutoTokenizer.from_pretrained(directory)


# ---- Alpaca's two texts

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Response:"
)


@pytest.mark.parametrize(("input", "prompt"), [("1 and 2", WITH_INPUT), ("", WITHOUT_INPUT)])
def test_alpaca_texts_are_the_published_ones(tokenizer: Tokenizer, theirs: Any, input: str, prompt: str) -> None:
    """A record with an input and one without give the prompts of Stanford Alpaca, character for character."""
    template = load_template("alpaca", tokenizer)
    record = {"instruction": "Add.", "input": input, "output": "3"}
    messages = to_conversation(record, FormatConfig(), task="", id="").messages
    ids, turns = template.render(messages)
    assert spelled(ids, tokenizer) == f"{prompt}3</s>"
    assert spelled(ids[turns > 0], tokenizer) == "3</s>"
    assert template.prompt(messages[:1]) == ids[turns == 0].tolist()
    fields = {"input": input} if input else {}
    text = theirs.apply_chat_template(
        [{"role": "user", "content": "Add.", **fields}],
        chat_template=template.source,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == prompt


def test_other_templates_have_an_input_below_the_instruction(tokenizer: Tokenizer) -> None:
    """Where a template has no place for inputs, they are the end of the question."""
    record = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    messages = to_conversation(record, FormatConfig(), task="", id="").messages
    assert text_of(load_template("plain", tokenizer), *messages) == "Add.\n1 and 2<s>3</s>"


# ---- a default system message


@pytest.mark.parametrize("name", NAMES)
def test_a_default_system_message(tokenizer: Tokenizer, theirs: Any, name: str) -> None:
    """A conversation without a system message is rendered as if it had the default one, by transformers too."""
    bare, template = load_template(name, tokenizer), load_template(name, tokenizer, default_system=SYSTEM)
    own = (Message("system", "own"), ASKED, ANSWERED)
    for messages in ((ASKED, ANSWERED), own, (ASKED, ANSWERED, ASKED, ANSWERED)):
        full = messages if messages is own else (Message("system", SYSTEM), *messages)
        assert template.render(messages).ids.tolist() == bare.render(full).ids.tolist()
        assert template.render(messages).turns.tolist() == bare.render(full).turns.tolist()
        text = theirs.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages], chat_template=template.source, tokenize=False
        )
        assert text == text_of(template, *messages)
    assert template.prompt([ASKED]) == bare.prompt([Message("system", SYSTEM), ASKED])


def test_a_stored_default_system_message_stays(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """It is stored with the template, stays where nothing is said, and can be replaced and taken away."""
    stored = load_template("chatml", tokenizer, default_system=SYSTEM)
    stored.tokenizer.save(tmp_path, chat_template=stored.source)

    def again(**settings: Any) -> str:
        return load_template(None, Tokenizer.load(tmp_path), tmp_path, **settings).source

    assert again() == stored.source
    assert again(default_system="new") == load_template("chatml", tokenizer, default_system="new").source
    assert again(default_system="") == load_template("chatml", tokenizer).source
    both = load_template("chatml", tokenizer, efficient_eos=True, default_system=SYSTEM)
    assert again(efficient_eos=True) == both.source
    foreign = load_template("chatml", tokenizer).source.replace("'\\n' }}", "'\\n\\n' }}")
    tokenizer.save(tmp_path, chat_template=foreign)
    with pytest.raises(UserError, match="default_system is for built-in templates"):
        again(default_system="new")
    with pytest.raises(UserError, match=r"default_system: <\|im_end\|> in it would be a special token"):
        load_template("chatml", tokenizer, default_system="a<|im_end|>")


# ---- special tokens in contents


def test_special_tokens_in_contents_are_allowed_by_name(tokenizer: Tokenizer) -> None:
    """A marker that is allowed is one id wherever a content holds it, and trained on in answers; others stay text."""
    answer = Message("assistant", "<think>hm</think>a<|im_end|>")
    plain = load_template("chatml", tokenizer)
    template = load_template("chatml", tokenizer, allow_special=["<think>", "</think>"])
    special = template.tokenizer.special
    assert template.tokenizer.vocab_size == plain.tokenizer.vocab_size + 2
    ids, turns = template.render([Message("user", "<think>"), answer])
    assert text_of(template, Message("user", "<think>"), answer) == text_of(plain, Message("user", "<think>"), answer)
    assert [ids.tolist().count(special[name]) for name in ("<think>", "</think>", "<|im_end|>")] == [2, 1, 2]
    assert spelled(ids[turns == 1], template.tokenizer) == "<think>hm</think>a<|im_end|><|im_end|>"
    assert {special["<think>"], special["</think>"]} <= set(template.special_ids())
    thought = Message("assistant", "a", reasoning="hm")
    assert special["<think>"] in template.render([ASKED, thought]).ids.tolist()
    assert (
        plain.render([ASKED, answer]).ids.tolist()
        == load_template("chatml", tokenizer).render([ASKED, answer]).ids.tolist()
    )


def test_a_stored_template_can_allow_special_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A template that is read later allows what its vocabulary has, and refuses by name what it has not."""
    made = load_template("chatml", tokenizer, allow_special=["<think>"])
    made.tokenizer.save(tmp_path, chat_template=made.source)
    stored = load_template(None, Tokenizer.load(tmp_path), tmp_path)
    answer = Message("assistant", "<think>a")
    assert stored.render([ASKED, answer]).ids.tolist() != made.render([ASKED, answer]).ids.tolist()
    allowing = stored.allowing(["<think>"])
    assert allowing.render([ASKED, answer]).ids.tolist() == made.render([ASKED, answer]).ids.tolist()
    with pytest.raises(UserError, match="allow_special: '<tool>' is not a special token"):
        stored.allowing(["<tool>"])

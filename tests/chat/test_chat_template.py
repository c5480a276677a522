"""Chat templates: what is trained on, equality with transformers, stored and foreign templates."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_template_fixtures import (
    DIALOGUE,
    WORDS,
    as_dicts,
    assistant,
    corpus,
    own,
    spelled,
    system,
    turn_texts,
    user,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from babyllm.chat.load import (
    Supervise,
    load_template,
    stored_template,
)
from babyllm.chat.messages import Message, Unusable
from babyllm.errors import UserError
from babyllm.tokenizer import Tokenizer

ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}  # </s> for the others


MARKERS = [
    *("<|im_start|>", "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n", "<|eot_id|>", "<|start_header_id|>", "<s>"),
    *("</s>", "[INST]", " [/INST]", "<<SYS>>\n", "\n<</SYS>>\n\n", "### Response:\n", "### Instruction:", "\n\n"),
    *("{{", "}}", "{{ eos_token }}", "{% generation %}", "{% endgeneration %}", "{#", "\U0010fffc", "\U0010fffd"),
    *("\U00100000", "\U00100001", "\ue000", "\U000f0000", "\n", "\r\n", " ", "\t", "\0", "\x85", "<unk>", "<pad>"),
]


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="▁")


ANY_TEXT = st.lists(st.sampled_from([*MARKERS, *WORDS]) | st.text(CHARACTERS, max_size=8), max_size=6).map("".join)


PLAIN_TEXT = st.lists(st.sampled_from(WORDS) | st.just("\nline"), max_size=6).map("".join)


PLAIN_ANSWER = st.lists(st.sampled_from(WORDS), max_size=6).map("".join)  # no line break that joins the header's


@st.composite
def conversations(
    draw: st.DrawFn, name: str, texts: st.SearchStrategy[str], answers: st.SearchStrategy[str]
) -> list[Message]:
    """Messages that the template accepts: with any roles, or for llama2 user and assistant in turn."""
    if name == "llama2":
        n = draw(st.integers(1, 5))
        roles = draw(st.sampled_from([[], ["system"]])) + [("user", "assistant")[i % 2] for i in range(n)]
    else:
        roles = draw(
            st.lists(st.sampled_from(["system", "user", "assistant", "tool", "narrator"]), min_size=1, max_size=5)
        )
    return [Message(role, draw(answers if role == "assistant" else texts)) for role in roles]


@pytest.mark.parametrize("efficient_eos", [False, True])
def test_the_targets_are_what_the_assistant_says(vocabulary: Tokenizer, name: str, efficient_eos: bool) -> None:
    """Decoded, each supervised turn is an answer and its end token, whatever markers anybody types."""
    template = load_template(name, vocabulary, efficient_eos=efficient_eos)
    end = template.tokenizer.special[ENDS.get(name, "</s>")]
    special = set(template.tokenizer.special.values())

    @settings(max_examples=25)
    @example([user("<|im_end|>\n<|im_start|>assistant\nhi</s>"), assistant("")])
    @given(conversations(name, ANY_TEXT, ANY_TEXT))
    def holds(messages: list[Message]) -> None:
        ids, turns = template.render(messages)
        answers = [message.content for message in messages if message.role == "assistant"]
        assert ids.dtype == turns.dtype == np.int32 and turns.max(initial=0) == len(answers)
        for number, answer in enumerate(answers, 1):
            mine = ids[turns == number].tolist()
            assert mine[-1] == end and not special & set(mine[:-1])
            raw = b"".join(map(template.tokenizer.token_bytes, mine))
            assert raw.decode() == (" " if name == "llama2" else "") + answer
            assert np.ptp(np.flatnonzero(turns == number)) == len(mine) - 1

    holds()


@pytest.mark.parametrize("efficient_eos", [False, True])
def test_the_text_is_that_of_transformers(vocabulary: Tokenizer, theirs: Any, name: str, efficient_eos: bool) -> None:
    """Spelled out, a rendering is what transformers renders from the stored template, markers or not."""
    template = load_template(name, vocabulary, efficient_eos=efficient_eos)

    @settings(max_examples=15)
    @given(conversations(name, ANY_TEXT, ANY_TEXT), st.booleans())
    def holds(messages: list[Message], is_prompt: bool) -> None:
        ids = template.prompt(messages) if is_prompt else template.render(messages).ids.tolist()
        text = theirs.apply_chat_template(
            as_dicts(messages), chat_template=template.source, tokenize=False, add_generation_prompt=is_prompt
        )
        assert spelled(ids, template.tokenizer) == text

    holds()


@pytest.mark.parametrize("name", ["chatml", "llama3"])
@pytest.mark.parametrize("efficient_eos", [False, True])
def test_ids_and_mask_are_those_of_transformers(
    vocabulary: Tokenizer, theirs: Any, name: str, efficient_eos: bool
) -> None:
    """Where special tokens border the messages, ids and mask equal transformers' for texts without markers."""
    template = load_template(name, vocabulary, efficient_eos=efficient_eos)

    @settings(max_examples=25)
    @given(conversations(name, PLAIN_TEXT, PLAIN_ANSWER))
    def holds(messages: list[Message]) -> None:
        ids, turns = template.render(messages)
        encoded = theirs.apply_chat_template(
            as_dicts(messages),
            chat_template=template.source,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert ids.tolist() == encoded["input_ids"]
        assert (turns > 0).astype(int).tolist() == encoded["assistant_masks"]

    holds()


def test_a_prompt_is_what_stands_before_the_answer(vocabulary: Tokenizer, name: str) -> None:
    """The prompt of a history is, id by id, the beginning of what is trained on, up to the answer's first target."""
    template = load_template(name, vocabulary)

    @settings(max_examples=15)
    @example("a", "\nb", "c", "\nd")  # whose line break would join the header's
    @given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
    def holds(first: str, answer: str, second: str, last: str) -> None:
        messages = [user(first), assistant(answer), user(second), assistant(last)]
        ids, turns = template.render(messages)
        prompt = template.prompt(messages[:3])
        assert prompt == ids[: np.flatnonzero(turns == 2)[0]].tolist()
        assert prompt == template.render(messages, Supervise("last")).ids[: len(prompt)].tolist()

    holds()


@pytest.mark.parametrize(
    ("name", "efficient_eos", "text"),
    [
        ("chatml", False, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA"
         "<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"),
        ("chatml", True, "<|im_start|>system\nS<|im_end|><|im_start|>user\nU<|im_end|><|im_start|>assistant\nA"
         "<|im_end|><|im_start|>user\nV<|im_end|><|im_start|>assistant\nB<|im_end|>"),
        ("llama3", False, "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user"
         "<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
         "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nB"
         "<|eot_id|>"),
        ("llama2", False, "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A</s><s>[INST] V [/INST] B</s>"),
        ("llama2", True, "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A</s>[INST] V [/INST] B</s>"),
        ("alpaca", False, "S\n\n### Instruction:\nU\n\n### Response:A</s>\n\n### Instruction:\nV\n\n### Response:B"
         "</s>"),
        ("alpaca", True, "S\n\n### Instruction:\nU\n\n### Response:A</s>### Instruction:\nV\n\n### Response:B</s>"),
        ("plain", False, "S\nU<s>A</s>V<s>B</s>"),
    ],
)  # fmt: skip
def test_what_the_templates_look_like(vocabulary: Tokenizer, name: str, efficient_eos: bool, text: str) -> None:
    """Each template spells a conversation out as its format has it, with one bos where a document begins."""
    template = load_template(name, vocabulary, efficient_eos=efficient_eos)
    messages = [system("S"), user("U"), assistant("A"), user("V"), assistant("B")]
    rendered = template.render(messages)
    assert spelled(rendered.ids, template.tokenizer) == text
    end = ENDS.get(name, "</s>")
    assert [t.lstrip(" ") for t in turn_texts(rendered, template.tokenizer)] == [f"A{end}", f"B{end}"]
    assert template.end_ids == list(dict.fromkeys([template.tokenizer.special[end], template.tokenizer.eos_id]))


def test_a_template_is_stored_with_the_tokenizer(vocabulary: Tokenizer, name: str, tmp_path: Path, theirs: Any) -> None:
    """What is stored is what transformers reads, and loading it again makes the same ids; chatml where none is."""
    template = load_template(name, vocabulary, efficient_eos=True)
    template.tokenizer.save(tmp_path, chat_template=template.source)
    assert type(theirs).from_pretrained(tmp_path).chat_template == template.source == stored_template(tmp_path)
    again = load_template(None, Tokenizer.load(tmp_path), tmp_path)
    assert again.source == template.source and again.end_ids == template.end_ids
    np.testing.assert_array_equal(again.render(DIALOGUE), template.render(DIALOGUE))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(template)).render(DIALOGUE), template.render(DIALOGUE))
    (tmp_path / "bare").mkdir()
    assert load_template(None, vocabulary, tmp_path / "bare").source == load_template("chatml", vocabulary).source


def test_a_stored_built_in_template_can_be_made_efficient(vocabulary: Tokenizer, tmp_path: Path) -> None:
    """With efficient_eos a stored built-in template is replaced by its variant; one of the user's own is refused."""
    vocabulary.save(tmp_path, chat_template=load_template("llama2", vocabulary).source)
    efficient = load_template("llama2", vocabulary, efficient_eos=True)
    assert load_template(None, vocabulary, tmp_path, efficient_eos=True).source == efficient.source
    vocabulary.save(tmp_path, chat_template=OWN)
    with pytest.raises(UserError, match="efficient_eos is for built-in templates"):
        load_template(None, vocabulary, tmp_path, efficient_eos=True)


OWN = """{{ bos_token }}{% for m in messages %}
{% if m.role == 'assistant' %}
<|bot|>{% generation %}
{{ m.content }}<|done|>
{% endgeneration %}
{% else %}
<|{{ m.role }}|>{{ m.content }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|bot|>{% endif %}"""


def test_a_template_of_ones_own(vocabulary: Tokenizer, tmp_path: Path) -> None:
    """A Jinja file brings its tokens, which are appended; what is in its tag is trained on, end token and all."""
    template = load_template(own(tmp_path, OWN), vocabulary)
    added = {name: template.tokenizer.special[name] for name in ("<|bot|>", "<|done|>")}
    assert sorted(added.values()) == [vocabulary.vocab_size, vocabulary.vocab_size + 1]
    ids, turns = template.render([user("hi <|bot|>"), assistant("yes <|done|>")])
    assert spelled(ids, template.tokenizer) == "<s><|user|>hi <|bot|>\n<|bot|>yes <|done|><|done|>\n"
    assert spelled(ids[turns == 1], template.tokenizer) == "yes <|done|><|done|>\n"
    assert (ids == added["<|done|>"]).sum() == 1 and (ids == added["<|bot|>"]).sum() == 1
    assert template.end_ids == [added["<|done|>"], vocabulary.eos_id]
    assert template.prompt([user("hi")])[-1] == added["<|bot|>"]


def test_a_foreign_vocabulary_is_extended(tmp_path: Path) -> None:
    """Where a vocabulary lacks a built-in's tokens they are appended, and every other id stays."""
    vocabulary = Tokenizer.train(corpus(), 330, model_type="byte_bpe")
    template = load_template("llama3", vocabulary)
    assert template.tokenizer.vocab_size == vocabulary.vocab_size + 3
    text = "今天 the model"
    assert template.tokenizer.encode(text) == vocabulary.encode(text)
    assert vocabulary.special.items() < template.tokenizer.special.items()
    template.tokenizer.save(tmp_path, chat_template=template.source)
    assert load_template(None, Tokenizer.load(tmp_path), tmp_path).end_ids == template.end_ids


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "has no {% generation %}"),
        ("{# {% generation %} #}{{ messages[1].content }}", "has no {% generation %}"),
        ("\n\n{% for %}", "line 3"),
        ("{% generation %}{{ raise_exception('not today') }}{% endgeneration %}", "not today"),
        ("{% generation %}{% endgeneration %}{{ messages[1].content }}", "does not hold what the assistant says"),
        ("{% generation %}\U0010fffc{% endgeneration %}", "private-use"),
    ],
)
def test_templates_that_cannot_be_used(vocabulary: Tokenizer, tmp_path: Path, text: str, reason: str) -> None:
    """A template without marks, with a mistake or that refuses an exchange is an error with name and reason."""
    path = own(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_template(path, vocabulary)
    assert path in str(error.value) and reason in str(error.value) and "\n" not in str(error.value)


def test_names_and_flags_that_cannot_be_used(vocabulary: Tokenizer, tmp_path: Path) -> None:
    """The error of an unknown name lists the known ones; efficient_eos needs a built-in one; plain needs a bos."""
    with pytest.raises(UserError, match="no chat template 'chatlm': give chatml, llama3"):
        load_template("chatlm", vocabulary)
    with pytest.raises(UserError, match="efficient_eos is for built-in templates"):
        load_template(own(tmp_path, OWN), vocabulary, efficient_eos=True)
    vocabulary.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": None}), encoding="utf-8")
    with pytest.raises(UserError, match=r"template plain: .*bos token"):
        load_template("plain", Tokenizer.load(tmp_path))


def test_a_stored_template_without_marks_serves_to_chat(vocabulary: Tokenizer, tmp_path: Path) -> None:
    """A model's stored template without the tag makes prompts and end ids, and is refused for training alone."""
    unmarked = "".join(
        part for part in load_template("chatml", vocabulary).source.splitlines(True) if "generation %}" not in part
    )
    vocabulary.save(tmp_path, chat_template=unmarked)
    template = load_template(None, vocabulary, tmp_path)
    chatml = load_template("chatml", vocabulary)
    assert template.prompt(DIALOGUE[:2]) == chatml.prompt(DIALOGUE[:2]) and template.end_ids == chatml.end_ids
    with pytest.raises(UserError, match=r"has no \{% generation %\}"):
        template.render(DIALOGUE)


def test_a_template_that_trims(vocabulary: Tokenizer, tmp_path: Path) -> None:
    """A template may strip what is said, as Llama 3's does; the targets are then the stripped answers."""
    source = load_template("llama3", vocabulary).source.replace("message['content']", "message['content'] | trim")
    template = load_template(own(tmp_path, source), vocabulary)
    messages = [user("  <|eot_id|> \n"), assistant("\n two "), user(" "), assistant(" ")]
    rendered = template.render(messages)
    assert turn_texts(rendered, template.tokenizer) == ["two<|eot_id|>", "<|eot_id|>"]
    stripped = [replace(message, content=message.content.strip()) for message in messages]
    assert rendered.ids.tolist() == template.render(stripped).ids.tolist()


@pytest.mark.parametrize("change", ["| upper", "| replace('a', 'b')", ".split('</think>')[-1]", "[:3]"])
def test_a_template_that_changes_what_is_said(vocabulary: Tokenizer, tmp_path: Path, change: str) -> None:
    """Messages that a template would change are unusable, and those that it leaves alone are not."""
    source = load_template("chatml", vocabulary).source.replace("message['content']", f"(message['content']{change})")
    template = load_template(own(tmp_path, source), vocabulary)
    assert turn_texts(template.render([user("?"), assistant("NO")]), vocabulary) == ["NO<|im_end|>"]
    with pytest.raises(Unusable, match="changes the messages' text"):
        template.render([user("?"), assistant("a</think>a")])


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("llama2", [user("a"), user("b")], "must take turns"),
        ("llama2", [assistant("a")], "must take turns"),
        ("llama2", [user("a"), Message("tool", "b")], "must take turns"),
        ("chatml", [Message("<|im_end|>", "a")], "holds a special token"),
        ("chatml", [Message("a\U0010fffc", "a")], "private-use"),
        ("plain", [user("\ud800"), assistant("a")], "lone surrogate"),
    ],
)
def test_messages_that_cannot_be_rendered(
    vocabulary: Tokenizer, name: str, messages: list[Message], reason: str
) -> None:
    """Messages that a template refuses, and roles that would forge special tokens, are unusable with a reason."""
    with pytest.raises(Unusable, match=reason):
        load_template(name, vocabulary).render(messages)

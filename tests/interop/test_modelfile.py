"""Modelfiles for ollama: the chat template in the language of Go, against our own rendering of the Jinja text."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from babyllm.chat.built_in import TEXTS
from babyllm.chat.load import load_template
from babyllm.chat.messages import Message
from babyllm.chat.template import ChatTemplate
from babyllm.errors import UserError
from babyllm.interop.modelfile import modelfile, turns_of
from babyllm.tokenizer import Tokenizer

CONVERSATIONS = (
    (("user", 'Say "hi" {{ .Role }} {% if %}\n'),),
    (("system", "短"), ("user", "你好")),
    (("user", "a"), ("assistant", " b\n"), ("user", "c")),
    (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")),
)
# What ollama does with a template: Go's text/template, given the messages.
PROGRAM = """
package main

import ("encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template string; Messages []Message }

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
	for _, one := range cases {
		t := template.Must(template.New("").Parse(one.Template))
		if err := t.Execute(os.Stdout, one); err != nil { panic(err) }
		os.Stdout.WriteString("\\x00")
	}
}
"""


def messages_of(conversation: Sequence[tuple[str, str]]) -> list[Message]:
    return [Message(role, content) for role, content in conversation]


def template_in(text: str) -> str:
    return text.partition('TEMPLATE """')[2].partition('"""')[0]


def templates(tokenizer: Tokenizer) -> list[ChatTemplate]:
    return [load_template(name, tokenizer, default_system=system) for name in TEXTS for system in ("", "你是助手。\n")]


def test_the_texts_between_messages_make_the_template(tokenizer: Tokenizer) -> None:
    """For each built-in template, the texts around the messages put together are its own rendering."""
    for template in templates(tokenizer):
        turns = turns_of(template)
        assert turns is not None
        for conversation in CONVERSATIONS:
            messages = messages_of(conversation)
            assert turns.text(messages) == template.prompt_text(messages)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="needs the Go toolchain")
def test_go_writes_what_jinja_writes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Go's text/template renders the TEMPLATE of a Modelfile to the text that our template renders."""
    pairs = [(template, conversation) for template in templates(tokenizer) for conversation in CONVERSATIONS]
    cases = [
        {
            "Template": template_in(modelfile("m.gguf", template, [], 64)),
            "Messages": [{"Role": role, "Content": content} for role, content in conversation],
        }
        for template, conversation in pairs
    ]
    (tmp_path / "main.go").write_text(PROGRAM)
    done = subprocess.run(
        ["go", "run", "main.go"], input=json.dumps(cases).encode(), cwd=tmp_path, capture_output=True, check=True
    )
    found = done.stdout.decode().split("\0")[:-1]
    assert found == [template.prompt_text(messages_of(conversation)) for template, conversation in pairs]


def test_a_modelfile_names_the_file_the_context_and_the_stops(tokenizer: Tokenizer) -> None:
    """A base model continues its prompt; a chat model stops at each of its end tokens, named once."""
    base = modelfile("base.gguf", None, ["</s>"], 256)
    assert base == 'FROM ./base.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER num_ctx 256\nPARAMETER stop "</s>"\n'
    chat = modelfile("chat.gguf", load_template("chatml", tokenizer), ["<|im_end|>", "</s>", "<|im_end|>"], 256)
    assert chat.count("PARAMETER stop") == 2 and 'stop "<|im_end|>"' in chat


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% if loop.index == 4 %}!{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_counts_is_refused(tokenizer: Tokenizer, source: str) -> None:
    """A template whose text depends on more than the roles is not written, and the message says so."""
    template = ChatTemplate(source, tokenizer)
    assert turns_of(template) is None
    with pytest.raises(UserError, match="leave it out with --modelfile=false"):
        modelfile("m.gguf", template, [], 64)

"""The lines of a model card that show how to load the model's files in other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from babyllm.publishing.model_files import ADAPTER_CONFIG

Use = Literal["text", "documents", "chat", "classifier"]
"""What a model is used for; one for "documents" expects <eos> before a text."""
_DOWNLOAD = {
    "huggingface": "hf download {name} --local-dir {folder}",
    "modelscope": "modelscope download --model {name} --local_dir {folder}",
}


def loading_help(names: Sequence[str], name: str, hub: str, use: Use) -> list[str]:
    """Lines of Markdown with commands and code for the programs that can read the files.

    Args:
        names: names of the model's files.
        name: OWNER/NAME on the hub, or the name of a folder.
        hub: "huggingface" or "modelscope", from which the model is downloaded if `name` has an owner.
        use: what a whole model is used for.
    """
    folder = name.rpartition("/")[2]
    gguf = [one for one in names if one.endswith(".gguf")]
    lines: list[str] = []
    if "/" in name:
        lines += _code("sh", _DOWNLOAD[hub].format(name=name, folder=folder))
    if ADAPTER_CONFIG in names:
        lines += _code("python", _PEFT.format(folder=folder))
    elif any(one.endswith(".safetensors") for one in names):
        lines += _code("python", _TRANSFORMERS[use].format(folder=folder))
        if use != "classifier":
            lines += _code("sh", f"babyllm chat {folder}" if use == "chat" else f'babyllm generate {folder} "今天"')
    if gguf:
        lines += _code("sh", f"llama-cli -m {folder}/{gguf[0]}  # llama.cpp")
    if gguf and "Modelfile" in names:
        ollama = folder.lower()
        lines += _code("sh", f"cd {folder} && ollama create {ollama} -f Modelfile && ollama run {ollama}")
    return lines[:-1]


def _code(language: str, text: str) -> list[str]:
    return [f"```{language}", text.strip(), "```", ""]


_TEXT = """
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
ids = tokenizer("今天", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=60, do_sample=True)[0]))
"""
_TRANSFORMERS: dict[Use, str] = {
    "text": _TEXT,
    "documents": _TEXT.replace('tokenizer("今天"', 'tokenizer(tokenizer.eos_token + "今天"'),
    "chat": """
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
messages = [{{"role": "user", "content": "你好"}}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids, max_new_tokens=200)
print(tokenizer.decode(answer[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
""",
    "classifier": """
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForSequenceClassification.from_pretrained("{folder}")
""",
}
_PEFT = """
from peft import AutoPeftModelForCausalLM  # loads the base model as well

model = AutoPeftModelForCausalLM.from_pretrained("{folder}")
"""

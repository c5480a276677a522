"""A model written for other programs: a Hugging Face directory in 16 bits, GGUF files, a Modelfile, a card.

run, step, adapter or Hugging Face directory -> OpenModel -> folder of files, checked -> the target, whole or not
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from babyllm.chat.load import stored_template
from babyllm.chat.template import ChatTemplate
from babyllm.files import new_folder, write_bytes
from babyllm.interop.directory import open_directory
from babyllm.interop.gguf.blocks import Kind
from babyllm.interop.gguf.convert import open_gguf, write_gguf
from babyllm.interop.huggingface import generation_ends
from babyllm.interop.modelfile import modelfile
from babyllm.interop.open_model import OpenModel, fill_directory, in_memory, load_open
from babyllm.interop.weights import Dtype
from babyllm.loading import is_adapter, load, model_directory, tokenizer_directory
from babyllm.model.adapt.lora import merge_lora
from babyllm.publishing.card import CardOptions, write_card
from babyllm.publishing.check import checked, llama_cpp_reader, logits_of, prompts, transformers_reader

MODELFILE = "Modelfile"


@dataclass(frozen=True)
class Wanted:
    """What an export writes.

    Attributes:
        dtype: type of the weights of a Hugging Face directory; None writes none.
        gguf: formats of GGUF files.
        modelfile: whether to write a Modelfile for the first of them.
        shard_bytes: bytes of weights that one safetensors file may hold.
        is_checked: whether what was written is compared with the source and with other programs.
        card: what the card says beside the contents of the files.
    """

    dtype: Dtype | None = None
    gguf: list[Kind] = field(default_factory=list)
    modelfile: bool = True
    shard_bytes: int = 4 << 30
    is_checked: bool = True
    card: CardOptions = field(default_factory=CardOptions)


def opened(source: Path) -> OpenModel:
    """The model of a run, step or directory, of which no weight is read yet; an adapter is merged into its base.

    Raises:
        UserError: a file is missing, damaged or does not fit.
    """
    directory = model_directory(source)
    if not is_adapter(directory):
        return open_directory(directory)
    model, tokenizer = load(directory)
    files = tokenizer_directory(directory)
    return in_memory(merge_lora(model), tokenizer, stored_template(files), generation_ends(files))


def export(source: Path, target: Path, wanted: Wanted) -> Iterator[str]:
    """Write a model for other programs, whole or not at all.

    Args:
        source: run, step, adapter or Hugging Face directory.
        target: directory to create, or an empty one.
        wanted: what to write.

    Yields:
        A sentence about each file that was written and checked.

    Raises:
        UserError: the model cannot be expressed, a check failed, or the target exists or cannot be written.
    """
    with new_folder(target) as folder:
        model, name = opened(source), target.resolve().name
        files = [folder / f"{name}-{kind}.gguf" for kind in wanted.gguf]
        if wanted.dtype:
            fill_directory(model, folder, wanted.dtype, wanted.shard_bytes)
        for file, kind in zip(files, wanted.gguf, strict=True):
            write_gguf(file, model, kind, name)
        if files and wanted.modelfile:
            write_bytes(folder / MODELFILE, _modelfile(model, files[0].name).encode())
        yield from _findings(model, folder, files, wanted)
        write_card(folder, source, wanted.card, name=name)


def _modelfile(model: OpenModel, file: str) -> str:
    tokenizer = model.tokenizer
    names = {i: name for name, i in tokenizer.special.items()}
    template = None if model.chat_template is None else ChatTemplate(model.chat_template, tokenizer)
    ends = dict.fromkeys([tokenizer.eos_id, *model.end_ids, *(template.end_ids if template else ())])
    return modelfile(file, template, [names[i] for i in ends if i in names], model.config.max_seq_len)


def _findings(model: OpenModel, folder: Path, files: list[Path], wanted: Wanted) -> Iterator[str]:
    """A sentence about each file, with what its check found."""
    context = model.config.max_seq_len
    asked = prompts(model.tokenizer, context)
    expected = logits_of(load_open(model), asked) if wanted.is_checked else []
    if wanted.dtype:
        reader = transformers_reader(folder) if wanted.is_checked else None
        found = checked(open_directory(folder), wanted.dtype, expected, asked, reader) if wanted.is_checked else ()
        yield f"Hugging Face directory, {wanted.dtype}: {_joined(found)}"
    for file, kind in zip(files, wanted.gguf, strict=True):
        reader = llama_cpp_reader(file, context) if wanted.is_checked else None
        found = checked(open_gguf(file), kind, expected, asked, reader) if wanted.is_checked else ()
        yield f"{file.name}: {_joined(found)}"


def _joined(findings: Iterable[str]) -> str:
    return "; ".join(findings) or "not checked"

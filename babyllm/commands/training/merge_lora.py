"""Write the model that an adapter makes of its base as a plain Hugging Face directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ARGUMENTS = "RUN_OR_ADAPTER_DIR OUT"


@dataclass(frozen=True)
class Flags:
    """`babyllm merge-lora` has no flags."""


def run(flags: Flags, source: str, out: str) -> None:
    """Write the model that an adapter makes of its base as a plain Hugging Face directory.

    Raises:
        UserError: there is no adapter, its base is missing, or the target directory exists or cannot be written.
    """
    from babyllm.chat.load import stored_template
    from babyllm.errors import UserError
    from babyllm.files import new_folder
    from babyllm.interop.huggingface import generation_ends, save_model
    from babyllm.loading import is_adapter, load, model_directory, tokenizer_directory
    from babyllm.model.adapt.lora import merge_lora

    directory, target = model_directory(source), Path(out)
    if not is_adapter(directory):
        raise UserError(f"{directory}: is a whole model already, there is nothing to merge")
    with new_folder(target) as folder:
        model, tokenizer = load(directory)
        files = tokenizer_directory(directory)
        template, ends = stored_template(files), generation_ends(files)
        save_model(folder, merge_lora(model), tokenizer, chat_template=template, end_ids=ends)
    use = f'generate {target} "今天"' if template is None else f"chat {target}"
    print(f"{target}: {directory} merged with its base; try it: babyllm {use}")

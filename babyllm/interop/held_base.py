"""A copy of the base of a run's adapters, kept in the run's own directory. It stays if the original is deleted.

model directory -> RUN_DIR/base: weights of a step as hard links where the disk allows it, all other files as copies

If the vocabulary was extended or the shape changed, the weights are written out: an adapter needs those it was trained
with. They are copied one by one from the files of the original, as the model may hold them in fewer bits.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from babyllm.config.json_fields import read_json
from babyllm.errors import UserError
from babyllm.files import sha256, whole_folder, write_sealed_json
from babyllm.integrity import HELD, INDEX, RESUME
from babyllm.interop.hf_config import config_from_json
from babyllm.interop.huggingface import Unread, describe_model
from babyllm.interop.weights import WEIGHTS, Source, hf_name, read_tensor, stored_layers, weight_files, write_tensors
from babyllm.model.transformer import EMBEDDING, OUTPUT
from babyllm.tokenizer import Tokenizer

BASE = "base"
_COPIED = (
    *("config.json", "generation_config.json", INDEX, "chat_template.jinja"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
)


def hold_base(run_dir: Path, source: Path, base: Unread, tokenizer: Tokenizer) -> Path:
    """Put the base model of a new run into the run's directory, in place of the base of an earlier attempt.

    Hard links take no space, and the files stay if those of `source` are deleted or replaced. The sha256 of each file
    is written beside them; `integrity.check_held` verifies it.

    Args:
        run_dir: directory of the run, without a saved step; created if absent.
        source: directory of the model that is adapted.
        base: model of `source`, without an adapter; its vocabulary may have been extended since.
        tokenizer: tokenizer of the model; written only if the vocabulary was extended.

    Returns:
        The directory of the base, `run_dir`/base.

    Raises:
        UserError: the directory cannot be written, or a folder of that name exists that no run has made.
    """
    target = run_dir / BASE
    if target.exists() and not (target / HELD).is_file():
        raise UserError(f"{target}: already exists, and no run has made it; choose another --run_dir")
    try:
        with whole_folder(target) as saving:
            stored = config_from_json(read_json(source / "config.json"), str(source / "config.json"))
            if stored == replace(base.model.config, dropout=0.0, activation_checkpointing=False):
                _take(source, saving)
            else:
                _write(source, saving, base)
                describe_model(saving, base.model, tokenizer)
            files = {file.name: sha256(file) for file in sorted(saving.iterdir())}
            write_sealed_json(saving / HELD, {"source": str(source.absolute()), "files": files})
    except OSError as e:
        raise UserError(f"{target}: the base of the adapter cannot be written ({e.strerror or e})") from e
    return target


def _take(source: Path, target: Path) -> None:
    """Copy a model's files. Weights that babyllm wrote are linked, since it replaces files and never changes them."""
    is_ours = any((source / name).is_file() for name in (RESUME, HELD))
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    for file in weight_files(source):
        if not (is_ours and _link(file.resolve(), target / file.name)):
            shutil.copyfile(file, target / file.name)


def _write(source: Path, target: Path, base: Unread) -> None:
    """Write the weights of `source` in their stored types: the model's layers, and its own rows where it has more."""
    model = base.model
    stored = stored_layers(weight_files(source), model.config.n_layers)
    if model.config.tie_embeddings:
        stored.pop(f"{OUTPUT}.weight", None)
    sources = {name: Source(name, x.shape, partial(read_tensor, x.file, x.name), x.dtype) for name, x in stored.items()}
    for name in (f"{EMBEDDING}.weight", f"{OUTPUT}.weight"):
        shape = tuple(model.get_parameter(name).shape)
        if hf_name(name) in stored and shape[0] > stored[hf_name(name)].shape[0]:
            sources[hf_name(name)] = Source(hf_name(name), shape, partial(base.weights.read, name), "float32")
    write_tensors(target / WEIGHTS, sources.values())


def _link(file: Path, target: Path) -> bool:
    with suppress(OSError):  # another disk, or one without links
        os.link(file, target)
        return True
    return False

"""The base of a run's adapters, held in the run's own directory, so that nothing that happens elsewhere can take it.

model directory -> RUN_DIR/base: weights as hard links where the disk allows it, small files as copies

Where the vocabulary was grown the weights are written anew: what loads an adapter needs the rows it was trained with.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from babyllm.errors import UserError
from babyllm.files import fsync, write_json
from babyllm.interop.huggingface import save_model, weight_files
from babyllm.json_fields import read_json
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

BASE = "base"
_SAVING = ".base.saving"
_ORIGIN = "held_from.json"  # tells a base that a run holds from a folder of a person's own
_COPIED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
)


def hold_base(run_dir: Path, source: Path, model: Transformer, tokenizer: Tokenizer) -> Path:
    """Put the base of a run that begins into the run's directory, in the place of one of an earlier beginning.

    Hard links take no space, and the files stay when those of `source` are deleted or replaced.

    Args:
        run_dir: of the run, without a saved step; made if absent.
        source: directory of the model that is adapted.
        model: what was loaded from it, perhaps grown since, without an adapter.
        tokenizer: of `source`; written where the vocabulary has grown.

    Returns:
        The directory.

    Raises:
        UserError: it cannot be written, or a folder of that name is there that no run has made.
    """
    saving, target = run_dir / _SAVING, run_dir / BASE
    if target.exists() and not (target / _ORIGIN).is_file():
        raise UserError(f"{target}: is there already, and no run has made it; choose another --run_dir")
    try:
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir(parents=True)
        if read_json(source / "config.json").get("vocab_size") == model.config.vocab_size:
            _link(source, saving)
        else:
            save_model(saving, model, tokenizer)
        write_json(saving / _ORIGIN, {"source": str(source.absolute())})
        for file in saving.iterdir():
            fsync(file)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(saving, target)
        fsync(run_dir)
    except OSError as e:
        shutil.rmtree(saving, ignore_errors=True)
        raise UserError(f"{target}: the base of the adapter cannot be written ({e.strerror})") from e
    return target


def _link(source: Path, target: Path) -> None:
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    for file in weight_files(source):
        try:
            os.link(file.resolve(), target / file.name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file, target / file.name)

"""A model made ready for a hub: its files, complete and checked, in a folder with its card.

source -> checksums, base of an adapter, card -> folder -> babyllm.publishing.hubs
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.integrity import RESUME
from babyllm.publishing.card import CardOptions, Hub, write_card
from babyllm.publishing.model_files import (
    ADAPTER_CONFIG,
    CARD,
    model_files,
    require_publishable,
    source_directory,
    staged,
)

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}/{_PART}")
_BRANCH = re.compile(r"[A-Za-z0-9][\w./-]*")
_BASE = "base_model_name_or_path"
_HEADER = re.compile(r"---\n(.*?)\n---(?:\n|\Z)", re.DOTALL)


def require_name(name: str, revision: str | None = None) -> None:
    """Refuse a name that is not OWNER/NAME, or a branch that no repository has.

    Raises:
        UserError: the name or the revision is invalid.
    """
    if not is_name(name):
        raise UserError(f"{name}: is not a name on a hub; write OWNER/NAME, of Latin letters, digits, '-', '_' and '.'")
    if revision is not None and not _BRANCH.fullmatch(revision):
        raise UserError(f"--revision={revision}: is not the name of a branch; leave it out for the main one")


def is_name(text: str) -> bool:
    """Whether a text is OWNER/NAME as hubs allow it."""
    is_odd = len(text) > 96 or "--" in text or ".." in text or text.endswith(".git")
    return _NAME.fullmatch(text) is not None and not is_odd


@contextmanager
def prepared(source: Path, name: str, hub: Hub, options: CardOptions) -> Iterator[Path]:
    """A temporary folder with all files of a model that are published, and nothing else.

    Args:
        source: run, step, adapter, Hugging Face or export directory; it is not changed.
        name: OWNER/NAME on the hub.
        hub: hub that the card is for.
        options: what the card says beside the contents of the files; a README.md in `source` is used as it is.

    Raises:
        UserError: a file is damaged or missing, or nobody else could load the model.
    """
    directory = source_directory(source)
    names = model_files(directory)
    require_publishable(directory, names)
    with staged(directory, names) as folder:
        if ADAPTER_CONFIG in names:
            options = replace(options, base_model=_name_base(directory, folder, options.base_model))
        if CARD not in names:
            write_card(folder, directory, options, name=name, hub=hub)
        elif options != CardOptions() and ADAPTER_CONFIG not in names:
            raise UserError(f"{directory / CARD}: is there already; edit its header, or delete it to use --card")
        yield folder


def _name_base(directory: Path, folder: Path, given: str | None) -> str:
    """Write the base's name on the hub into the adapter's configuration in `folder`, and return it."""
    config = read_json(directory / ADAPTER_CONFIG)
    stored = Fields(config, str(directory / ADAPTER_CONFIG)).text(_BASE, "")
    # babyllm stores a folder; other programs often store a name.
    is_known = is_name(stored) and not Path(stored).exists() and not (directory / RESUME).is_file()
    base = given or (stored if is_known else None)
    if base is None or not is_name(base):
        raise UserError(
            f"{directory}: is an adapter of {stored or 'an unknown model'}, which nobody else has; upload that first "
            "and name it with --card.base_model=OWNER/NAME, or make one whole model with babyllm merge-lora"
        )
    write_json(folder / ADAPTER_CONFIG, {**config, _BASE: base})
    return base


def card_license(folder: Path) -> str | None:
    """The license in the header of a folder's README.md; None if it names none."""
    text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    found = _HEADER.match(text)
    try:
        header: Any = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise UserError(f"{CARD}: its header is not YAML ({str(error).splitlines()[0]}); correct it") from error
    value = header.get("license") if isinstance(header, dict) else None
    return value if isinstance(value, str) else None

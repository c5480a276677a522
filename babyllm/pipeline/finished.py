"""What stages check first: their settings, and whether they were finished here already, with the same ones.

settings, inputs -> file beside the results, written before the commit mark -> compared when the stage is called again
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.pipeline.output import discard_work, require_same


def check_held_out(fraction: float) -> None:
    """Refuse what is not a share.

    Raises:
        UserError: it is below 0 or above 1.
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"--held_out={fraction:g}: must be a share from 0 to 1, such as 0.02")


def is_finished(directory: Path, commit_mark: str, settings_file: str, settings: dict[str, Any]) -> bool:
    """Whether `directory` holds what these settings give.

    Args:
        directory: directory of the results.
        commit_mark: name of the file that is there when they are complete.
        settings_file: name of the file with the settings they were made with.
        settings: JSON values.

    Raises:
        UserError: it holds results of other settings.
    """
    try:
        found = json.loads((directory / settings_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or "inputs" not in found or not (directory / commit_mark).is_file():
        return False
    require_same(directory, found, settings)
    discard_work(directory)
    return True

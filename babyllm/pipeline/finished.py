"""First checks of a command: its settings, and whether it has already finished with the same settings.

settings, inputs -> file beside the results, written before the commit mark -> compared when the command runs again
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.pipeline.output import discard_work, require_same


def check_held_out(fraction: float) -> None:
    """Check the share of held-out documents.

    Raises:
        UserError: the share is below 0 or above 1.
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"--held_out={fraction:g}: must be a share from 0 to 1, such as 0.02")


def is_finished(directory: Path, commit_mark: str, settings_file: str, settings: dict[str, Any]) -> bool:
    """Whether `directory` holds the complete results of these settings; if so, leftovers of the work are deleted.

    Args:
        directory: directory of the results.
        commit_mark: name of the file that exists once the results are complete.
        settings_file: name of the file with the settings of the results.
        settings: settings and inputs as JSON values.

    Raises:
        UserError: the directory holds results of other settings.
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

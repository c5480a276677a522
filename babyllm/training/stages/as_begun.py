"""The settings of chats as a run began with them, for runs of versions that did not have them yet."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from babyllm.config.yaml_nodes import load_yaml
from babyllm.data.conversation_config import ConversationConfig
from babyllm.data.pair_config import PairConfig
from babyllm.run_directory import CONFIG

D = TypeVar("D", ConversationConfig, PairConfig)


def as_begun(run_dir: str, data: D) -> D:
    """The section `data` of a run; one begun before there was `data.repetitions` keeps its repetitions.

    Args:
        run_dir: directory of the run, which may be a new one.
        data: section `data`, with the defaults of this version.
    """
    written = _written(run_dir)
    return data if written is None or "repetitions" in written else replace(data, repetitions="keep")


def _written(run_dir: str) -> dict[str, Any] | None:
    """The section `data` as the run wrote it; None for a new run, and for a file that cannot be read."""
    with suppress(OSError, ValueError, yaml.YAMLError, AttributeError):
        return dict(load_yaml(Path(run_dir, CONFIG).read_text(encoding="utf-8")).get("data", {}))
    return None

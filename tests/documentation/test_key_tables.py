"""The tables of docs/*/how-to/from-*.md: each key of babyllm is one, and the program's advice agrees with them."""

import re
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from babyllm.__main__ import STAGES, module_of
from babyllm.config import command_line as config
from babyllm.config.option_names import NAMES, instead, named_keys
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.preference.reward_config import RewardConfig
from babyllm.training.stages.pretraining_config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
KINDS = (PretrainConfig, FineTuneConfig, DpoConfig, RewardConfig, PpoConfig, GrpoConfig)
PAGES = sorted((ROOT / "docs/en/how-to").glob("from-*.md"))
_KEY = re.compile(r"[a-z_]+(?:\.[a-z_0-9]+)*")
_SETTING = re.compile(r"(?:--)?([a-z_]+(?:\.[a-z_0-9]+)*)=")


@cache
def known() -> frozenset[str]:
    """The keys of every training stage."""
    return frozenset(key for kind in KINDS for key in config.keys(kind))


def sections(page: Path) -> dict[str, str]:
    """The parts of a page by their headings."""
    parts = re.split(r"^## (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(page: Path, heading: str = "The keys") -> list[tuple[str, list[str], str]]:
    """Their names, our keys and the remark of each row of a page's table of keys."""
    lines = [line.strip().strip("|").split(" | ") for line in sections(page)[heading].splitlines() if line[:1] == "|"]
    return [(theirs, re.findall(r"`([^`]*)`", ours), "".join(rest)) for theirs, ours, *rest in lines[2:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_key_of_a_table_is_a_key_of_babyllm(page: Path) -> None:
    """The second column names keys that some stage has; so do the settings written in code anywhere on the page."""
    found = rows(page)
    assert len(found) >= 15
    unknown = [(theirs, key) for theirs, keys, _ in found for key in keys if key not in known()]
    assert not unknown
    assert all(keys or remark for _, keys, remark in found), "a name without a counterpart has a reason"
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {key for code in re.findall(r"`([^`\n]+)`", prose) for key in _SETTING.findall(code)}
    assert named - known() <= {"rule", "databases", "tasks"}, named  # of `babyllm select`, `predict`, `eval`


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_advice_of_the_program_agrees_with_the_page(page: Path) -> None:
    """Whoever types the other program's name is shown a key that the page names, where the program knows the name."""
    of_rows = [(re.findall(r"`-{0,2}([a-z_0-9]+)`", theirs), ours, remark) for theirs, ours, remark in rows(page)]
    n_rows = Counter(name for names, _, _ in of_rows for name in names)
    for names, ours, remark in of_rows:
        for name, key in zip(names, ours if len(ours) == len(names) else [""] * len(names), strict=True):
            if n_rows[name] > 1 or name not in NAMES:  # means several things, or only the nearest key is a guess
                continue
            kind = next((kind for kind in KINDS[1:] if key in config.keys(kind)), FineTuneConfig)
            keys = config.keys(kind)
            advised = named_keys(instead(name, keys, keys))
            allowed = {*ours, *_SETTING.findall(remark), *re.findall(r"`([a-z_.]+)`", remark)}
            assert not key or not advised or set(advised) & allowed, f"{name}: {advised}, and the page {allowed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_both_languages_have_the_same_keys(page: Path) -> None:
    """The Chinese table maps the same names to the same keys."""
    chinese = ROOT / "docs/zh/how-to" / page.name

    def pairs(of: Path) -> list[tuple[list[str], list[str]]]:
        table = next(text for heading, text in sections(of).items() if heading in ("The keys", "参数对照 {#the-keys}"))
        lines = [line.split(" | ") for line in table.splitlines() if line.startswith("|")]
        return [(re.findall(r"`([^`]+)`", line[0]), re.findall(r"`([^`]+)`", line[1])) for line in lines[2:]]

    assert pairs(chinese) == pairs(page)


def test_every_stage_is_asked() -> None:
    """A new stage is looked at here, too."""
    for name in STAGES:
        if name != "classifier":
            assert import_module(module_of(name))
    assert len(KINDS) == len(STAGES) - 1

"""A blind sheet for people: one HTML file without a network, and the choices that it writes.

Order and sides depend on the seed and the pairs alone, so no key to the sheet has to be kept: the same files and seed
say which side is whose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import get_data

from babyllm.config.json_fields import read_json
from babyllm.errors import UserError
from babyllm.files import json_digest
from babyllm.judging.answer_files import Pair
from babyllm.judging.verdicts import Choice

_DATA = "{{data}}"
_SIDES = ("1", "2", "tie")


@dataclass(frozen=True)
class Item:
    """A pair as it is shown.

    Attributes:
        id: name of the pair on the sheet, which says nothing about the sides.
        pair: the two answers.
        is_swapped: whether the answer of the second file is shown first.
    """

    id: str
    pair: Pair
    is_swapped: bool

    @property
    def shown(self) -> tuple[str, str]:
        """The two answers in the order in which they are shown."""
        return (self.pair.b, self.pair.a) if self.is_swapped else (self.pair.a, self.pair.b)


@dataclass(frozen=True)
class Sheet:
    """The pairs of a sheet in the order in which they are shown.

    Attributes:
        id: hash of the sheet, by which its choices are recognised.
        items: the pairs; equal answers are left out.
    """

    id: str
    items: Sequence[Item]


def make_sheet(pairs: Sequence[Pair], seed: int) -> Sheet:
    """A sheet of pairs in random order, with random sides."""
    items = []
    for pair in pairs:
        if pair.a != pair.b:
            draw = hashlib.sha256(f"{seed}\n{pair.key}".encode("utf-8", "surrogatepass")).hexdigest()
            items.append(Item(draw[:16], pair, int(draw[-1], 16) % 2 == 1))
    items.sort(key=lambda item: item.id)
    return Sheet(json_digest([[item.id, item.pair.prompt, *item.shown] for item in items])[:16], items)


def sheet_page(sheet: Sheet) -> bytes:
    """The HTML file, whose texts are data of its script and never markup."""
    items = [
        {"id": item.id, "prompt": item.pair.prompt, "answers": item.shown, "reference": item.pair.reference}
        for item in sheet.items
    ]
    # In a script element only "<" can end the data; as an escape it cannot.
    data = json.dumps({"id": sheet.id, "items": items}).replace("<", "\\u003c")
    page = (get_data("babyllm.judging", "page/sheet.html") or b"").decode()
    before, _, after = page.partition(_DATA)
    return f"{before}{data}{after}".encode()


def read_choices(path: Path, sheet: Sheet) -> dict[str, Choice]:
    """The choices that a person has made on a sheet, by the key of the pair.

    Raises:
        UserError: the file cannot be read, or belongs to another sheet.
    """
    value = read_json(path)
    choices = value.get("choices")
    if not isinstance(choices, dict) or "sheet" not in value:
        raise UserError(f"--people: {path} holds no choices of a sheet; give the file that the sheet's page writes")
    if value["sheet"] != sheet.id:
        raise UserError(
            f"--people: {path} is of another sheet; give the answers, --n and --seed with which the sheet was made"
        )
    by_id = {item.id: item for item in sheet.items}
    if wrong := [name for name, side in choices.items() if name not in by_id or side not in _SIDES]:
        raise UserError(f"--people: {path}: {wrong[0]} is not a choice of this sheet; the file was changed")
    return {by_id[name].pair.key: _choice(side, by_id[name]) for name, side in choices.items()}


def _choice(side: str, item: Item) -> Choice:
    if side == "tie":
        return "tie"
    return "B" if (side == "1") == item.is_swapped else "A"

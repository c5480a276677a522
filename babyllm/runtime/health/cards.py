"""NVIDIA cards as their driver reports them: clocks, temperature, memory errors, the width of their slot.

nvidia-smi --query-gpu=... --format=csv -> `parse` -> Card -> `faults`, `remarks`
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_FIELDS = (
    *("index", "uuid", "name", "pci.bus_id", "temperature.gpu", "clocks.sm", "clocks.max.sm", "power.draw"),
    *("power.limit", "ecc.errors.uncorrected.volatile.total", "retired_pages.pending", "pcie.link.width.current"),
    *("pcie.link.width.max", "clocks_throttle_reasons.hw_slowdown", "clocks_throttle_reasons.sw_thermal_slowdown"),
)
_TIMEOUT_S = 30.0
_HOT = 90.0  # degrees Celsius near which cards lower their clocks


@dataclass(frozen=True)
class Card:
    """One card; None is a value that the driver does not report.

    Attributes:
        index: number by which nvidia-smi knows the card.
        uuid: identity of the card, such as GPU-5a...
        name: name of the model.
        bus: address on the PCI bus.
        temperature: degrees Celsius.
        clock: clock of the processors now, in MHz.
        max_clock: highest clock, in MHz.
        watts: power drawn now.
        max_watts: limit of the power.
        memory_errors: uncorrected errors of its memory since the driver was loaded.
        is_page_pending: whether a faulty part of its memory waits for a restart to be left out.
        width: lanes of the slot in use.
        max_width: lanes that the card could use.
        is_slowed: whether the hardware or heat has lowered the clocks.
    """

    index: str
    uuid: str
    name: str
    bus: str
    temperature: float | None
    clock: float | None
    max_clock: float | None
    watts: float | None
    max_watts: float | None
    memory_errors: float | None
    is_page_pending: bool
    width: float | None
    max_width: float | None
    is_slowed: bool


def read_cards() -> list[Card] | None:
    """The cards of this machine; None without `nvidia-smi`, or if it fails."""
    command = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse(answer)


def parse(text: str) -> list[Card]:
    """The cards in the answer of nvidia-smi, which has one line of comma-separated values for each."""
    return [_card([cell.strip() for cell in line.split(",")]) for line in text.splitlines() if line.strip()]


def _card(cells: Sequence[str]) -> Card:
    cells = [*cells, *[""] * (len(_FIELDS) - len(cells))]
    index, uuid, name, bus = cells[:4]
    temperature, clock, max_clock, watts, max_watts, errors = map(_number, cells[4:10])
    is_slowed = "Active" in cells[13:15]
    return Card(
        index=index,
        uuid=uuid,
        name=name,
        bus=bus,
        temperature=temperature,
        clock=clock,
        max_clock=max_clock,
        watts=watts,
        max_watts=max_watts,
        memory_errors=errors,
        is_page_pending=cells[10] == "Yes",
        width=_number(cells[11]),
        max_width=_number(cells[12]),
        is_slowed=is_slowed,
    )


def _number(cell: str) -> float | None:
    """A value of a cell; None for [N/A], [Not Supported] and the like."""
    try:
        return float(cell)
    except ValueError:
        return None


def faults(card: Card) -> list[str]:
    """What shows that a card is broken, in words."""
    found = []
    if card.memory_errors:
        found.append(f"{card.memory_errors:.0f} uncorrected errors of its memory (ECC)")
    if card.is_page_pending:
        found.append("faulty memory that a restart of the machine would leave out")
    return found


def remarks(card: Card) -> list[str]:
    """What makes a card slow or may break it, in words."""
    found = []
    if card.temperature is not None and card.temperature >= _HOT:
        found.append(f"{card.temperature:.0f} degrees Celsius")
    if card.is_slowed:
        found.append("its clocks are lowered by heat or by the hardware")
    if card.width and card.max_width and card.width < card.max_width:
        found.append(f"its slot uses {card.width:.0f} of {card.max_width:.0f} lanes")
    return found

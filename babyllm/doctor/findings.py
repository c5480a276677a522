"""What one rank has found about its device, its links and its machine; sent between ranks as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from babyllm.doctor.disks import Disk
from babyllm.doctor.exchanges import Link, Sums
from babyllm.doctor.products import Products
from babyllm.doctor.storage import Storage
from babyllm.runtime.health.cards import Card


@dataclass(frozen=True)
class Findings:
    """The findings of one rank.

    Attributes:
        rank: number of the rank.
        host: name of its machine.
        device: its device, such as cuda:1.
        model: name of the card or processor.
        versions: versions of the software, by name.
        variables: variables of the environment that decide about links.
        products: products in each number format.
        storage: memory and copies.
        links: messages with the other ranks.
        sums: sums over all ranks; None for a rank alone.
        clock_s: seconds by which the clock is ahead of that of rank 0.
        disk: disk of the run directory; None if it was not tested by this rank.
        card: what the driver reports about the card; None without one.
    """

    rank: int
    host: str
    device: str
    model: str
    versions: dict[str, str]
    variables: dict[str, str]
    products: Sequence[Products]
    storage: Storage
    links: Sequence[Link] = ()
    sums: Sums | None = None
    clock_s: float = 0.0
    disk: Disk | None = None
    card: Card | None = field(default=None)

    def __str__(self) -> str:
        """Rank, machine and device."""
        return f"rank {self.rank} ({self.host}, {self.device}{f', {self.card.uuid}' if self.card else ''})"

    def to_json(self) -> str:
        """The findings as a text."""
        return json.dumps(asdict(self))


def from_json(text: str) -> Findings:
    """The findings in a text of `Findings.to_json`."""
    values = json.loads(text)
    values["products"] = [Products(*item) for item in values["products"]]
    values["storage"] = Storage(*values["storage"])
    values["links"] = [Link(*item) for item in values["links"]]
    values["sums"] = values["sums"] and Sums(*values["sums"])
    values["disk"] = values["disk"] and Disk(*values["disk"])
    values["card"] = values["card"] and Card(**values["card"])
    return Findings(**values)

"""Which device or link is at fault or slowest, as a pure function of the findings of all ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median_high
from typing import NamedTuple

from babyllm.doctor.exchanges import Link
from babyllm.doctor.findings import Findings
from babyllm.pipeline.report import Cell, Report, Table
from babyllm.runtime.health.cards import faults, remarks

_LONG = 12  # links up to which all are shown; of more only the slowest
_SLOW = 0.8  # share of the median below which a device or a link is called slow
_CLOCK_S = 1.0  # difference of clocks that is worth a remark


class Diagnosis(NamedTuple):
    """What the findings mean.

    Attributes:
        faults: what is broken, each naming rank, machine and device.
        remarks: what is slow or differs.
        verdict: one line.
    """

    faults: list[str]
    remarks: list[str]
    verdict: str


def diagnose(findings: Sequence[Findings]) -> Diagnosis:
    """Find faults, slow devices and links, and differences between machines.

    Args:
        findings: findings of all ranks, by rank.
    """
    broken = [fault for one in findings for fault in _own_faults(one)]
    broken += _link_faults(findings) + _shared_faults(findings, has_cause=bool(broken))
    slow = sorted([*_slow_devices(findings), *_slow_links(findings)])
    notes = [f"{who}: {what}" for _, who, what in slow] + _differences(findings)
    notes += [f"{one}: {remark}" for one in findings if one.card for remark in remarks(one.card)]
    if broken:
        return Diagnosis(broken, notes, f"broken: {'; '.join(broken)}")
    slowest = f"; slowest: {slow[0][1]}, {slow[0][2]}" if slow else ""
    return Diagnosis(broken, notes, f"no fault found{slowest}")


def _own_faults(one: Findings) -> Iterator[str]:
    """What is wrong with the device of a rank, or with its machine."""
    found = [f"{p.n_wrong} of {p.n} products in {p.dtype} are wrong" for p in one.products if p.n_wrong]
    if one.storage.n_wrong:
        found.append(f"{one.storage.n_wrong} numbers in {_gib(one.storage.n_bytes)} of memory came back wrong")
    if one.storage.n_wrong_copies:
        found.append(f"{one.storage.n_wrong_copies} copies between the device and its machine arrived wrong")
    if one.card:
        found += faults(one.card)
    if found:
        yield f"{one}: {', '.join(found)}"
    if one.disk and one.disk.error:
        yield f"machine {one.host} cannot write the run directory ({one.disk.error})"
    elif one.disk and not one.disk.is_shared:
        yield f"machine {one.host} does not see the run directory of rank 0, which all machines must share"


def _links(findings: Sequence[Findings]) -> list[Link]:
    """Each link once: its speed as the lower rank measured it, the wrong messages of both."""
    both: dict[tuple[int, int], Link] = {}
    for link in (link for one in findings for link in one.links):
        seen = both.get((link.one, link.other), link._replace(n_wrong=0, speed=0.0))
        both[link.one, link.other] = seen._replace(
            n_wrong=seen.n_wrong + link.n_wrong, speed=max(seen.speed, link.speed)
        )
    return list(both.values())


def _link_faults(findings: Sequence[Findings]) -> list[str]:
    """Links that change messages; a rank that has all of them, and more than one, is at fault itself."""
    wrong = [link for link in _links(findings) if link.n_wrong]
    counts = Counter(rank for link in wrong for rank in (link.one, link.other))
    common = [rank for rank, count in counts.items() if count == len(wrong) > 1]
    if common:
        (rank,) = common[:1]
        return [f"{findings[rank]}: messages with {len(wrong)} other ranks arrived changed"]
    return [f"the link of {_pair(link, findings)}: {link.n_wrong} messages arrived changed" for link in wrong]


def _shared_faults(findings: Sequence[Findings], *, has_cause: bool) -> list[str]:
    """Sums over all ranks that are wrong although no device or link is."""
    wrong = [one for one in findings if one.sums and one.sums.n_wrong]
    if not wrong or has_cause or any(link.n_wrong for link in _links(findings)):
        return []
    return [f"sums over all ranks arrived wrong at {', '.join(map(str, wrong))}"]


def _slow_devices(findings: Sequence[Findings]) -> Iterator[tuple[float, str, str]]:
    """(share of the median, who, what) of devices that are slower than the others."""
    for i, products in enumerate(findings[0].products):
        usual = median_high([one.products[i].flops for one in findings if len(one.products) > i])
        for one in findings:
            share = one.products[i].flops / usual if len(one.products) > i else 1.0
            if share < _SLOW:
                yield share, str(one), f"{products.dtype} products at {share:.2f} of the median's speed"


def _slow_links(findings: Sequence[Findings]) -> Iterator[tuple[float, str, str]]:
    links = _links(findings)
    usual = median_high([link.speed for link in links]) if links else 0.0
    for link in links:
        if link.speed < _SLOW * usual:
            what = f"{link.speed / 1e9:.3g} GB/s, {link.speed / usual:.2f} of the median's speed"
            yield link.speed / usual, f"the link of {_pair(link, findings)}", what


def _differences(findings: Sequence[Findings]) -> list[str]:
    """In what software, variables and clocks the ranks differ."""
    lines = []
    for kind in ("versions", "variables"):
        names = sorted({name for one in findings for name in getattr(one, kind)})
        for name in names:
            values = {getattr(one, kind).get(name, "not set"): one.host for one in reversed(findings)}
            if len(values) > 1:
                lines.append(f"{name} differs: {', '.join(f'{v} on {host}' for v, host in values.items())}")
    late = {one.host: one.clock_s for one in findings if abs(one.clock_s) > _CLOCK_S}
    return lines + [f"the clock of {host} is {offset:+.1f} s off that of rank 0" for host, offset in late.items()]


def _pair(link: Link, findings: Sequence[Findings]) -> str:
    return f"{findings[link.one]} and {findings[link.other]}"


def report(findings: Sequence[Findings], diagnosis: Diagnosis) -> Report:
    """The findings as tables."""
    first = findings[0]
    facts: list[tuple[str, Cell]] = [(name, value) for name, value in first.versions.items()]
    facts += [(name, value) for name, value in first.variables.items()]
    if not any(one.card for one in findings):
        facts.append(("nvidia-smi", "not there: no clocks, temperatures and memory errors (ECC)"))
    tables = [_device_table(findings)]
    if links := sorted(_links(findings), key=lambda link: link.speed):
        rows: list[list[Cell]]
        rows = [[str(link.one), str(link.other), link.speed / 1e9, link.n_wrong] for link in links[:_LONG]]
        tables.append(Table("links between ranks, slowest first", ("rank", "rank", "GB/s", "wrong"), rows))
    if disks := [(one.host, one.disk) for one in findings if one.disk]:
        rows = [[host, disk.speed / 1e6, "yes" if disk.is_shared else "no", disk.error] for host, disk in disks]
        tables.append(Table("disk of the run directory", ("machine", "MB/s", "shared", "error"), rows))
    if cards := [one for one in findings if one.card]:
        tables.append(_card_table(cards))
    return Report("devices and links", facts, tables)


def _device_table(findings: Sequence[Findings]) -> Table:
    formats = [products.dtype for products in findings[0].products]
    columns = ("rank", "machine", "device", *(f"{name} TFLOP/s" for name in formats), "memory GiB")
    columns += ("to GB/s", "from GB/s", "wrong", *(("sum ms", "clock s") if findings[0].sums else ()))
    rows: list[list[Cell]] = []
    for one in findings:
        speeds = {products.dtype: products.flops / 1e12 for products in one.products}
        n_wrong = sum(products.n_wrong for products in one.products) + one.storage.n_wrong + one.storage.n_wrong_copies
        row: list[Cell] = [str(one.rank), one.host, f"{one.device} {one.model}", *map(speeds.get, formats)]
        row += [one.storage.n_bytes / 2**30, one.storage.to_device / 1e9, one.storage.from_device / 1e9, n_wrong]
        row += [one.sums.seconds * 1e3, one.clock_s] if one.sums else []
        rows.append(row)
    return Table("devices", columns, rows)


def _card_table(findings: Sequence[Findings]) -> Table:
    rows: list[list[Cell]] = []
    columns = ("rank", "machine", "card", "bus", "degrees C", "MHz", "max MHz", "W", "max W", "lanes", "ECC errors")
    for one in findings:
        card = one.card
        assert card
        what: list[Cell] = [card.temperature, card.clock, card.max_clock, card.watts, card.max_watts]
        rows.append([str(one.rank), one.host, card.index, card.bus, *what, card.width, card.memory_errors])
    return Table("cards by nvidia-smi", columns, rows)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.3g} GiB"

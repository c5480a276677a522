"""`babyllm doctor` names the device or the link that is broken or slowest."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_fixtures import Worker

from babyllm.__main__ import run
from babyllm.doctor.diagnosis import diagnose, report
from babyllm.doctor.disks import Disk
from babyllm.doctor.exchanges import Link, Sums
from babyllm.doctor.findings import Findings, from_json
from babyllm.doctor.products import Products, known_product
from babyllm.doctor.storage import Storage
from babyllm.pipeline.report import print_report
from babyllm.runtime.health.cards import parse, read_cards

FLAGS = ["--seconds=0.2", "--size_mib=8", "--runtime.device=cpu", "--runtime.threads=1"]
SMI = """\
0, GPU-11, NVIDIA GeForce RTX 4090, 00000000:01:00.0, 61, 2520, 3105, 310.5, 450, [N/A], [N/A], 16, 16, Not Active, \
Not Active
1, GPU-22, NVIDIA A100-SXM4-40GB, 00000000:02:00.0, 93, 210, 1410, 60.1, 400, 7, Yes, 8, 16, Active, Not Active
"""


@pytest.mark.slow
def test_a_device_that_computes_wrongly_is_named(worker: Worker, tmp_path: Path) -> None:
    """Of two ranks, the one with wrong numbers in some of its products is named, and the exit status is 1."""
    worker.load("tests.machines.machine_jobs")
    worker.start("examined", ranks=2, arguments=[*FLAGS, f"--run_dir={tmp_path / 'run'}"], wrong=1)
    statuses, output = worker.wait(), worker.output.read_text()
    assert statuses == [1, 0], output
    assert "broken: rank 1 (" in output.splitlines()[-1] and "products in float32 are wrong" in output.splitlines()[-1]
    assert "disk of the run directory" in output and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_slow_link_is_named(worker: Worker) -> None:
    """Of three links, the one whose messages take longest is named with both of its ranks, and nothing is broken."""
    worker.load("tests.machines.machine_jobs")
    worker.run("examined", ranks=3, arguments=FLAGS, slow=(1, 2))
    last = worker.output.read_text().splitlines()[-1]
    assert last.startswith("no fault found; slowest: the link of rank 1 (") and " and rank 2 (" in last


def test_one_process_needs_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine with one device is tested alone, without links, and what it lacks is said."""
    run(["doctor", *FLAGS, "--runtime.processes=1"])
    printed = capsys.readouterr().out
    assert printed.endswith("no fault found\n") and "links between ranks" not in printed
    assert "float16 TFLOP/s" in printed
    assert read_cards() is not None or "nvidia-smi" in printed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_answer_of_a_product_is_exact(dtype: torch.dtype) -> None:
    """The matrices and their product fit into each number format, and the answer is that of whole numbers."""
    one, two, answer = known_product(128, torch.Generator().manual_seed(3))
    assert torch.equal(one.to(dtype).double(), one.double()) and torch.equal(two.to(dtype).double(), two.double())
    assert torch.equal(one.double() @ two.double(), answer.double())
    assert torch.equal(one.to(dtype) @ two.to(dtype), answer.to(dtype))
    assert len(set(one.flatten().tolist())) == 18


def test_cards_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that a card lacks stay unknown; memory errors are faults, heat and a narrow slot are remarks."""
    assert read_cards() is None or torch.cuda.is_available()
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<END\n{SMI}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cards = read_cards()
    assert cards == parse(SMI) and cards is not None
    assert cards[0].memory_errors is None and cards[0].clock == 2520 and not cards[0].is_slowed
    good, bad = (replace(sound(rank), card=card) for rank, card in enumerate(cards))
    found = diagnose([good, bad])
    assert found.verdict.startswith("broken: rank 1 (b, cuda:1, GPU-22): 7 uncorrected errors of its memory")
    assert any("93 degrees" in remark for remark in found.remarks)
    assert any("8 of 16 lanes" in remark for remark in found.remarks)
    assert not any(str(good) in line for line in (*found.faults, *found.remarks))


def sound(rank: int, n: int = 2, **changes: object) -> Findings:
    """What a good device finds; each machine has two."""
    links = [Link(min(rank, other), max(rank, other), 0, 1e9 * (rank < other)) for other in range(n) if other != rank]
    found = Findings(
        rank=rank,
        host="ab"[rank > 0] if n == 2 else "ab"[rank // 2],
        device=f"cuda:{rank}",
        model="",
        versions={"torch": "2.10"},
        variables={},
        products=[Products("float32", 9, 0, 1e12)],
        storage=Storage(1 << 30, 0, 1e9, 1e9, 0),
        links=links,
        sums=Sums(6, 0, 0.1),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def test_findings_are_the_same_after_their_journey() -> None:
    """What is sent as a text between ranks comes back whole."""
    found = sound(1, card=parse(SMI)[1], disk=Disk("", 1e8, True))
    assert from_json(found.to_json()) == found


def test_a_rank_whose_links_all_fail_is_named_itself() -> None:
    """One changed link names its two ranks; several with one rank in common name that rank."""
    ranks = [sound(rank, 4) for rank in range(4)]

    def changed(rank: int, *others: int) -> Findings:
        links = [link._replace(n_wrong=2 * bool({link.one, link.other} & set(others))) for link in ranks[rank].links]
        return replace(ranks[rank], links=links)

    one = diagnose([ranks[0], changed(1, 2), *ranks[2:]])
    assert one.faults == ["the link of rank 1 (a, cuda:1) and rank 2 (b, cuda:2): 2 messages arrived changed"]
    several = diagnose([ranks[0], changed(1, 0, 2, 3), *ranks[2:]])
    assert several.faults == ["rank 1 (a, cuda:1): messages with 3 other ranks arrived changed"]


def test_other_faults_and_differences_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory, copies, sums, a disk that is not shared, versions, clocks and a slow device each name who it is."""
    ranks = [sound(rank, 4) for rank in range(4)]
    memory = replace(ranks[3], storage=Storage(1 << 30, 5, 1e9, 1e9, 1))
    (fault,) = diagnose([*ranks[:3], memory]).faults
    assert fault.startswith("rank 3 (b, cuda:3): 5 numbers in 1 GiB of memory came back wrong, 1 copies")
    sums = diagnose([*ranks[:3], replace(ranks[3], sums=Sums(6, 1, 0.1))])
    assert sums.faults == ["sums over all ranks arrived wrong at rank 3 (b, cuda:3)"]
    alone = replace(ranks[2], disk=Disk("", 1e8, False), versions={"torch": "2.11"}, clock_s=2.5)
    slow = replace(ranks[1], products=[Products("float32", 9, 0, 4e11)])
    found = diagnose([ranks[0], slow, alone, ranks[3]])
    assert found.verdict.startswith("broken: machine b does not see the run directory of rank 0")
    assert "torch differs: 2.10 on a, 2.11 on b" in found.remarks
    assert "the clock of b is +2.5 s off that of rank 0" in found.remarks
    assert diagnose([ranks[0], slow, *ranks[2:]]).verdict == (
        "no fault found; slowest: rank 1 (a, cuda:1), float32 products at 0.40 of the median's speed"
    )
    print_report(report([ranks[0], slow, alone, ranks[3]], found))
    assert "not there: no clocks" in capsys.readouterr().out

"""The command: faults are drawn from the seed, worked on by several benches at once, recorded and counted."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

from tests.campaign.bench import Bench
from tests.campaign.drills import DRILLS, WEIGHTS
from tests.campaign.faults import VERDICTS, BrokenPromise, Fault, Outcome, faults

WHY_CHARACTERS = 1500
Record = dict[str, object]


def main(argv: Sequence[str]) -> int:
    """Run a campaign and give the exit status: 1 if anything failed."""
    options = _options(argv)
    weights = WEIGHTS if options.only is None else {options.only: 1}
    wanted = list(islice(faults(weights, options.seed), options.faults))
    records = _recorded(options.out)
    missing = [fault for fault in wanted if (fault.kind, fault.seed) not in records]
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is begun ends, and all is cleared away
    with tempfile.TemporaryDirectory(prefix="campaign-") as root:
        for fault, outcome, seconds in _carried_out(missing, Path(root), options.benches, deadline):
            record: Record = {**asdict(fault), **asdict(outcome), "seconds": round(seconds, 2)}
            records[fault.kind, fault.seed] = record
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if outcome.verdict == "failed":
                print(_again(record), flush=True)
    done = [records[key] for fault in wanted if (key := (fault.kind, fault.seed)) in records]
    print(_table(done, options.seed))
    return int(any(record["verdict"] == "failed" for record in done))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first fault; those of others count up")
    parser.add_argument("--faults", type=int, default=1000, help="number of faults")
    parser.add_argument("--minutes", type=float, help="limit of time: no fault is begun after it")
    parser.add_argument("--only", choices=sorted(DRILLS), help="kind of all faults")
    parser.add_argument("--out", type=Path, help="file of one JSON object per fault; what it holds is not done again")
    parser.add_argument("--benches", type=int, default=os.cpu_count() or 1, help="faults at a time")
    return parser.parse_args(argv)


def _recorded(out: Path | None) -> dict[tuple[str, int], Record]:
    if out is None or not out.exists():
        return {}
    # An interrupted campaign may have torn its last line, which is left out.
    whole = out.read_bytes().rpartition(b"\n")[0]
    out.write_bytes(whole + b"\n" if whole else b"")
    records = [json.loads(line) for line in whole.splitlines()]
    return {(record["kind"], record["seed"]): record for record in records}


def _carried_out(
    missing: Sequence[Fault], root: Path, n_benches: int, deadline: float | None
) -> Iterator[tuple[Fault, Outcome, float]]:
    """The outcome of each fault and its seconds, in the order in which they end."""
    n_benches = min(n_benches, len(missing))
    waiting, done = iter(missing), SimpleQueue[tuple[Fault, Outcome, float] | None]()
    is_over = threading.Event()

    def goes_on() -> bool:
        return not is_over.is_set() and (deadline is None or time.monotonic() < deadline)

    def work(number: int) -> None:
        try:
            with Bench(root, number) as bench:
                while goes_on() and (fault := next(waiting, None)):
                    began = time.monotonic()
                    done.put((fault, _drill(fault, bench), time.monotonic() - began))
        except BaseException:
            is_over.set()  # no drill can begin, so nor can those of the other benches
            raise
        finally:
            done.put(None)

    with ThreadPoolExecutor(max(1, n_benches)) as pool:
        benches = [pool.submit(work, number) for number in range(n_benches)]
        try:
            for _ in benches:
                yield from iter(done.get, None)
        finally:
            is_over.set()
        for bench in benches:
            bench.result()


def _drill(fault: Fault, bench: Bench) -> Outcome:
    bench.clear()
    try:
        return DRILLS[fault.kind](random.Random(f"{fault.kind} {fault.seed}"), bench)
    except BrokenPromise as broken:
        return Outcome("failed", str(broken))


def _again(record: Record) -> str:
    return f"failed: --only={record['kind']} --seed={record['seed']} --faults=1"


def _table(records: Sequence[Record], seed: int) -> str:
    kinds = [kind for kind in DRILLS if any(record["kind"] == kind for record in records)]
    counts = Counter((record["kind"], record["verdict"]) for record in records)
    lines = [f"{'kind':<12}" + "".join(f"{verdict:>10}" for verdict in VERDICTS)]
    for kind in kinds:
        lines.append(f"{kind:<12}" + "".join(f"{counts[kind, verdict]:>10}" for verdict in VERDICTS))
    total = [sum(counts[kind, verdict] for kind in kinds) for verdict in VERDICTS]
    lines.append(f"{'all':<12}" + "".join(f"{n:>10}" for n in total))
    failed = [record for record in records if record["verdict"] == "failed"]
    told = [f"{_again(record)}\n    {str(record['why'])[:WHY_CHARACTERS]}" for record in failed]
    return "\n".join([*told, *lines, f"{sum(total)} faults from seed {seed}"])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

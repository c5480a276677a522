"""The memory of the CPU that a rank with a device of its own takes under `parallel.offload`."""

from __future__ import annotations

from babyllm.planning.events.ledger import Ledger, Part
from babyllm.planning.events.muon_memory import muon_step
from babyllm.planning.job import Job, trained_counts
from babyllm.planning.training_memory import weight_bytes


def offloaded_memory(job: Job) -> dict[Part, float]:
    """The bytes by part at the peak of a step, beside those of the process; empty where nothing is offloaded."""
    if job.device == "cpu" or job.parallel.offload == "none":
        return {}
    ledger, counts = Ledger(), trained_counts(job)
    trained = 4 * sum(counts.values()) / job.shards
    # Under "optimizer" the step works on copies of weights and gradients; under "all" they lie here.
    ledger.take("weights", weight_bytes(job) / job.shards if job.is_outside else trained)
    ledger.take("gradients", trained)
    ledger.take("optimizer", 4 * (2 * counts["adamw"] + counts["muon"]) / job.shards)
    if job.is_outside and job.optim.average:
        ledger.take("average", trained)
    if counts["muon"] and job.has_outside_step:
        muon_step(job, ledger, device="cpu")
    else:  # momenta on their way to the device, and updates on their way back
        ledger.take("workspace", 4 * counts["muon"] / job.shards)
    return {part: n_bytes for part, n_bytes in ledger.peak.items() if n_bytes}

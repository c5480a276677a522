"""The tensors that a step of training really takes, by PyTorch's own count of allocations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from babyllm.model.adapt.lora import LoraConfig, add_lora
from babyllm.model.attention import set_attention
from babyllm.model.transformer import Transformer
from babyllm.optim.average import make_average
from babyllm.optim.build import make_optimizer
from babyllm.planning import Job


def tensor_peak(job: Job) -> int:
    """Bytes of all tensors at the peak of a step of `job` on this CPU, when moments exist; in float32 or bfloat16."""
    torch.manual_seed(0)
    model, adapter = Transformer(job.model).train(), job.adapter
    if adapter.rank:
        add_lora(model, LoraConfig(adapter.rank, targets=adapter.targets, base=adapter.base))
    set_attention(model, job.attention)
    optimizer, average = make_optimizer(model, job.optim), make_average(model, job.optim)
    ids = torch.randint(job.model.vocab_size, (job.passes, job.micro_batch, job.seq_len + 1))

    def step(batches: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=job.dtype == "bfloat16"):
                total = model(batch[:, :-1], batch[:, 1:]).sum()
            torch.autograd.backward(total)
        optimizer.step()
        if average:
            average.update(1)

    step(ids[:1, :1, :3])  # makes moments
    optimizer.zero_grad(set_to_none=True)
    moments = [x for state in optimizer.state.values() for x in state.values()]
    kept = [*model.parameters(), *moments, *(average.tensors.values() if average else ())]
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(ids)
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = sum(held.values())
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most

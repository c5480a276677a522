"""Step times by rank: each rank's own work, without its waits for others, and advice when one is always slower.

begin()                    after the ranks have counted the units of a step together
... forward, backward      the last gradient is there: a hook notes the time; from here on DDP may wait for others
report()                   one small sum over the ranks -> step_s/rank_N, step_s/ratio ..., maybe a line of advice
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from statistics import median_low
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

# A rank is a straggler if it takes so many times the median in so many reports in a row, and costs so many seconds.
_RATIO, _REPORTS, _LEAST_S = 1.3, 3, 1.0


class _Ranks(Protocol):
    """What `Pace` uses of a `Runtime`, which itself has a `Pace`."""

    device: torch.device
    rank: int
    world_size: int

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks."""
        ...

    def gather(self, text: str) -> list[str]:
        """The texts of all ranks."""
        ...


class Pace:
    """Seconds that this rank works in each step, compared with the other ranks at each report.

    On CUDA they are measured on the device, between two events that the step's own synchronisation completes.

    Args:
        runtime: this rank.
    """

    def __init__(self, runtime: _Ranks) -> None:
        self._runtime, self._is_shared = runtime, runtime.world_size > 1
        self._seconds, self._steps, self._began = 0.0, 0, 0.0
        self._ended: float | None = None  # of the step whose time is still to be added
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._model: nn.Module | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None
        self._names: list[str] = []
        self._slow, self._n_slow, self._lost_s = -1, 0, 0.0

    def begin(self, model: nn.Module) -> None:
        """Note that this rank begins its own work of a step.

        The work ends when the gradient of the model's first trained parameter is there, the last in a backward pass. If
        weights are sharded, waits for the weights of other ranks are part of it.
        """
        if not self._is_shared:
            return
        if model is not self._model:
            self._attach(model)
        self._add()
        if self._events:
            self._events[0].record()
        self._began = time.perf_counter()

    def _attach(self, model: nn.Module) -> None:
        import torch

        if self._hook:
            self._hook.remove()
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        self._model, self._ended = model, None
        self._hook = first.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]
        if self._runtime.device.type == "cuda":
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._events = begun, ended

    def _note(self, parameter: torch.Tensor) -> None:
        self._ended = time.perf_counter()  # of the last micro-batch, as this is called after each
        if self._events:
            self._events[1].record()

    def _add(self) -> None:
        """Add the time of the step before, whose work has ended on the device too."""
        if self._ended is None:
            return
        if self._events:
            self._seconds += self._events[0].elapsed_time(self._events[1]) / 1e3
        else:
            self._seconds += self._ended - self._began
        self._steps += 1
        self._ended = None

    def report(self, waited_s: float) -> tuple[dict[str, float], str]:
        """Compare the ranks since the last report; every rank must call it.

        Args:
            waited_s: seconds for which this rank has waited for data.

        Returns:
            Seconds per step by rank, the slowest rank and its ratio to the median, by name; and a line of advice if
            one rank is always slower. Both are empty for a rank alone.
        """
        if not self._is_shared:
            return {}, ""
        self._add()
        own = [0.0] * self._runtime.world_size
        own[self._runtime.rank] = (self._seconds + waited_s) / self._steps if self._steps else 0.0
        steps, self._seconds, self._steps = self._steps, 0.0, 0
        seconds = self._runtime.sum(own)
        if not self._names:
            host, device = socket.gethostname(), self._runtime.device
            self._names = self._runtime.gather(f"rank {self._runtime.rank} ({host}, {device})")
        usual = median_low(seconds)
        if not usual:
            return {}, ""
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        ratio = seconds[slowest] / usual
        values = {f"step_s/rank_{rank}": value for rank, value in enumerate(seconds)}
        values |= {"step_s/median": usual, "step_s/slowest": slowest, "step_s/ratio": ratio}
        return values, self._advice(slowest, ratio, (seconds[slowest] - usual) * steps)

    def _advice(self, slowest: int, ratio: float, lost_s: float) -> str:
        """A line when the same rank has been slow for some reports; it comes once, until another rank is slow."""
        if ratio < _RATIO or slowest != self._slow:
            self._n_slow, self._lost_s = 0, 0.0
        if ratio < _RATIO:
            return ""
        was_enough = self._n_slow >= _REPORTS and self._lost_s >= _LEAST_S
        self._slow, self._n_slow, self._lost_s = slowest, self._n_slow + 1, self._lost_s + lost_s
        if was_enough or self._n_slow < _REPORTS or self._lost_s < _LEAST_S:
            return ""
        return (
            f"{self._names[slowest]} takes {ratio:.2f} times the median's time for its part of a step, and all others "
            f"wait for it: {self._lost_s:.0f} s in the last {self._n_slow} records; `babyllm doctor` tests its device, "
            "and nvidia-smi or top shows heat and other users"
        )

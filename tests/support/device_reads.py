"""What a program reads from a device, where it would have to wait for a GPU, counted on any device."""

from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result's value or size the program needs to know.
_OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"}
# Methods that copy a tensor to the program, which the dispatcher does not see for tensors on a CPU.
_METHODS = {"cpu", "numpy", "tolist"}


class _Operators(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        has_unknown_size = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in _OPERATORS or is_by_mask or has_unknown_size:
            self._counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        is_to_cpu = name == "to" and "cpu" in [a for a in args[1:] if isinstance(a, str)]
        if name in _METHODS or is_to_cpu:
            self._counts["cpu" if is_to_cpu else name] += 1
        return func(*args, **(kwargs or {}))


class DeviceReads:
    """Counts reads in the body of a with statement, by name.

    Attributes:
        counts: Calls of each operator or method so far.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._modes = (_Operators(self.counts), _Methods(self.counts))

    def __enter__(self) -> Counter[str]:
        for mode in self._modes:
            mode.__enter__()
        return self.counts

    def __exit__(self, *exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)

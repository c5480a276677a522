"""Where a process runs: device, dtype, ranks, seeds, the stop signal. Only this package reads the environment.

    with user_errors():                              a user's mistake becomes one line and exit status 1
        launch(work, config)                         starts a process per GPU or core (`launching`); each runs `work`
        with start(config.runtime) as runtime:       joins the process group, watches the other ranks, leaves it
            with runtime.main_first(): ...           rank 0 prepares the data, then every rank opens it
            for step in ...:
                runtime.beat(step)                   reports progress; a rank that hangs ends the run (`watchdog`)
                seed_all(seed, step, runtime.rank)   makes dropout a pure function of these integers
                with runtime.autocast(): ...
                runtime.sum([loss, tokens, runtime.stop_requested])

torch is imported inside functions, so that commands without it start at once.
"""

from babyllm.runtime.config import RuntimeConfig
from babyllm.runtime.device import device_type
from babyllm.runtime.launching.program import user_errors
from babyllm.runtime.machine import device_memory, memory_bytes, peak_flops
from babyllm.runtime.runtime import Runtime, environment, start
from babyllm.runtime.seeds import derive_seed, seed_all
from babyllm.runtime.signals import ordinary_signals

__all__ = [
    "Runtime",
    "RuntimeConfig",
    "derive_seed",
    "device_memory",
    "device_type",
    "environment",
    "memory_bytes",
    "ordinary_signals",
    "peak_flops",
    "seed_all",
    "start",
    "user_errors",
]

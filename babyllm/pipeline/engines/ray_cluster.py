"""The engine of a Ray cluster: the one that runs already, else one of this machine. Data passes through files alone."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from babyllm.errors import UserError, in_one_line
from babyllm.pipeline.engines.local_pool import worker_died
from babyllm.pipeline.engines.packed_jobs import packed, run_packed
from babyllm.runtime.machine import cores, ray_head

_RETRIES = 3  # of a job whose worker or machine died
_STORE_BYTES = 128 << 20  # shared memory of a cluster that this process starts; results are small


class RayCluster:
    """Jobs on all machines of a Ray cluster, which share a disk; the cluster is joined once by a process.

    Args:
        n_workers: largest number of jobs at a time; None for as many as the cluster has cores.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, n_workers: int | None) -> None:
        self._ray, self._n_workers = _joined(n_workers), n_workers
        self._references: dict[Future[Any], Any] = {}
        self._run = self._ray.remote(run_packed).options(num_cpus=1, max_retries=_RETRIES)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run a function; see `Engine.submit`. Ray repeats it on another worker if its own dies."""
        reference = self._run.remote(packed(function, arguments, self._ray.cloudpickle.dumps))
        result: Future[Any] = Future()
        result.set_running_or_notify_cancel()
        self._references[result] = reference
        reference.future().add_done_callback(lambda done: self._finish(result, done))
        return result

    def _finish(self, result: Future[Any], done: Future[Any]) -> None:
        self._references.pop(result, None)
        error = done.exception()
        if error is None:
            result.set_result(done.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            result.set_exception(error.cause)  # what the function raised
        elif isinstance(error, (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.OutOfMemoryError)):
            result.set_exception(worker_died(f"a worker of the Ray cluster died {_RETRIES + 1} times at the same work"))
        else:
            what = f"{type(error).__name__}: {in_one_line(error)}"
            result.set_exception(
                UserError(
                    f"the Ray cluster has failed ({what}); start it and the same command again; it goes on with what "
                    "is left"
                )
            )

    def ahead(self) -> int:
        """Twice the cores that the cluster has now, so that none waits; the number of workers, if that is smaller."""
        n_cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        return self._n_workers if self._n_workers and self._n_workers < n_cores else 2 * n_cores

    def status(self) -> str:
        """The machines of the cluster and their cores."""
        n_nodes = sum(node["Alive"] for node in self._ray.nodes())
        return f"{self._ray.cluster_resources().get('CPU', 0):.0f} cores of {n_nodes} machine{'s' * (n_nodes != 1)}"

    def close(self, is_stopped: bool = False) -> None:
        """Stop what has not finished; the cluster stays for the next step."""
        for reference in list(self._references.values()) if is_stopped else ():
            self._ray.cancel(reference)


def _joined(n_workers: int | None) -> Any:
    """Ray, connected to a cluster."""
    head = ray_head()
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError('--work.engine=ray needs Ray: pip install "babyllm[ray]"') from None
    if ray.is_initialized():
        return ray
    before = signal.getsignal(signal.SIGTERM)  # Ray takes the signal over
    try:
        try:
            ray.init(address="auto", logging_level="error")
        except ConnectionError:
            if head:
                raise
            n_cpus = n_workers or cores()
            ray.init(
                "local",
                num_cpus=n_cpus,
                include_dashboard=False,
                logging_level="error",
                object_store_memory=_STORE_BYTES,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--work.engine=ray: no cluster can be reached ({in_one_line(error)}); set RAY_ADDRESS to the head's, "
            "or leave it out for a cluster of this machine"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
    return ray

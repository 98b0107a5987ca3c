"""Where the jobs of a study run: in this process, in processes of this machine, or on a Dask cluster.

All are `concurrent.futures.Executor`s. Code that uses one submits plain functions with what they need as arguments.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from device_profiles.errors import GeoshiftError

T = TypeVar("T")
CONNECT_SECONDS = 10
Share = Callable[[Any], Any]
"""Makes something large available to an executor's workers; what it returns is submitted in its place."""


class InProcess(Executor):
    """Runs each job when it is submitted, in the thread that submits it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run a job now."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asks for the result
            future.set_exception(error)
        return future


class ClusterError(GeoshiftError):
    """The Dask cluster cannot be used."""


@contextmanager
def executor(workers: int = 1, cluster: str | None = None) -> Iterator[tuple[Executor, Share]]:
    """An executor, closed when done.

    Args:
        workers: Processes; with 1, jobs run in this one.
        cluster: Address of a Dask scheduler, ``tcp://host:8786``; its workers then do the jobs.

    Raises:
        ClusterError: Dask is not installed, no scheduler answers, or it has no workers.
    """
    if cluster is not None:
        with _client(cluster) as client:
            # Sent once to every worker, not once with every job.
            yield client.get_executor(), lambda study: client.scatter(study, broadcast=True, hash=False)
        return
    if workers == 1:
        yield InProcess(), lambda study: study
        return
    # Processes that are forked from one with threads may inherit locks that nobody will release.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield pool, lambda study: study


def _client(address: str) -> Any:
    """A client of a Dask scheduler that has workers."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError(
            f"--cluster {address}: found no Dask, expected the cluster's libraries; install them with: "
            "pip install 'geoshift[planner,cluster]'"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--cluster {address}: no Dask scheduler answers ({error}); expected an address such as "
            "tcp://host:8786: start one with `dask scheduler`"
        ) from error
    if not client.scheduler_info()["workers"]:
        client.close()
        raise ClusterError(
            f"--cluster {address}: the scheduler has no workers; start some with `dask worker {address}`"
        )
    return client

"""Worker processes under dask.distributed: started here for one run, or an existing cluster's.

A process may die (killed, out of memory, a crash in a library) without the run: distributed gives its item to another
one, and an item that its workers do not survive twice is lost. Nothing else starts `distributed`, which takes a while.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import dask.config
from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin, as_completed
from distributed.comm.core import CommClosedError

from geosr.errors import GeosrError, UnavailableError
from geosr.version import __version__

Item = TypeVar("Item")
Result = TypeVar("Result")

_START = 10  # seconds for an existing scheduler to answer and to have a worker
_END = 5  # seconds for the scheduler to come to its end
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,  # a tile takes minutes: two workers are enough to lose
    "distributed.scheduler.worker-saturation": 1.0,  # no tile waits in a worker, to be blamed for its death
    "distributed.worker.multiprocessing-method": "spawn",  # after a fork torch hangs
    "distributed.logging.distributed": "critical",  # what matters is told by events
}


@dataclass(frozen=True)
class Cluster:
    """Workers under a Dask scheduler; `in_flight` items at most are in work or wait at the scheduler."""

    client: Client
    address: str
    in_flight: int

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        on_done: Callable[[Result], None],
        on_lost: Callable[[Item], Result],
        at_once: int | None = None,
    ) -> list[Result]:
        """As `runner.Pool.run`."""
        waiting = enumerate(items)
        positions: dict[Future[Any], int] = {}
        results: dict[int, Result] = {}

        def submit(count: int) -> list[Future[Any]]:
            new = {self.client.submit(function, item, pure=False): i for i, item in islice(waiting, count)}
            positions.update(new)
            return list(new)

        done = as_completed(submit(at_once or self.in_flight), loop=self.client.loop)
        for future in done:
            position = positions.pop(future)
            try:
                results[position] = future.result()
            except KilledWorker:
                results[position] = on_lost(items[position])
            except (CancelledError, CommClosedError) as error:
                raise UnavailableError(f"the Dask scheduler {self.address} was lost") from error
            on_done(results[position])
            for new in submit(1):
                done.add(new)
        return [results[position] for position in range(len(items))]


class _DeafToCtrlC(WorkerPlugin):
    """Ctrl-C goes to every process of a terminal; what it means is decided by the run, not by its workers."""

    def setup(self, worker: Any) -> None:
        with suppress(ValueError):  # not in its process's main thread: then it does not get it either
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def start_processes(workers: int, folder: Path) -> Iterator[Cluster]:
    """`workers` processes of one thread each on this machine, gone when the block ends.

    Only this machine can reach them (loopback), and there is no dashboard.

    Args:
        workers: how many; each may use its share of the machine's memory.
        folder: a private one for what the processes put on disk.

    Raises:
        UnavailableError: they did not start.
    """
    with _silence(), dask.config.set(_SETTINGS):
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                scheduler_port=0,
                dashboard_address="127.0.0.1:0",  # with None its HTTP server takes port 8787, or warns
                memory_limit=1.0 / workers,
                local_directory=str(folder),
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError, TimeoutError) as error:
            raise UnavailableError(
                f"worker processes did not start: {error}; in a script, call geosr under if __name__ == '__main__'"
            ) from error
        try:
            with Client(cluster, set_as_default=False) as client:
                client.register_plugin(_DeafToCtrlC())
                yield Cluster(client, cluster.scheduler_address, 2 * workers)
        finally:
            _kill(cluster)  # what they did is on disk; in the middle of a tile they would not listen to anything else
            with suppress(TimeoutError):
                cluster.close(timeout=_END)


def _kill(cluster: LocalCluster) -> None:
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with suppress(OSError, TypeError):  # TypeError: it has no process just now
            os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def connect(address: str, workers: int | None, files: Mapping[Path, int], folder: Path) -> Iterator[Cluster]:
    """The workers of an existing scheduler, looked at before they get any work.

    Args:
        address: `tcp://host:port`.
        workers: items in work at once; as many as its workers take when None.
        files: what they must see, with sizes in bytes.
        folder: what they must be able to write in.

    Raises:
        UnavailableError: no scheduler answers there, it has no workers, or one of these is unfit.
    """
    with _silence():
        try:
            client = Client(address, timeout=_START, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise UnavailableError(f"no Dask scheduler answers at {address}; start it, or correct it") from error
        with client:
            _await_workers(client, address)
            _check(client, files, folder)
            yield Cluster(client, address, workers or 2 * sum(client.nthreads().values()))


@contextmanager
def _silence() -> Iterator[None]:
    """Connections that end are part of every end; what matters is told by events and errors."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    before = {logging.getLogger(name): logging.getLogger(name).level for name in names}  # some have their own
    for logger in before:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def _await_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_START)
    except TimeoutError as error:
        raise UnavailableError(f"the Dask scheduler {address} has no workers; start some") from error


def dashboard(client: Client) -> str | None:
    """The address of the scheduler's dashboard, if it has one."""
    return client.dashboard_link if client.scheduler_info()["services"].get("dashboard") else None


def _check(client: Client, files: Mapping[Path, int], folder: Path) -> None:
    try:
        found = client.run(_make_look({str(path): size for path, size in files.items()}, str(folder)))
    except GeosrError:
        raise
    except Exception as error:
        raise UnavailableError(f"the workers cannot be looked at: {error}") from error
    for worker, problem in found.items():
        if problem:
            raise UnavailableError(f"the worker {worker} {problem}")


def _make_look(files: Mapping[str, int], folder: str) -> Callable[[], str | None]:
    """What a worker runs: it travels as code, for the worker may have another geosr or none."""
    expected = __version__

    def look() -> str | None:
        import os
        import tempfile

        try:
            from geosr.version import __version__
        except ImportError:
            return f"has no geosr; install {expected} there"
        if __version__ != expected:
            return f"has geosr {__version__}, this is {expected}; install the same version there"
        shared = "inputs and output must lie on storage that all workers share, under the same paths"
        for path, size in files.items():
            if not os.path.isfile(path) or os.path.getsize(path) != size:
                return f"does not see the same {path}; {shared}"
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                return None
        except OSError as error:
            return f"cannot write in {folder} ({error.strerror}); {shared}"

    return look

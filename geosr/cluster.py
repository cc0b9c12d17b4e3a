"""Worker processes under dask.distributed: started here, or an existing cluster's; for one run or for several at once.

A process may die (killed, out of memory, a crash in a library) without the run: distributed gives its item to another
one, and an item that its workers do not survive twice is lost. One that hangs is ended, which is the same to its item.
Nothing else starts `distributed`, which takes a while.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import dask.config
from distributed import Client, Future, KilledWorker, Nanny, Scheduler, SpecCluster, WorkerPlugin
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError
from distributed.protocol.pickle import dumps

from geosr.errors import UnavailableError
from geosr.once import Once
from geosr.watch import Watch

Item = TypeVar("Item")
Result = TypeVar("Result")

_START = 10  # seconds for an existing scheduler to answer and to have a worker
_STARTED = 180  # seconds for workers to start, or to look: each loads its libraries, if busy in tens of seconds
_END = 5  # seconds for the scheduler to come to its end
_LOOK = 1.0  # seconds between two looks at the workers
_ANSWER = 60  # seconds for a scheduler to say something that takes milliseconds
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 1,  # a tile takes minutes: two workers are enough to lose
    "distributed.scheduler.worker-saturation": 1.0,  # no tile waits in a worker, to be blamed for its death
    "distributed.worker.multiprocessing-method": "spawn",  # after a fork torch hangs
    # with it freed memory is given back at once, and a tile of diffusion took 1.07 s, not 0.15
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.logging.distributed": "critical",  # what matters is told by events
}


Look = Callable[[], str | None]
"""What is wrong with the worker that calls it, as the end of a sentence; None if nothing is."""


@dataclass(frozen=True)
class Cluster:
    """Workers under a Dask scheduler; several threads may give them items at once.

    Attributes:
        client: of the scheduler.
        workers: items that they work on at once.
        in_flight: items of one run at most in progress or waiting at the scheduler; when None, two for each thread that
            the workers have by then.
        keeper: looks after the workers, for all runs together.
        look: what every worker calls before its first item; None where they are known to be as this process is.
    """

    client: Client
    workers: int
    in_flight: int | None
    keeper: Keeper
    look: Look | None = None

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        on_done: Callable[[Result], None],
        on_lost: Callable[[Item, str], Result],
        tell: Callable[[str], None] = lambda text: None,
        at_once: int | None = None,
    ) -> list[Result]:
        """As `runner.Pool.run`.

        Raises:
            UnavailableError: the scheduler was lost, has had no workers for too long, or the pool was closed.
        """
        run = _Run(self, function, items, on_lost, tell)
        try:
            while run.rest or run.positions:
                self.keeper.look()
                run.hand_out(at_once or self.in_flight or self.keeper.room)
                if taken := run.take():
                    position, result = taken
                    run.results[position] = result
                    on_done(result)
        except (CancelledError, CommClosedError, ClosedClientError) as error:
            raise self.keeper.lost() from error
        finally:
            for future in run.positions:  # an error's traceback would hold them, and the workers would go on
                self.keeper.forget(future)
                future.release()
        return [run.results[position] for position in range(len(items))]


class _Run:
    """One run's items: those not handed out yet, those that are by their futures, and the results."""

    def __init__(
        self,
        cluster: Cluster,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        on_lost: Callable[[Item, str], Result],
        tell: Callable[[str], None],
    ) -> None:
        self.rest = deque(range(len(items)))
        self.positions: dict[Future[Any], int] = {}
        self.results: dict[int, Any] = {}
        self._cluster, self._function, self._items, self._on_lost, self._tell = cluster, function, items, on_lost, tell
        self._work = _make_work(function, cluster.look)
        self._inbox: queue.SimpleQueue[Future[Any] | str] = queue.SimpleQueue()

    def hand_out(self, most: int) -> None:
        """Items to the scheduler, until it has `most`."""
        while self.rest and len(self.positions) < most:
            self._submit(self.rest.popleft(), self._work)

    def _submit(self, position: int, work: Callable[[bytes], Any]) -> None:
        future = self._cluster.client.submit(work, dumps(self._items[position]), pure=False)
        self.positions[future] = position
        self._cluster.keeper.follow(future, self._inbox.put)
        future.add_done_callback(self._inbox.put)

    def take(self) -> tuple[int, Any] | None:
        """An item's position and its result, if one comes soon."""
        try:
            future = self._inbox.get(timeout=_LOOK)
        except queue.Empty:
            return None
        if isinstance(future, str):
            self._tell(future)
            return None
        self._cluster.keeper.check()  # of a pool that was closed every item is lost
        position = self.positions[future]
        try:
            refusal, result = _result(future)
        except _NotHandedOutError:
            future.add_done_callback(self._inbox.put)
            return None
        except KilledWorker as error:
            reason = self._cluster.keeper.reason(str(future.key), error.allowed_failures + 1)
            refusal, result = None, self._on_lost(self._items[position], reason)
        self._cluster.keeper.forget(future)
        del self.positions[future]
        if refusal:
            self._submit(position, self._after(*refusal))
            return None
        return position, result

    def _after(self, worker: str, problem: str) -> Callable[[bytes], Any]:
        """How an item is handed out again that a worker refused, being unfit for it."""
        look = self._cluster.look
        if look and look():  # nor is this process fit, a file was replaced: the item itself says what that means for it
            return _make_work(self._function, None)
        if self._cluster.keeper.shun(worker):
            self._tell(f"the worker {worker} {problem}; it gets no tiles")
        return self._work


def _make_work(function: Callable[[Any], Any], look: Look | None) -> Callable[[bytes], Any]:
    """What a worker runs for an item: a refusal with its address and what is wrong with it, or None and the result.

    It travels as code, with the function and the items packed up: an unfit worker could not even unpack them. A worker
    that has passed the look once is not asked again.
    """
    packed, name = dumps(function), uuid4().hex

    def work(item: bytes) -> tuple[tuple[str, str] | None, Any]:
        from distributed import get_worker
        from distributed.protocol.pickle import loads

        worker = get_worker()
        passed = worker.__dict__.setdefault("geosr_passed", set())
        if look and name not in passed:
            problem = look()
            if problem:
                return (worker.address, problem), None
            passed.add(name)
        return None, loads(packed)(loads(item))

    return work


class _NotHandedOutError(Exception):
    """A worker has finished an item and does not give its result."""


def _result(future: Future[Any]) -> Any:
    """What the item gave or raised."""
    if future.status in ("error", "cancelled"):  # known here; it may be a TimeoutError of its own
        return future.result()
    try:
        return future.result(timeout=_LOOK)
    except TimeoutError as error:
        raise _NotHandedOutError from error


class Keeper:
    """Looks at a cluster's workers now and then, ends those that are hung, and knows what they were at.

    One for all runs: a worker may hold items of several, and the time that it gets follows from all that were done.
    """

    def __init__(self, client: Client, address: str, timeout: float | None) -> None:
        """`timeout`: seconds of the watch; derived from the times that workers take when None."""
        self._client, self._address, self._watch = client, address, Watch(timeout)
        self._waiting: dict[str, Callable[[str], None]] = {}  # items whose results are not here yet; whom to tell
        self._ended: dict[str, float] = {}  # items whose worker was ended, after how many seconds
        self._threads = 0
        self._unfit: set[str] = set()
        self._changing, self._looking = threading.Lock(), threading.Lock()
        self._next = 0.0
        self._over: str | None = None

    def follow(self, future: Future[Any], tell: Callable[[str], None]) -> None:
        """An item that is waited for; `tell` is called, in any thread, with a sentence when its worker is ended."""
        with self._changing:
            self._waiting[str(future.key)] = tell

    def forget(self, future: Future[Any]) -> None:
        """It is not waited for any more."""
        with self._changing:
            self._waiting.pop(str(future.key), None)

    @property
    def room(self) -> int:
        """Items that are worth handing out: two for each thread, or one that waits for a worker to come."""
        return max(1, 2 * self._threads)

    def shun(self, worker: str) -> bool:
        """Have the scheduler give a worker nothing more, until the pool is closed; whether that is news."""
        with self._changing:
            new = worker not in self._unfit
            self._unfit.add(worker)
        self._order(_make_shun(worker))
        return new

    def pardon(self) -> None:
        """Have it give them something again, also those that a run had shunned and was killed."""
        self._order(_make_pardon())

    def _order(self, order: Callable[..., Any]) -> None:
        """Have the scheduler run something."""
        if self._client.scheduler is None:  # being lost: the items will say so
            return
        try:
            self._client.sync(self._client._run_on_scheduler, order, callback_timeout=_ANSWER)
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"the Dask scheduler {self._address} was lost") from error

    def check(self) -> None:
        """Raise what ended the pool, if it has ended."""
        if self._over is not None:
            raise UnavailableError(self._over)

    def close(self, why: str) -> None:
        """From now on no run gets any further."""
        self._over = self._over or why

    def lost(self) -> UnavailableError:
        """What to raise where the connection broke: the scheduler was lost, unless the pool was closed before."""
        self.close(f"the Dask scheduler {self._address} was lost")
        return UnavailableError(str(self._over))

    def look(self) -> None:
        """At most once a second, whichever run asks.

        Raises:
            UnavailableError: the scheduler does not answer, has had no workers for too long, or the pool was closed.
        """
        self.check()
        if time.monotonic() < self._next or not self._looking.acquire(blocking=False):
            return
        try:
            self._next = time.monotonic() + _LOOK
            self._look()
        except UnavailableError as error:
            self.close(str(error))
            raise
        finally:
            self._looking.release()

    def _look(self) -> None:
        with self._changing:
            ours = dict(self._waiting)
        work = self._ask(ours)
        able = {worker: keys for worker, keys in work.items() if keys or worker not in self._unfit}
        for worker in self._watch.look(able, time.monotonic()):
            if ours.keys() >= {*work[worker]}:  # never to the cost of somebody else's work on a shared cluster
                self._end(worker, {key: ours[key] for key in work[worker]})
        if self._watch.alone:
            fit = "fit " if self._unfit else ""
            raise UnavailableError(
                f"the Dask scheduler {self._address} has had no {fit}workers for {self._watch.limit_alone:.0f} s; "
                "start some, or wait for them longer with --tile-timeout"
            )

    def _ask(self, ours: Iterable[str]) -> dict[str, list[str]]:
        """What each worker owes: items in progress, and results that it has not handed out. Counts their threads."""
        client = self._client

        async def ask(scheduler: Any) -> tuple[dict[str, int], dict[str, list[str]], dict[str, list[str]]]:
            threads = await scheduler.ncores(workers=None)
            return threads, await scheduler.processing(workers=None), await scheduler.who_has(keys=list(ours))

        if client.scheduler is None:  # as above
            return {}
        unfit = {*self._unfit}
        try:
            threads, processing, holders = client.sync(ask, client.scheduler, callback_timeout=_ANSWER)
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"the Dask scheduler {self._address} was lost: it does not answer") from error
        with self._changing:
            self._unfit -= unfit - threads.keys()  # another may come under the address of one that is gone
            self._threads = sum(count for worker, count in threads.items() if worker not in self._unfit)
        work = {worker: [str(key) for key in keys] for worker, keys in processing.items()}
        for key, workers in holders.items():
            for worker in workers:
                work.setdefault(worker, []).append(key)
        return work

    def _end(self, worker: str, items: Mapping[str, Callable[[str], None]]) -> None:
        limit = self._watch.limit
        self._ended |= dict.fromkeys(items, limit)
        for tell in {*items.values()}:  # every run that it worked for
            tell(f"the worker {worker} made no progress for {limit:.0f} s and is ended")
        self._order(_make_end(worker))

    def reason(self, key: str, attempts: int) -> str:
        """Why an item that no worker brought to its end is given up."""
        times = "twice" if attempts == 2 else f"{attempts} times"
        if key not in self._ended:
            return f"its worker process died, {times}: killed, out of memory, or crashed"
        given = f"no progress for {self._ended[key]:.0f} s; --tile-timeout gives it longer"
        return f"its worker process hung or died, {times}: {given}"


@contextmanager
def _opened(cluster: Cluster) -> Iterator[Cluster]:
    """The pool; when the block ends, runs that other threads still have on it end, before their workers do."""
    try:
        yield cluster
    finally:
        cluster.keeper.close("the workers' pool was closed")


@contextmanager
def _pardoned(keeper: Keeper) -> Iterator[None]:
    """Whatever ends the block, no worker stays shunned."""
    try:
        yield
    finally:
        with suppress(UnavailableError):  # the scheduler was lost
            keeper.pardon()


def _make_shun(worker: str) -> Callable[..., None]:
    """What the scheduler runs so that a worker gets no tasks; it travels as code.

    The worker itself is left as it is: told to pause, one with a limit on its memory would soon go on.
    """

    def shun(dask_scheduler: Any) -> None:
        if known := dask_scheduler.workers.get(worker):
            known.extra["shunned by geosr"] = True
            dask_scheduler.handle_worker_status_change("paused", worker, "geosr-unfit-worker")

    return shun


def _make_pardon() -> Callable[..., None]:
    """What the scheduler runs so that all workers that were shunned get tasks again: for others they may be fit."""

    def pardon(dask_scheduler: Any) -> None:
        for worker, known in dask_scheduler.workers.items():
            if known.extra.pop("shunned by geosr", False):
                dask_scheduler.handle_worker_status_change("running", worker, "geosr-unfit-worker")

    return pardon


def _make_end(worker: str) -> Callable[..., Any]:
    """What the scheduler runs to end one worker; it travels as code, for the scheduler may be without geosr.

    First the scheduler forgets it, which counts against its items as its death would: a process that could still
    say goodbye would be excused, and its items tried for ever. A stopped process hears nothing but SIGKILL, which its
    nanny sends after asking; one without a nanny is told to close.
    """

    async def end(dask_scheduler: Any) -> None:
        import asyncio
        from contextlib import suppress

        from distributed.core import rpc

        known = dask_scheduler.workers.get(worker)
        if known is None:
            return
        await dask_scheduler.remove_worker(worker, stimulus_id="geosr-hung-worker", close=not known.nanny)
        if known.nanny:
            with suppress(OSError, asyncio.TimeoutError):
                async with rpc(known.nanny, connection_args=dask_scheduler.connection_args) as nanny:
                    await asyncio.wait_for(nanny.kill(timeout=1, reason="geosr-hung-worker"), 10)

    return end


class _DeafToCtrlC(WorkerPlugin):
    """Ctrl-C goes to every process of a terminal; what it means is decided by the run, not by its workers."""

    def setup(self, worker: Any) -> None:
        with suppress(ValueError):  # not in its process's main thread: then it does not get it either
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def start_processes(
    workers: int,
    folder: Path,
    *,
    gpus: Sequence[str] = (),
    timeout: float | None = None,
) -> Iterator[Cluster]:
    """`workers` processes of one thread each on this machine, gone when the block ends.

    Only this machine can reach them (loopback), and there is no dashboard.

    Args:
        workers: how many; each may use its share of the machine's memory.
        folder: a private one for what the processes put on disk.
        gpus: the one that each process sees (its CUDA_VISIBLE_DEVICES); all of them when empty.
        timeout: seconds of the watch; derived from the times that workers take when None.

    Raises:
        UnavailableError: they did not start.
    """
    options = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "memory_limit": 1.0 / workers,
        "local_directory": str(folder),
        "silence_logs": logging.CRITICAL,
    }
    environments = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * workers
    nannies: list[Nanny] = []

    def make_nanny(*arguments: Any, **options: Any) -> Nanny:
        nannies.append(Nanny(*arguments, **options))
        return nannies[-1]

    def start() -> tuple[Client, str]:
        cluster = SpecCluster(
            workers={i: {"cls": make_nanny, "options": options | {"env": env}} for i, env in enumerate(environments)},
            scheduler={
                "cls": Scheduler,
                # without an address for the dashboard its HTTP server takes port 8787, or warns
                "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
            },
            silence_logs=logging.CRITICAL,
        )
        ends.callback(_close, cluster, nannies)
        client = ends.enter_context(Client(cluster, set_as_default=False))
        client.register_plugin(_DeafToCtrlC())
        return client, cluster.scheduler_address

    _start_tracker()
    with _silent(), _configured(), ExitStack() as ends:
        client, address = _started(start, nannies)
        keeper = Keeper(client, address, timeout)
        with _opened(Cluster(client, workers, 2 * workers, keeper)) as pool:
            yield pool


def _started(start: Callable[[], Result], nannies: Sequence[Nanny]) -> Result:
    """What `start` gives; no process is left of a start that fails, is interrupted or takes too long.

    It is on a thread of its own: when its processes are killed it fails and clears up, which an interruption of it
    would not let it do.

    Raises:
        UnavailableError: it failed, or took too long.
    """
    thread = ThreadPoolExecutor(1)
    starting = thread.submit(start)
    thread.shutdown(wait=False)
    try:
        return starting.result(timeout=_STARTED)
    except (OSError, RuntimeError, TimeoutError) as error:
        late = f" within {_STARTED} s; use fewer workers"
        why = f": {str(error).rstrip('.')}{_hint()}" if starting.done() else late
        raise UnavailableError(f"worker processes did not start{why}") from error
    finally:
        until = time.monotonic() + _END
        while not starting.done() and time.monotonic() < until:
            _kill(nannies)  # those, too, that begin only now
            wait([starting], timeout=_LOOK)


def _hint() -> str:
    """What a script may lack: every worker process imports it. The command has it."""
    return "" if "geosr_cli" in sys.modules else "; in a script, call geosr under if __name__ == '__main__'"


def _start_tracker() -> None:
    """Start multiprocessing's tracker of resources, deaf to the closing of a terminal, which goes to every process.

    It bears Ctrl-C and SIGTERM by itself; if it died before the workers, they would start it again without its records
    and it would say so at length.
    """
    if sys.platform == "win32":  # it has neither
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it inherits what is blocked
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close(cluster: SpecCluster, nannies: Sequence[Nanny]) -> None:
    _kill(nannies)  # what they did is on disk; in the middle of a tile they would not listen to anything else
    with suppress(TimeoutError):
        cluster.close(timeout=_END)


def _kill(nannies: Sequence[Any]) -> None:
    """The worker processes, at once and for good."""
    for nanny in nannies:
        nanny.auto_restart = False
        with suppress(OSError, TypeError):  # TypeError: it has no process just now
            os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def connect(
    address: str,
    workers: int | None,
    look: Look,
    *,
    timeout: float | None = None,
) -> Iterator[Cluster]:
    """The workers of an existing scheduler, each looked at before it gets any work, also one that joins later.

    Args:
        address: `tcp://host:port`.
        workers: items in progress at once; as many as its workers take when None.
        look: what each worker calls, which may have another geosr or none.
        timeout: seconds of the watch; derived from the times that workers take when None.

    Raises:
        UnavailableError: no scheduler answers there, it has no workers, or one of these is unfit.
    """
    with _silent():
        try:
            client = Client(address, timeout=_START, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise UnavailableError(f"no Dask scheduler answers at {address}; start it, or correct it") from error
        try:
            keeper = Keeper(client, address, timeout)
            keeper.pardon()
            _await_workers(client, address)
            _check(client, look)
            there = sum(client.nthreads().values())
            if not there:
                raise UnavailableError(f"the workers of the Dask scheduler {address} left; start some")
            with _opened(Cluster(client, workers or there, workers, keeper, look)) as pool, _pardoned(keeper):
                yield pool
        finally:
            with suppress(OSError, RuntimeError):  # a client whose scheduler was lost may stumble over that once more
                client.close()


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


_silent = Once(_silence)
_configured = Once(lambda: dask.config.set(_SETTINGS))


def _await_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_START)
    except TimeoutError as error:
        raise UnavailableError(f"the Dask scheduler {address} has no workers; start some") from error


def dashboard(client: Client) -> str | None:
    """The address of the scheduler's dashboard, if it has one."""
    return client.dashboard_link if client.scheduler_info()["services"].get("dashboard") else None


def _check(client: Client, look: Look) -> None:
    try:
        found = client.sync(client._run, look, callback_timeout=_STARTED)  # `run` would wait for ever
    except TimeoutError as error:
        raise UnavailableError(f"a worker does not answer within {_STARTED} s; see the cluster's own list") from error
    except Exception as error:
        raise UnavailableError(f"the workers cannot be looked at: {error}") from error
    for worker, problem in found.items():
        if problem:
            raise UnavailableError(f"the worker {worker} {problem}")

"""A method tried on one patch, here or in a process of its own: its answer, seconds and peak memory."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from geosr import methods
from geosr.errors import OutOfMemoryError, TileError

if TYPE_CHECKING:
    from geosr.methods.base import Patch

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """What a method made of a patch.

    Attributes:
        values: (s*h, s*w) float64, in the patch's normalised units.
        seconds: of fit and prediction.
        memory: bytes at the process's peak, torch and all; None where that cannot be told.
    """

    values: Array
    seconds: float
    memory: int | None


def attempt(patch: Patch, name: str, kind: str, *, seed: int, device: str, threads: int) -> Trial:
    """Fit a method (`methods.create_as`) on a patch and predict it, projected where its preset says so.

    Raises:
        TileError: the fit failed.
        UnavailableError, UsageError, InputError: the method cannot be made.
    """
    from geosr.device import torch_threads
    from geosr.methods.judgement import exact
    from geosr.methods.solve import predict

    method = methods.create_as(name, kind)
    started = time.monotonic()
    with torch_threads(threads):
        found = predict(patch, method, seed, device)[1].values
    values = exact(found, patch) if method.consistency == "exact" else found.astype(np.float64)
    return Trial(values, time.monotonic() - started, peak_memory())


def attempt_alone(patch: Patch, name: str, kind: str, *, seed: int, device: str, threads: int) -> Trial:
    """`attempt` in a process of its own, so that the memory is the method's.

    Raises:
        TileError: the fit failed, memory ran out, or the process died.
        UnavailableError, UsageError, InputError: the method cannot be made.
    """
    context = multiprocessing.get_context("spawn")  # a forked one would begin with this one's memory
    receiver, sender = context.Pipe(duplex=False)
    work = partial(attempt, patch, name, kind, seed=seed, device=device, threads=threads)
    process = context.Process(target=_send, args=(sender, work))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        raise TileError("its process died: killed, out of memory, or crashed") from None
    finally:
        process.kill()  # also when this one is interrupted: nothing is to go on behind the user's back
        process.join()
    if isinstance(found, MemoryError):  # numpy's: only torch's is told as an error of the tile
        raise OutOfMemoryError(str(found) or "out of memory")
    if isinstance(found, Exception):
        raise found
    return cast(Trial, found)


def _send(sender: Connection, work: Callable[[], Trial]) -> None:
    """In the other process: the trial, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that waits ends this one
    try:
        sender.send(work())
    except Exception as error:
        sender.send(error)


def peak_memory() -> int | None:
    """Bytes that this process held at its peak.

    Linux's own count of the address space is asked: getrusage's begins with the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    if sys.platform != "linux" or not status.exists():
        return None
    line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
    return 1024 * int(line.split()[1]) if line else None

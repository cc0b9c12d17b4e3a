"""The hidden folders beside an output: their names, the locks on them, and how they go.

There are two kinds: scratch folders, of no use when their block ends, and run folders, see `run_folder`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from geosr.digests import digest_of
from geosr.errors import OutputError
from geosr.files import reported
from geosr.raster_guard import show

_NAME = 40  # characters of the output's name in a folder's: long names must leave room for the rest


def run_folder_of(output: Path) -> Path:
    """Where the run folder of `output` lies: the name follows from the output's."""
    return output.with_name(f".{output.name[:_NAME]}-{digest_of(os.fsencode(output.name))[:8]}.geosr")


@contextmanager
def locked(path: Path, output: Path) -> Iterator[None]:
    """Hold the folder's lock file, made with the folder if need be."""
    with reported(f"cannot write in {output.parent}"):
        lock = _lock(path, output)
    with lock:
        with suppress(OSError):  # who holds it is said for people; on a full disk the manifest will fail
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _lock(path: Path, output: Path) -> IO[bytes]:
    while True:
        path.mkdir(mode=0o700, exist_ok=True)
        if path.is_symlink() or not _is_ours(path):
            raise OutputError(f"{path} is in the way: geosr keeps unfinished work under that name; remove it")
        try:
            lock = (path / "lock").open("a+b", buffering=0)
        except FileNotFoundError:  # the run that held it has just finished
            continue
        _take(lock, output)
        if _is_file(lock, path / "lock"):
            return lock
        lock.close()


def _is_ours(path: Path) -> bool:
    """Whether what this process makes in that place has the same owner.

    The name can be guessed, and in a folder that everybody may write to another user could have put links in it
    beforehand. The owner is compared with a new file's: shares that map users have one for all.
    """
    with tempfile.TemporaryFile(dir=path.parent) as made:
        return os.fstat(made.fileno()).st_uid == path.lstat().st_uid


def _take(lock: IO[bytes], output: Path) -> None:
    """Lock an open file for this process, or refuse."""
    if sys.platform == "win32":  # it has no such locks
        return
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read(200).decode(errors="replace") or "another process"
        lock.close()
        raise OutputError(
            f"{output} is being made by another run ({holder}); wait for its end, or give another name"
        ) from None


def _is_file(lock: IO[bytes], path: Path) -> bool:
    """Whether the file that was locked still has its name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A private hidden folder beside a path, gone when the block ends, however it ends.

    Those that killed processes left for the same path are removed first. A folder in use is known by the lock on it,
    which the kernel frees when its process ends.

    Raises:
        OutputError: the folder above is missing or cannot be written to.
    """
    with reported(f"cannot write in {beside.parent}"):
        _remove_abandoned(beside)
        made = Path(tempfile.mkdtemp(prefix=f".{beside.name[:_NAME]}.", suffix=".geosr.new", dir=beside.parent))
        lock = _lock_folder(made) or ExitStack()
        path = made.rename(made.with_suffix(""))  # only now: before it had its lock it would have looked abandoned
    with lock:
        try:
            yield path
        finally:
            remove(path)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that gets the name `folder` when the block ends well: all of it is there, or nothing.

    Raises:
        OutputError: as `scratch_folder`, or whatever the system refuses in the block.
    """
    with scratch_folder(folder.absolute()) as hidden, reported(f"{show(folder)} was not written"):
        made = hidden / "made"
        made.mkdir()
        yield made
        made.rename(folder)


def _remove_abandoned(beside: Path) -> None:
    """Remove what `scratch_folder` left for the same path: folders of ours on which no process has a lock."""
    ours = re.compile(rf"\.{re.escape(beside.name[:_NAME])}\.[a-z0-9_]{{8}}\.geosr(\.gone)?")
    for left in [path for path in beside.parent.glob(".*.geosr*") if ours.fullmatch(path.name)]:
        if lock := _lock_folder(left):
            with lock, suppress(OSError):
                if _is_ours(left):
                    erase(left)


def _lock_folder(path: Path) -> ExitStack | None:
    """The lock on a folder, held until it is closed; None where another process has it, or where there are none.

    Network file systems have none on folders: what is left there stays.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with ExitStack() as held:
        held.callback(os.close, opened)
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(opened), path.lstat()):  # not removed meanwhile by who held it
                return held.pop_all()
    return None


def remove(path: Path) -> None:
    """Remove a file or a folder, first of all its name."""
    with suppress(OSError):  # after it a tile still in progress cannot add a file to the folder being emptied
        path = path.rename(gone(path))
    erase(path)


def gone(path: Path) -> Path:
    """Its name while it is being removed."""
    return path.with_name(f"{path.name}.gone")


def erase(path: Path) -> None:
    """Remove a file or a folder, as far as it can be; of a link what it leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

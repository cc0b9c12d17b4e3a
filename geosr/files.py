"""Files on disk: what can be written where, seen before any work, and a file that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geosr.errors import OutputError, UsageError
from geosr.raster_guard import show


def check_room(folder: Path, needed: int) -> None:
    """See that the disk has room for what will be made in `folder`, beside what lies there already.

    Raises:
        OutputError: it has not.
    """
    there = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a file that was being written has got its name
                there += os.lstat(os.path.join(inside, name)).st_size
    free = shutil.disk_usage(folder).free
    if free < needed - there:
        raise OutputError(
            f"the run needs up to {_size(needed - there)} of disk until its end, and {folder.parent} has "
            f"{_size(free)} free; make room, write to another disk, or do a part with --bounds"
        )


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def check_place(path: Path) -> Path:
    """Where a file of that name will really lie, links resolved: see before any work that one can be made there.

    Raises:
        OutputError: it is a folder, its own folder does not exist or takes no files, or the system cannot have such a
            name.
    """
    name = show(path)
    if "\0" in str(path):
        raise OutputError(f"{name} cannot be written: no file's name has a NUL in it")
    with reported(f"{name} cannot be written"):  # too long a name, no permission to look
        real = Path(os.path.realpath(path))
        if real.is_dir():
            raise OutputError(f"{name} is a folder; give the name of a file to write")
        if not real.parent.is_dir():
            raise OutputError(f"{show(real.parent)} does not exist; make the folder first")
        with reported(f"cannot write in {show(real.parent)}"), tempfile.TemporaryFile(dir=real.parent):
            return real


def check_new(folder: Path) -> None:
    """See before any work that a folder of that name can be made.

    Raises:
        UsageError: it is there.
        OutputError: as `check_place`.
    """
    if os.path.lexists(folder):
        raise UsageError(f"{show(folder)} exists; give a folder that does not")
    check_place(folder)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there with all of `data`, on disk, or not there at all; one of that name is replaced.

    A link is kept, and the file that it leads to written.

    Raises:
        OutputError: there is no space left, or no permission.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    with reported(f"cannot write {path}"):
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Whatever the system refuses becomes an `OutputError` that begins with `what`."""
    try:
        yield
    except OutputError:  # an OSError itself
        raise
    except OSError as error:
        raise OutputError(f"{what}: {error.strerror or error}") from error

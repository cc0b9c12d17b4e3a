"""Which of its files a run has given their names: a run that was killed meanwhile must know its own again.

`published.json` in the run folder lists the finished files that are about to get names, and how to know them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from geosr.files import write_whole
from geosr.scratch import erase, gone, locked, remove, run_folder_of

PUBLISHED = "published.json"
"""Name of the list."""


def note_published(folder: Path, files: Mapping[Path, Path]) -> None:
    """Write down in the run folder which files are about to get names, one after the other, the output's own last.

    Those that an earlier run has named stay listed: should this one be killed now, they are the run's own still.

    Args:
        folder: the run folder.
        files: in that folder, by the name that each will get.

    Raises:
        OutputError: there is no space left, or no permission.
    """
    earlier = [
        [str(name), file.name, identity] for name, file, identity in _noted(folder) if _identity(name) == identity
    ]
    known = [*earlier, *([str(name), file.name, _identity(file)] for name, file in files.items())]
    write_whole(folder / PUBLISHED, json.dumps(known).encode())


def remove_finished(output: Path) -> None:
    """Remove the run folder of a run that was killed after it had named `output`; that of any other is left alone."""
    path = run_folder_of(output)
    with suppress(OSError):  # no permission, or a run is at work there
        erase(gone(path))
        if is_published(path):
            with locked(path, output):
                remove(path)


def published_before(output: Path) -> frozenset[Path]:
    """The files to which a run for `output` had given their names when it was ended before its own end.

    None where it had named the output, and that has been moved since.
    """
    return published_in(run_folder_of(output))


def published_in(folder: Path) -> frozenset[Path]:
    """As `published_before`, of the run with that folder."""
    known = _noted(folder)
    there = frozenset(name for name, _, identity in known if _identity(name) == identity)
    return there if not known or known[-1][0] in there or not is_published(folder) else frozenset()


def is_published(folder: Path) -> bool:
    """Whether the last of the files, the output, has or had its name: one that was moved is still linked here."""
    known = _noted(folder)
    if not known:
        return False
    output, file, _ = known[-1]
    with suppress(FileNotFoundError):
        if file.lstat().st_nlink > 1:
            return True
    return any(name == output and _identity(name) == identity for name, _, identity in known)


def _noted(folder: Path) -> list[tuple[Path, Path, list[int]]]:
    """What `note_published` wrote: each name, the file in the folder and its identity; empty if it cannot be read."""
    try:
        known = json.loads((folder / PUBLISHED).read_text("utf-8"))
        return [(Path(name), folder / file, identity) for name, file, identity in known]
    except (OSError, ValueError, TypeError):
        return []


def _identity(file: Path) -> list[int] | None:
    """Device, inode, size and modification time, which naming does not change."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]

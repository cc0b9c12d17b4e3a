"""What this machine has for a process: processors and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit() -> int | None:
    """Bytes that this process may use: the machine's memory, or what its control group (a container, a job) is allowed.

    None where that cannot be told.
    """
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return min([machine, *group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def group_limits(groups: Path, root: Path) -> Iterator[int]:
    """What each control group above this process allows, in bytes; a container sees only some of them.

    Args:
        groups: lists those that the process is in, as Linux does.
        root: where their settings are, of version 2, or of version 1 in folders by resource.
    """
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, resources, group = line.split(":", 2)
            if resources not in ("", "memory"):
                continue
            top, name = (root / "memory", "memory.limit_in_bytes") if resources else (root, "memory.max")
            below = Path(group.lstrip("/"))
            for folder in (below, *below.parents):
                with suppress(OSError, ValueError):  # ValueError: the word max
                    yield int((top / folder / name).read_text())

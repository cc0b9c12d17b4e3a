"""How a run grows with its output: seconds by stage, the coordinating process's memory, and the disk.

    PYTHONPATH=examples python benchmarks/scale.py FOLDER --sizes 2000 5000 10000 20000

For outputs of each size (pixels a side): seconds by stage and of the processor, the peak of the process's resident
memory, and the most that its run folder held against what was said beforehand. Inputs are made in FOLDER once and
stay there; outputs are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from large_pair import SCALE, make_pairs

from geosr.estimates import scratch_bytes
from geosr.options import Inputs, Recipe
from geosr.plan import make_plan

_LOOK = 0.05  # seconds between two looks at the run folder


@dataclass(frozen=True)
class Cost:
    """Of one command: wall seconds, CPU seconds, bytes of resident memory at the peak."""

    wall: float
    processor: float
    memory: int


def watch(command: Sequence[str | Path], look: Callable[[], None] = lambda: None) -> Cost:
    """Run a command to its end, calling `look` again and again."""
    start = time.monotonic()
    run = subprocess.Popen([str(part) for part in command])
    while True:
        ended, status, used = os.wait4(run.pid, os.WNOHANG)
        if ended:
            break
        look()
        time.sleep(_LOOK)
    if status:
        raise SystemExit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def upscale(source: Path, guide: Path, output: Path, *options: str) -> list[str | Path]:
    """The command."""
    files = ("--source", source, "--guide", guide, "--scale", str(SCALE), "-o", output)
    return [sys.executable, "-m", "geosr", "upscale", *files, "--overwrite", "--quiet", *options]


def held(output: Path) -> int:
    """Bytes of all that lies in the output's run folder, as far as it is not being removed."""
    total = 0
    with suppress(FileNotFoundError):
        for path in output.parent.glob(f".{output.name}-*.geosr/**/*"):
            total += path.stat().st_size
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 5000, 10000, 20000], help="output pixels a side")
    parser.add_argument("--method", default="bicubic")
    parser.add_argument("--scheduler", default="threads")
    parser.add_argument("--workers", default="2")
    arguments = parser.parse_args()
    folder, method = arguments.folder, arguments.method
    make_pairs(folder, arguments.sizes)
    output, report = folder / "out.tif", folder / "report.json"
    options = ("--method", method, "--scheduler", arguments.scheduler, "--workers", arguments.workers)
    for size in arguments.sizes:
        source, guide = folder / f"source_{size}.tif", folder / "guide.tif"
        plan = make_plan(Inputs(source, guide, SCALE), Recipe(method=method))
        scratch: list[int] = []
        command = upscale(source, guide, output, *options, "--report", str(report))
        cost = watch(command, lambda scratch=scratch: scratch.append(held(output)))  # type: ignore[misc]
        stages = ", ".join(f"{name} {taken:.1f}" for name, taken in json.loads(report.read_text())["seconds"].items())
        print(
            f"{size} px, {len(plan.tiles)} tiles: {cost.wall:.1f} s ({stages}), processor {cost.processor:.1f} s; "
            f"memory {cost.memory / 1e6:.0f} MB; scratch {max(scratch) / 1e6:.0f} MB of "
            f"{scratch_bytes(plan) / 1e6:.0f} MB said",
            flush=True,
        )
        output.unlink()
        report.unlink()


if __name__ == "__main__":
    main()

"""What a second worker gains: the same runs with one worker and with two, in turns.

    PYTHONPATH=examples python benchmarks/workers.py FOLDER --rounds 3

Bicubic (next to no work: reading and writing), the diffusion, and MMSR fitted on each tile with a few epochs; with
threads and with processes. Speed-ups are medians over the rounds: of the stage of the tiles (with processes their
start belongs to it), and of the whole run. The outputs must be the same byte for byte. Inputs are made in FOLDER once
and stay there; outputs are removed. A quiet machine, please: it needs a processor for each worker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from large_pair import make_pairs
from scale import upscale, watch

from geosr.machine import processors


@dataclass(frozen=True)
class Job:
    """A method, its options, and the side of its output."""

    name: str
    size: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """Wall seconds of the tiles and of the whole, seconds of the processor, and what came out."""

    tiles: float
    wall: float
    processor: float
    digest: str


def run(job: Job, folder: Path, scheduler: str, workers: int) -> Run:
    output, report = folder / "out.tif", folder / "report.json"
    options = (*job.options, "--device", "cpu", "--scheduler", scheduler, "--workers", str(workers))
    source = folder / f"source_{job.size}.tif"
    cost = watch(upscale(source, folder / "guide.tif", output, *options, "--report", str(report)))
    tiles = json.loads(report.read_text())["seconds"]["tiles"]
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    output.unlink()
    report.unlink()
    return Run(tiles, cost.wall, cost.processor, digest)


def compare(job: Job, folder: Path, scheduler: str, workers: int, rounds: int) -> str:
    """A row of the table."""
    pairs = [(run(job, folder, scheduler, 1), run(job, folder, scheduler, workers)) for _ in range(rounds)]
    if len({each.digest for pair in pairs for each in pair}) > 1:
        raise SystemExit(f"{job.name}: outputs differ")
    tiles = _seconds_and_gain([(one.tiles, more.tiles) for one, more in pairs])
    walls = _seconds_and_gain([(one.wall, more.wall) for one, more in pairs])
    processor = statistics.median(more.processor / one.processor for one, more in pairs)
    return f"| {job.name} | {scheduler} | {tiles} | {walls} | {processor:.2f} |"


def _seconds_and_gain(rounds: list[tuple[float, float]]) -> str:
    """Cells: median seconds with one worker and with several, and the median of how many times faster these are."""
    one, several = (statistics.median(side) for side in zip(*rounds, strict=True))
    return f"{one:.1f} | {several:.1f} | **{statistics.median(a / b for a, b in rounds):.2f}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=4000, help="output pixels a side of bicubic; the others a half")
    parser.add_argument("--epochs", type=int, default=100, help="of MMSR on each tile")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schedulers", nargs="+", default=["threads", "processes"])
    arguments = parser.parse_args()
    half = arguments.size // 2
    few = ("--fit", "tile", "--set", f"epochs={arguments.epochs}")
    jobs = (
        Job("bicubic", arguments.size, ("--method", "bicubic")),
        Job("diffusion", half, ("--method", "diffusion")),
        Job(f"mmsr, each tile {arguments.epochs} epochs", half, ("--method", "mmsr", *few)),
    )
    make_pairs(arguments.folder, [arguments.size, half])
    several = f"{arguments.workers} workers"
    print(f"{processors()} processors, {arguments.rounds} rounds\n")
    print(f"| | scheduler | tiles, 1 worker, s | {several} | faster | whole run | {several} | faster | processor |")
    print("|---|---|---|---|---|---|---|---|---|")
    for job in jobs:
        for scheduler in arguments.schedulers:
            row = compare(job, arguments.folder, scheduler, arguments.workers, arguments.rounds)
            print(row, flush=True)


if __name__ == "__main__":
    main()

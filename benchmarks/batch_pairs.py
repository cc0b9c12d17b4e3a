"""What pairs in progress at once gain: the same batch with one worker and with several, in turns.

    PYTHONPATH=examples python benchmarks/batch_pairs.py FOLDER --pairs 8 --size 640 --method mmsr --workers 2

Wall and CPU seconds of `geosr batch`, the median over the rounds and the ratio of the wall seconds; and whether
the outputs are the same byte for byte, as promised. Pairs are one scene under several names. Inputs are made in FOLDER
once and stay there; outputs are removed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from large_pair import SCALE, make_pairs
from scale import Cost, watch


def make_batch(folder: Path, pairs: int, size: int) -> Path:
    """A list of pairs."""
    make_pairs(folder, [size])
    manifest = folder / "pairs.csv"
    rows = [f"source_{size}.tif,guide.tif,out/{number}.tif" for number in range(pairs)]
    manifest.write_text("\n".join(["source,guide,output", *rows]))
    return manifest


def run(manifest: Path, method: str, scheduler: str, workers: int) -> tuple[Cost, list[bytes]]:
    """One batch, and what it wrote."""
    how = ("--scheduler", scheduler, "--workers", str(workers), "--quiet", "--device", "cpu")
    options = ("--scale", str(SCALE), "--method", method, *how)
    cost = watch([sys.executable, "-m", "geosr", "batch", "--manifest", manifest, *options])
    out = manifest.parent / "out"
    written = [path.read_bytes() for path in sorted(out.glob("*.tif"))]
    shutil.rmtree(out)
    return cost, written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--size", type=int, default=640, help="output pixels a side")
    parser.add_argument("--method", default="mmsr")
    parser.add_argument("--scheduler", choices=["threads", "processes"], default="threads")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    manifest = make_batch(arguments.folder, arguments.pairs, arguments.size)
    costs: dict[int, list[Cost]] = {1: [], arguments.workers: []}
    written: list[list[bytes]] = []
    for _ in range(arguments.rounds):
        for workers, found in costs.items():
            cost, files = run(manifest, arguments.method, arguments.scheduler, workers)
            found.append(cost)
            written.append(files)
    for workers, found in costs.items():
        wall = statistics.median(cost.wall for cost in found)
        processor = statistics.median(cost.processor for cost in found)
        at_once = f"{arguments.pairs} pairs, {arguments.scheduler}, {workers} at once"
        print(f"{at_once}: {wall:.1f} s, processor {processor:.1f} s")
    gains = [one.wall / more.wall for one, more in zip(costs[1], costs[arguments.workers], strict=True)]
    same = "the same bytes" if all(files == written[0] for files in written) else "OTHER BYTES"
    print(f"{statistics.median(gains):.2f} times as fast ({min(gains):.2f} to {max(gains):.2f}), {same}")


if __name__ == "__main__":
    main()

"""RMSE on P2P's sample patches: canopy heights over trees, where the guide has texture and no edges, and depth.

python benchmarks/p2p.py ../shared/data/p2p/vhm_0_1.npz ../shared/data/p2p/depth_0.npz --scale 4

The source is the truth's block mean; every method is made exactly consistent with it. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geosr import methods
from geosr.consistency import EXACT, blocks_of
from geosr.methods.solve import solve
from geosr.pair import Pair, Stats


def patches(path: Path, scale: int) -> Iterator[tuple[str, Pair, np.ndarray[tuple[int, int], np.dtype[np.float64]]]]:
    """Name, pair and truth of each patch of a file."""
    with np.load(path) as data:
        for index, (truth, guide) in enumerate(zip(data["source_hr"], data["guide"], strict=True)):
            truth = truth.astype(np.float64)
            source = np.asarray(blocks_of(truth, scale).mean(axis=(1, 3)))
            valid = np.ones(truth.shape, bool), np.isfinite(source)
            pair = Pair(guide.astype(np.float32), valid[0], np.nan_to_num(source), valid[1])
            yield f"{path.stem} {index}", pair, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=list(methods.names()))
    arguments = parser.parse_args()
    print(f"| patch, x{arguments.scale} | " + " | ".join(f"{name} | s" for name in arguments.methods) + " |")
    print("|---" * (1 + 2 * len(arguments.methods)) + "|")
    for path in arguments.files:
        for name, pair, truth in patches(path, arguments.scale):
            cells = [name]
            for method in arguments.methods:
                start, stats = time.perf_counter(), Stats.measure([pair])
                found = solve(pair, methods.create(method), stats=stats, consistency=EXACT, seed=0, device="cpu")
                error = np.sqrt(np.nanmean((found.values + found.centre - truth) ** 2))
                cells += [f"{error:.3f}", f"{time.perf_counter() - start:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

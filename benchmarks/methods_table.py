"""Every method on the Middlebury samples: RMSE at x4 (and x8), seconds a tile, peak memory.

    python benchmarks/methods_table.py ../shared/data/middlebury --scales 4 8
    python benchmarks/methods_table.py ../shared/data/middlebury --methods mmsr p2p:paper

Each method runs on one thread in a process of its own. RMSE (disparity values, mean of the samples) of the answer as it
is and projected onto the source; CPU seconds of fit and prediction; the process's peak memory, and what of
that is there before the method is loaded. Prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from middlebury import Sample, run
from rasterio.errors import NotGeoreferencedWarning

from geosr import datasets, methods
from geosr.device import torch_threads

CHEAP = [name for name in methods.names() if name != "mmsr" and not methods.entry(name).needs_weights]


def measure(
    data: Path, name: str, scale: int, weights: Mapping[str, Path] | None = None
) -> tuple[float, float, float, float]:
    """Mean RMSE raw and projected onto the source, mean seconds, peak bytes, in a process that has done nothing else.

    Args:
        data: folder with guide/ and source_hr/.
        name: of the method, and maybe a preset behind a colon.
        scale: high pixels to one source pixel along a side.
        weights: for each sample the file of a method that needs one.
    """
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    name, _, preset = name.partition(":")
    results = []
    with torch_threads(1):
        for image in datasets.middlebury(data):
            method = methods.create(name, preset or "default", weights=(weights or {}).get(image.name))
            sample = Sample(image.read(scale))
            start = time.process_time()
            raw, exact, _ = run(sample, method, seed=0, trace=0)
            results.append((raw, exact, time.process_time() - start))
    return *np.mean(results, axis=0).tolist(), peak_bytes()


def peak_bytes() -> float:
    """Of this process since it began (getrusage's peak would be the parent's if that was higher)."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="folder with guide/ and source_hr/")
    parser.add_argument("--scales", type=int, nargs="+", default=[4])
    parser.add_argument("--methods", nargs="+", default=CHEAP, metavar="NAME[:PRESET]")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        print(f"before a method is loaded: {pool.apply(peak_bytes) / 1e9:.2f} GB\n")
    print("| method | scale | as answered | consistent | s a tile | peak GB |\n|---|---|---|---|---|---|", flush=True)
    for name in arguments.methods:
        for scale in arguments.scales:
            with context.Pool(1) as pool:
                raw, exact, seconds, peak = pool.apply(measure, (arguments.data, name, scale))
            print(f"| {name} | x{scale} | {raw:.3f} | {exact:.3f} | {seconds:.2f} | {peak / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()

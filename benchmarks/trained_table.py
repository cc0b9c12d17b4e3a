"""FDSR, FDKN and DKN on the Middlebury samples, each sample by a network that never saw it: the table's columns.

    python benchmarks/trained_table.py ../shared/data work --methods fdsr fdkn dkn --scales 4 8 --threads 1

The samples, all of different scenes, are dealt into two halves. For each half, method and scale a network is trained on
the other half and the heights of eight generated towns (a tile each), and answers the samples of its own.
**This is a small training** on a processor, where the papers have days on a GPU and a thousand images: it says how
these networks do without such data, not what they can do. Prints what `methods_table.py` does, and seconds of training;
trained weights stay in the working folder, and the same command again goes on where it was.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

from methods_table import measure
from train_small import TOWNS, make_towns, sample_files, samples, train, write_list

SETTINGS = {
    "fdsr": ("tiles=1", "crop=64", "steps=1000", "decay_every=250"),
    "fdkn": ("tiles=1", "crop=64", "steps=1000", "decay_every=250"),
    "dkn": ("tiles=1", "crop=32", "steps=1000", "decay_every=250"),
}

COLUMNS = ("method", "scale", "as answered", "consistent", "s a tile", "peak GB", "s of training")


def write_pairs(data: Path, work: Path, fold: int, left_out: Sequence[str]) -> Path:
    """The list of what is learnt from: towns, and the samples that are not left out."""
    towns = [(f"town{seed}/truth_dsm.tif", f"town{seed}/ortho.tif") for seed in TOWNS]
    learnt = [name for name in samples(data) if name not in left_out]
    return write_list(work / f"pairs_{fold}.csv", [*towns, *sample_files(data, learnt)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path, help="where towns, weights and logs go")
    parser.add_argument("--methods", nargs="+", default=[*SETTINGS])
    parser.add_argument("--scales", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data, work = arguments.data, arguments.work
    work.mkdir(parents=True, exist_ok=True)
    make_towns(work)
    halves = samples(data)[::2], samples(data)[1::2]
    lists = [write_pairs(data, work, fold, left_out) for fold, left_out in enumerate(halves)]
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for method in arguments.methods:
        for scale in arguments.scales:
            start = time.monotonic()
            weights: dict[str, Path] = {}
            for fold, left_out in enumerate(halves):
                file = work / f"{method}_x{scale}_fold{fold}.safetensors"
                train(method, scale, lists[fold], file, arguments.threads, SETTINGS[method])
                weights |= dict.fromkeys(left_out, file)
            took = time.monotonic() - start
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                raw, exact, seconds, peak = pool.apply(measure, (data / "middlebury", method, scale, weights))
            print(
                f"| {method} | x{scale} | {raw:.3f} | {exact:.3f} | {seconds:.2f} | {peak / 1e9:.2f} | {took:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

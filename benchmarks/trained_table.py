"""FDSR, FDKN and DKN on the Middlebury samples, each sample by a network that never saw it: the table's columns.

    python benchmarks/trained_table.py ../shared/data work --methods fdsr fdkn dkn --scales 4 8 --threads 1

The samples, all of different scenes, are dealt into folds. For each fold, method and scale a network is trained on the
samples of the other folds and the heights of eight generated towns (a tile each), and answers the samples of its own.
**This is a small training** on a processor, where the papers have days on a GPU and a thousand images: it says how
these networks do without such data, not what they can do. Prints what `methods_table.py` does, and seconds of training;
trained weights stay in the working folder, and the same command again goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from methods_table import peak_bytes
from middlebury import Sample, run
from rasterio.errors import NotGeoreferencedWarning
from train_small import TOWNS, geosr, make_towns, samples

from geosr import datasets, methods
from geosr.device import torch_threads

SETTINGS = {
    "fdsr": ("tiles=1", "crop=64", "steps=1000", "decay_every=250"),
    "fdkn": ("tiles=1", "crop=64", "steps=1000", "decay_every=250"),
    "dkn": ("tiles=1", "crop=32", "steps=1000", "decay_every=250"),
}

COLUMNS = ("method", "scale", "as answered", "consistent", "s a tile", "peak GB", "s of training")


def deal(names: Sequence[str], folds: int) -> list[list[str]]:
    """The samples of each fold."""
    return [[*names[fold::folds]] for fold in range(folds)]


def write_pairs(data: Path, work: Path, fold: int, left_out: Sequence[str]) -> Path:
    """The list of what is learnt from: towns, and the samples that are not left out."""
    folder = (data / "middlebury").resolve()
    towns = [(f"town{seed}/truth_dsm.tif", f"town{seed}/ortho.tif") for seed in TOWNS]
    learnt = [name for name in samples(data) if name not in left_out]
    images = [(str(folder / "source_hr" / f"{name}.png"), str(folder / "guide" / f"{name}.png")) for name in learnt]
    path = work / f"pairs_{fold}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("source", "guide"), *towns, *images])
    return path


def trained(pairs: Path, work: Path, method: str, scale: int, fold: int, threads: int) -> Path:
    """The weights, made if they are not there."""
    weights = work / f"{method}_x{scale}_fold{fold}.safetensors"
    if not weights.exists():
        changes = [part for text in SETTINGS[method] for part in ("--set", text)]
        how = ("--scale", scale, "--threads", threads, "--log", weights.with_suffix(".csv"), *changes)
        geosr("train", "--method", method, "--pairs", pairs, "-o", weights, *how)
    return weights


def measure(data: Path, method: str, scale: int, weights: Mapping[str, Path]) -> tuple[float, float, float, float]:
    """Mean RMSE as answered and made consistent, mean seconds, peak bytes, in a process that has done nothing else."""
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    results = []
    with torch_threads(1):
        for image in datasets.middlebury(data / "middlebury"):
            sample, made = Sample(image.read(scale)), methods.create(method, weights=weights[image.name])
            start = time.process_time()
            raw, exact, _ = run(sample, made, seed=0, trace=0)
            results.append((raw, exact, time.process_time() - start))
    return *np.mean(results, axis=0).tolist(), peak_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path, help="where towns, weights and logs go")
    parser.add_argument("--methods", nargs="+", default=[*SETTINGS])
    parser.add_argument("--scales", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data, work = arguments.data, arguments.work
    work.mkdir(parents=True, exist_ok=True)
    make_towns(work)
    folds = deal(samples(data), arguments.folds)
    lists = [write_pairs(data, work, fold, left_out) for fold, left_out in enumerate(folds)]
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for method in arguments.methods:
        for scale in arguments.scales:
            start = time.monotonic()
            weights: dict[str, Path] = {}
            for fold, left_out in enumerate(folds):
                file = trained(lists[fold], work, method, scale, fold, arguments.threads)
                weights |= dict.fromkeys(left_out, file)
            took = time.monotonic() - start
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                raw, exact, seconds, peak = pool.apply(measure, (data, method, scale, weights))
            print(
                f"| {method} | x{scale} | {raw:.3f} | {exact:.3f} | {seconds:.2f} | {peak / 1e9:.2f} | {took:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

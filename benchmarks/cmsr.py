"""CMSR's ablation over its up-sampling scheme, and what deforming a guide that does not lie on the source gains.

    python benchmarks/cmsr.py ../shared/data/middlebury            # reduced: two samples, 200 steps a stage, one seed
    python benchmarks/cmsr.py ../shared/data/middlebury --full     # every sample, 800 steps a stage, three seeds; days

The source is the truth's block mean; RMSE over all pixels, in the truth's units, projected onto the source. The
ablation over the scheme's probability p (the supplement's Fig. 3) also has the PSNR (peak 255) and deforms no guide. A
bent guide is moved, turned by a degree and bent like a sine; `off` is the root mean square distance in output pixels
between where the guide is and where it should be, before and after the deformation. One thread. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, zoom

from geosr import datasets, methods
from geosr.consistency import EXACT
from geosr.device import torch_threads
from geosr.methods import cmsr_network
from geosr.methods.cmsr import Cmsr
from geosr.methods.solve import prepare, solve
from geosr.metrics import score_arrays
from geosr.pair import Stats
from geosr.samples import TruePair

Array = NDArray[np.float64]

PROBABILITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
WAYS = ("none", "affine", "smooth")
PEAK = 255


@dataclass(frozen=True)
class Bench:
    """What both tables are made with."""

    samples: list[TruePair]
    seeds: range
    settings: dict[str, Any]
    preset: str

    def method(self, **settings: Any) -> Cmsr:
        """The preset with these settings."""
        method = methods.create("cmsr", self.preset, self.settings | settings)
        assert isinstance(method, Cmsr)
        return method

    def errors(self, **settings: Any) -> list[float]:
        """RMSE of every sample and seed."""
        return [rmse(true, self.method(**settings), seed) for true in self.samples for seed in self.seeds]


def rmse(true: TruePair, method: Cmsr, seed: int) -> float:
    found = solve(true.pair, method, stats=Stats.measure([true.pair]), consistency=EXACT, seed=seed, device="cpu")
    return score_arrays(found.values + found.centre, true.truth).rmse or 0.0


def ablation(bench: Bench) -> Iterator[str]:
    """The lines of a table over p."""
    yield "| p | RMSE | PSNR |\n|---|---|---|"
    for probability in PROBABILITIES:
        found = np.array(bench.errors(upsampling=probability, deformation="none"))
        psnr = (20 * np.log10(PEAK / found)).mean()
        yield f"| {probability:g} | {found.mean():.3f} | {psnr:.2f} |"


def bends(shape: tuple[int, int]) -> dict[str, Array]:
    """(H, W, 2) by name: how far along columns and rows, in output pixels, a guide is moved."""
    row, col = (place - (side - 1) / 2 for place, side in zip(np.indices(shape), shape, strict=True))
    moved = np.broadcast_to([4.0, -3.0], (*shape, 2))
    turned = np.stack([-row, col], -1) * np.deg2rad(1)
    waves = 2 * np.stack([np.sin(2 * np.pi * row / shape[0]), np.cos(2 * np.pi * col / shape[1])], -1)
    return {"as it lies": 0 * moved, "moved": moved, "bent": moved / 2 + turned + waves}


def bend(true: TruePair, by: Array) -> TruePair:
    """The pair with a guide whose pixel at a place lies `by` from where it should be."""
    row, col = np.indices(by.shape[:2])
    places = [row + by[..., 1], col + by[..., 0]]
    guide = [map_coordinates(band, places, order=1, mode="nearest") for band in true.pair.guide]
    return replace(true, pair=replace(true.pair, guide=np.stack(guide).astype(np.float32)))


def off(true: TruePair, by: Array, method: Cmsr, seed: int) -> tuple[float, float]:
    """RMSE, and how far from its place the guide is looked for, in output pixels."""
    stats = Stats.measure([true.pair])
    patch = prepare(true.pair, stats, EXACT)
    state = method.fit([patch], seed, "cpu")
    found = cmsr_network.displacement(patch, state, method.settings)
    high = np.stack(
        [zoom(found[..., axis], patch.scale, order=1, grid_mode=True, mode="nearest") for axis in (0, 1)], -1
    )
    distance = high * patch.scale + by  # of first order: the bend is smooth
    solution = solve(true.pair, method, stats=stats, consistency=EXACT, seed=seed, device="cpu", state=state)
    error = score_arrays(solution.values + solution.centre, true.truth).rmse or 0.0
    return error, float(np.sqrt((distance**2).sum(-1).mean()))


def deformations(bench: Bench) -> Iterator[str]:
    """The lines of a table over guides that lie elsewhere."""
    yield "| guide | off | " + " | ".join(f"{way} | off" for way in WAYS) + " |\n" + "|---" * (2 + 2 * len(WAYS)) + "|"
    for name, by in bends(bench.samples[0].truth.shape[:2]).items():
        pairs = [(bend(true, by), seed) for true in bench.samples for seed in bench.seeds]
        cells = [f"{np.sqrt((by**2).sum(-1).mean()):.2f}"]
        for way in WAYS:
            found = [off(true, by, bench.method(deformation=way), seed) for true, seed in pairs]
            cells += [f"{value:.{digits}f}" for value, digits in zip(np.mean(found, axis=0), (3, 2), strict=True)]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="folder with guide/ and source_hr/")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--tables", nargs="+", choices=("p", "deformation"), default=["p", "deformation"])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of images; the first two where none is given")
    parser.add_argument("--steps", type=int, default=200, help="of each stage")
    parser.add_argument("--full", action="store_true", help="every sample, 800 steps, three seeds")
    arguments = parser.parse_args()
    images = [image for image in datasets.middlebury(arguments.data) if image.name in (arguments.only or [image.name])]
    if not (arguments.full or arguments.only):
        images = images[:2]
    steps, seeds = (800, range(3)) if arguments.full else (arguments.steps, range(1))
    bench = Bench([image.read(arguments.scale) for image in images], seeds, {"steps": steps}, arguments.preset)
    kind = "In full" if arguments.full else "REDUCED"
    names = ", ".join(true.name for true in bench.samples)
    print(f"{kind}: x{arguments.scale}, {names}; {steps} of 800 steps a stage, {len(seeds)} of 3 seeds.")
    with torch_threads(1):
        for table, lines in (("p", ablation), ("deformation", deformations)):
            if table in arguments.tables:
                print(f"\n### {table}\n")
                for line in lines(bench):
                    print(line, flush=True)


if __name__ == "__main__":
    main()

"""RMSE on every pair of `shared/data` that has a truth: edges, canopies, temperatures, fields.

    python benchmarks/real_pairs.py ../shared/data --scale 4

The truth's block means are the source; every method is made exactly consistent with it. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from geosr_cli.options import read_settings
from numpy.typing import NDArray
from rasterio import Affine

from geosr import methods
from geosr.consistency import EXACT, blocks_of
from geosr.datasets import middlebury
from geosr.device import torch_threads
from geosr.methods.solve import solve
from geosr.metrics import score_arrays
from geosr.options import Inputs
from geosr.pair import Pair, Stats
from geosr.samples import TruePair, pool_truth
from geosr.scene import open_scene
from geosr.tiling import cut

Array = NDArray[np.float64]

SIDE = 320
"""Largest side of a pair in output pixels: a tile's."""


@dataclass(frozen=True)
class Files:
    """A raster that holds the truth after pooling by `pool`, and the guide of the same ground."""

    name: str
    truth: str
    guides: tuple[str, ...]
    pool: int = 1


FILES = (
    Files("neon canopy", "neon_bart/NEON_D01*.tif", ("neon_bart/2019_BART*.tif",)),
    Files("kootenay canopy", "kootenay/kootenayCHM.tif", ("kootenay/kootenayOrtho_from_rda.tif",)),
    Files("orchard heights", "aurea_orchard/20180714_drone_dsm.tif", ("aurea_orchard/*ms4c_p.tif",), pool=2),
    Files("orchard thermal", "aurea_orchard/thermal.tif", ("aurea_orchard/*ms4c_p.tif",)),
    Files(
        "vineyard thermal",
        "pytseb_vineyard/ExampleImage_Trad_am.tif",
        ("pytseb_vineyard/ExampleImage_LAI.tif", "pytseb_vineyard/ExampleImage_Fc.tif"),
    ),
    Files("field, bare", "fieldimager/1_30_dsm.tif", ("fieldimager/1_30_RGB.tif",)),
    Files("field, canopy", "fieldimager/3_70_dsm.tif", ("fieldimager/3_70_RGB.tif",)),
    Files("town heights", "nodeodm_brighton/dsm.tif", ("nodeodm_brighton/odm_orthophoto.tif",)),
)


def real_pairs(data: Path, scale: int) -> Iterator[TruePair]:
    """Every pair of the folder, cut to a tile around its middle."""
    for sample in middlebury(data / "middlebury"):
        yield replace(sample.read(scale), name=f"middlebury {sample.name}")
    for path in sorted((data / "p2p").glob("*.npz")):
        with np.load(path) as arrays:
            for index, (truth, guide) in enumerate(zip(arrays["source_hr"], arrays["guide"], strict=True)):
                yield pool_truth(f"p2p {path.stem} {index}", truth.astype(np.float64), guide, scale)
    for files in FILES:
        yield _georeferenced(data, files, scale)


def _georeferenced(data: Path, files: Files, scale: int) -> TruePair:
    """Pool the truth into a file of its own, and let geosr bring the guide onto its high grid."""
    with tempfile.TemporaryDirectory() as folder:
        low = Path(folder) / "source.tif"
        pooled, truth = write_source(data, files, scale, low, side=SIDE)
        pairs = [_read(low, next(data.glob(guide)), scale) for guide in files.guides]
    guide = np.concatenate([pair.guide for pair in pairs])
    guide_valid = np.logical_and.reduce([pair.guide_valid for pair in pairs])
    return TruePair(files.name, Pair(guide, guide_valid, pooled.source, pooled.source_valid), truth)


def write_source(data: Path, files: Files, scale: int, low: Path, side: int | None = None) -> tuple[Pair, Array]:
    """Write the truth's block means as a GeoTIFF.

    Args:
        data: the folder of all pairs.
        files: of the pair.
        scale: of the means.
        low: the file to write.
        side: of the square around the middle that is taken, in pixels of the truth; None takes all of it.

    Returns:
        The means with an empty guide, and the truth where they are known, NaN elsewhere.
    """
    (path,) = data.glob(files.truth)
    with rasterio.open(path) as file:
        truth = file.read(1, masked=True).astype(np.float64).filled(np.nan)
        transform, crs = file.transform, file.crs
    truth[~np.isfinite(truth)] = np.nan
    if files.pool > 1:
        truth = np.asarray(blocks_of(_whole(truth, files.pool), files.pool).mean(axis=(1, 3)))
    truth, corner = _middle(_whole(truth, scale), scale, side or max(truth.shape))
    step = files.pool * scale
    transform = transform * Affine.translation(corner[1] * files.pool, corner[0] * files.pool) * Affine.scale(step)
    pooled = pool_truth(files.name, truth, np.zeros((1, *truth.shape)), scale).pair
    source, valid = pooled.source, pooled.source_valid
    profile = {
        "driver": "GTiff",
        "dtype": "float64",
        "count": 1,
        "nodata": -1e30,
        "crs": crs,
        "transform": transform,
    }
    with rasterio.open(low, "w", height=source.shape[0], width=source.shape[1], **profile) as file:
        file.write(np.where(valid, source, -1e30), 1)
    return pooled, np.where(np.kron(valid, np.ones((scale, scale), bool)), truth, np.nan)


def _whole(array: Array, times: int) -> Array:
    return array[: array.shape[0] // times * times, : array.shape[1] // times * times]


def _middle(truth: Array, scale: int, most: int) -> tuple[Array, tuple[int, int]]:
    """A square of it where most is known, and its corner."""
    most = most // scale * scale
    known = np.isfinite(truth)
    starts = [range(0, max(side - most, 0) + 1, scale) for side in truth.shape]
    counts = np.pad(known.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def inside(row: int, col: int) -> int:
        below, right = min(row + most, truth.shape[0]), min(col + most, truth.shape[1])
        return int(counts[below, right] - counts[row, right] - counts[below, col] + counts[row, col])

    row, col = max(((row, col) for row in starts[0] for col in starts[1]), key=lambda at: inside(*at))
    return truth[row : row + most, col : col + most], (row, col)


def _read(source: Path, guide: Path, scale: int) -> Pair:
    scene = open_scene(Inputs(source, guide, scale))
    (tile,) = cut(scene.grids.low.shape, scale, size=SIDE, halo=0)
    pair = scene.read(tile)
    assert pair is not None, source
    return pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=["bicubic", "diffusion", "mmsr"])
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the pairs' names")
    parser.add_argument("--noise", type=float, default=0, help="standard deviation of noise put on the guide")
    parser.add_argument("--set", nargs="*", default=[], dest="settings", metavar="KEY=VALUE", help="of all methods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    settings = read_settings(tuple(arguments.settings))
    print(f"| pair, x{arguments.scale} | " + " | ".join(f"{name} | s" for name in arguments.methods) + " |")
    print("|---" * (1 + 2 * len(arguments.methods)) + "|")
    for true in real_pairs(arguments.data, arguments.scale):
        if any(part in true.name for part in arguments.only):
            true = _with_noise(true, arguments.noise, arguments.seed)
            with torch_threads(arguments.threads):
                cells = [cell for name in arguments.methods for cell in _measure(true, name, settings, arguments.seed)]
            print(f"| {true.name} | {' | '.join(cells)} |", flush=True)


def _with_noise(true: TruePair, noise: float, seed: int) -> TruePair:
    """The pair with Gaussian noise on its guide, in the guide's values."""
    added = np.random.default_rng(seed).normal(0, noise, true.pair.guide.shape)
    return replace(true, pair=replace(true.pair, guide=(true.pair.guide + added).astype(np.float32)))


def _measure(true: TruePair, name: str, settings: dict[str, Any], seed: int) -> tuple[str, str]:
    start, stats = time.perf_counter(), Stats.robust([true.pair])
    method = methods.create(name, settings=settings)
    found = solve(true.pair, method, stats=stats, consistency=EXACT, seed=seed, device="cpu")
    rmse = score_arrays(found.values + found.centre, true.truth).rmse
    return f"{rmse:.4g}", f"{time.perf_counter() - start:.0f}"


if __name__ == "__main__":
    main()

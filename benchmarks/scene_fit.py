"""One network for a scene against one for each tile, on scenes of several tiles with a truth.

    PYTHONPATH=examples python benchmarks/scene_fit.py ../shared/data FOLDER

The synthetic suburb (heights and temperatures, x4) and the larger rasters of `shared/data`, whole: the truth's block
means are the source. Prints for bicubic and for the default with `--fit scene` and `--fit tile` the RMSE, the seams
(`geosr.seams`; about 1 is none) and the wall seconds, of all
and for a megapixel. Inputs and outputs stay in FOLDER; an output that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from real_pairs import FILES, write_source
from scale import upscale, watch
from scene import make_scene

from geosr.metrics import score_arrays

_SCALE = 4
_LARGE = ("orchard heights", "orchard thermal", "vineyard thermal")
_FITS = {"bicubic": ("--method", "bicubic"), "scene": ("--fit", "scene"), "tile": ("--fit", "tile")}


@dataclass(frozen=True)
class Case:
    """Two files, and what their answer should be."""

    name: str
    source: Path
    guide: Path
    truth: npt.NDArray[np.float64]


def cases(data: Path, folder: Path, size: int) -> Iterator[Case]:
    made = make_scene(folder / "town", size=size)
    for kind in ("dsm", "thermal"):
        with rasterio.open(made[f"truth_{kind}"]) as file:
            truth = file.read(1, masked=True).astype(np.float64).filled(np.nan)
        yield Case(f"synthetic town, {kind}", made[kind], made["ortho"], truth)
    for files in FILES:
        if files.name in _LARGE:
            source = folder / f"{files.name}.tif"
            _, truth = write_source(data, files, _SCALE, source)
            yield Case(files.name, source, next(data.glob(files.guides[0])), truth)


def run(case: Case, fit: str, folder: Path) -> str:
    """A row of the table."""
    output, report = folder / f"{case.name} {fit}.tif", folder / f"{case.name} {fit}.json"
    if not output.exists():
        watch(upscale(case.source, case.guide, output, "--device", "cpu", "--report", str(report), *_FITS[fit]))
    with rasterio.open(output) as file:
        values = file.read(1, masked=True).astype(np.float64).filled(np.nan)
    record = json.loads(report.read_text())
    seconds, known = sum(record["seconds"].values()), int(np.isfinite(values).sum())
    rmse = score_arrays(values, case.truth).rmse
    tiles, seams = record["tiles"]["total"], record["seam_ratio"]
    each = f"{seconds / known * 1e6:.0f}"
    return f"| {case.name} | {fit} | {tiles} | {rmse:.4g} | {seams:.3f} | {seconds:.0f} | {each} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path, help="where inputs and outputs go")
    parser.add_argument("--size", type=int, default=640, help="of the synthetic town, output pixels a side")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print("| scene | fit | tiles | RMSE | seams | s | s a megapixel |\n|---|---|---|---|---|---|---|")
    for case in cases(arguments.data, arguments.folder, arguments.size):
        for fit in _FITS:
            print(run(case, fit, arguments.folder), flush=True)


if __name__ == "__main__":
    main()

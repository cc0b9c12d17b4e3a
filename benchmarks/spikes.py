"""What one wrong pixel of the source costs the others: a pit or a peak in a scene whose truth is known.

    python examples/demo.py FOLDER --size 640
    PYTHONPATH=examples:benchmarks python benchmarks/spikes.py FOLDER --method diffusion

The RMSE of all output pixels but those of the wrong pixel, and that within five source pixels around it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio

from geosr.consistency import spread
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file

SCALE = 4
DEPTHS = (0, 30, 60, 100, 150, 200, 300, 600, -9000)
"""Metres by which the pixel in the middle is too low."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="of the demo's scene")
    parser.add_argument("--method", default="diffusion")
    arguments = parser.parse_args()
    with rasterio.open(arguments.folder / "truth_dsm.tif") as file:
        truth = file.read(1, masked=True).astype(float).filled(np.nan)
    print("| too low by, m | RMSE, m | around it | expected |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for depth in DEPTHS:
            source, output = Path(scratch) / "source.tif", Path(scratch) / "out.tif"
            with rasterio.open(arguments.folder / "dsm.tif") as given:
                values, profile = given.read(1), given.profile
            middle = values.shape[0] // 2, values.shape[1] // 2
            values[middle] -= depth
            with rasterio.open(source, "w", **profile) as changed:
                changed.write(values, 1)
            inputs, recipe = Inputs(source, arguments.folder / "ortho.tif", SCALE), Recipe(arguments.method)
            report = upscale_file(inputs, recipe, Execution(overwrite=True), output)
            with rasterio.open(output) as made:
                squares = (made.read(1, masked=True).astype(float).filled(np.nan) - truth) ** 2
            wrong = np.zeros(values.shape, bool)
            wrong[middle] = True
            around = np.zeros(values.shape, bool)
            around[middle[0] - 5 : middle[0] + 6, middle[1] - 5 : middle[1] + 6] = True
            rmse = [float(np.sqrt(np.nanmean(squares[spread(part & ~wrong, SCALE)]))) for part in (~wrong, around)]
            print(f"| {depth} | {rmse[0]:.3f} | {rmse[1]:.3f} | {report.expected:.3f} |", flush=True)


if __name__ == "__main__":
    main()

"""What a few wrong pixels cost the others: a pit or a peak in the source, glints in the guide.

    python examples/demo.py FOLDER --size 640
    PYTHONPATH=examples:benchmarks python benchmarks/spikes.py FOLDER --method diffusion

The RMSE of all output pixels but those of the wrong pixel, and that within five source pixels around it; then that of
all, with glints in the guide.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from geosr.consistency import spread
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file

Array = NDArray[Any]

SCALE = 4
_KEPT = "count", "height", "width", "dtype", "nodata", "crs", "transform"
DEPTHS = (0, 30, 60, 100, 150, 200, 300, 600, -9000)
"""Metres by which the pixel in the middle is too low."""


GLINTS = {"none": (0.0, 0), "one pixel of 1e6": (0.0, 1e6), "0.05 % of 65535": (5e-4, 65535)}
"""By name, their share (at least one) and value in all bands."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="of the demo's scene")
    parser.add_argument("--method", default="diffusion")
    arguments = parser.parse_args()
    with rasterio.open(arguments.folder / "truth_dsm.tif") as file:
        truth = file.read(1, masked=True).astype(float).filled(np.nan)
    with tempfile.TemporaryDirectory() as scratch:
        wrong_source(arguments.folder, truth, arguments.method, Path(scratch))
        wrong_guide(arguments.folder, truth, arguments.method, Path(scratch))


def wrong_source(folder: Path, truth: Array, method: str, scratch: Path) -> None:
    print("| too low by, m | RMSE, m | around it | expected |\n|---|---|---|---|")
    for depth in DEPTHS:
        values, profile = _read(folder / "dsm.tif")
        middle = values.shape[1] // 2, values.shape[2] // 2
        values[0, *middle] -= depth
        _write(scratch / "source.tif", values, profile)
        squares, expected = _squares(scratch / "source.tif", folder / "ortho.tif", truth, method)
        wrong, around = np.zeros((2, *values.shape[1:]), bool)
        wrong[middle] = True
        around[middle[0] - 5 : middle[0] + 6, middle[1] - 5 : middle[1] + 6] = True
        rmse = [float(np.sqrt(np.nanmean(squares[spread(part & ~wrong, SCALE)]))) for part in (~wrong, around)]
        print(f"| {depth} | {rmse[0]:.3f} | {rmse[1]:.3f} | {expected:.3f} |", flush=True)


def wrong_guide(folder: Path, truth: Array, method: str, scratch: Path) -> None:
    print("\n| glints in the guide | RMSE, m | expected |\n|---|---|---|")
    for name, (share, value) in GLINTS.items():
        values, profile = _read(folder / "ortho.tif")
        values = values.astype(np.float32)
        if value:
            pixels = values[0].size
            values.reshape(len(values), -1)[
                :, np.random.default_rng(0).permutation(pixels)[: int(share * pixels) + 1]
            ] = value
        _write(scratch / "guide.tif", values, profile | {"dtype": "float32"})
        squares, expected = _squares(folder / "dsm.tif", scratch / "guide.tif", truth, method)
        print(f"| {name} | {np.sqrt(np.nanmean(squares)):.3f} | {expected:.3f} |", flush=True)


def _read(path: Path) -> tuple[Array, dict[str, Any]]:
    with rasterio.open(path) as file:
        return file.read(), {key: file.profile[key] for key in _KEPT}


def _write(path: Path, values: Array, profile: dict[str, Any]) -> None:
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(values)


def _squares(source: Path, guide: Path, truth: Array, method: str) -> tuple[Array, float]:
    """Of the errors of a run, and the error that it expects."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.tif"
        report = upscale_file(Inputs(source, guide, SCALE), Recipe(method), Execution(), output)
        with rasterio.open(output) as made:
            return (made.read(1, masked=True).astype(float).filled(np.nan) - truth) ** 2, report.expected


if __name__ == "__main__":
    main()

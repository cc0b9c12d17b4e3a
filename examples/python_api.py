"""The same from Python, with files and with DataArrays: `python python_api.py FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rioxarray
import xarray as xr
from helpers import parse
from scene import make_scene

import geosr


def to_value(text: str) -> int | float | str:
    """A setting's value: a whole number, a number, or as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def open_raster(path: Path) -> xr.DataArray:
    """A raster as a DataArray, nodata as NaN."""
    raster = rioxarray.open_rasterio(path, masked=True)
    assert isinstance(raster, xr.DataArray)
    return raster


def main() -> None:
    """Upscale from paths, then from DataArrays with the accessor, and compare with the truth."""
    options = parse("Upscale with the Python API.", size=128)
    settings: dict[str, Any] = {key: to_value(value) for key, _, value in (s.partition("=") for s in options.settings)}
    scene = make_scene(options.folder, seed=options.seed, size=options.size)

    # From file to file; the DataArray that comes back is the written raster.
    result = geosr.upscale(
        scene["dsm"],
        scene["ortho"],
        scale=4,
        output=options.folder / "api_mmsr.tif",
        overwrite=True,
        settings=settings,
    )
    print(f"{result.sizes}, {result.rio.crs}, nodata {result.rio.nodata}")

    # From DataArray to DataArray, nothing written.
    dsm, ortho, truth = (open_raster(scene[name]) for name in ("dsm", "ortho", "truth_dsm"))
    ours = dsm.geosr.upscale(ortho, scale=4, settings=settings)
    plain = dsm.geosr.upscale(ortho, scale=4, method="bicubic")

    # The output lies on the truth's grid, so xarray compares them pixel by pixel and skips what is missing.
    for name, values in (("mmsr", ours), ("bicubic", plain)):
        error = values.where(values.notnull()).squeeze(drop=True) - truth.squeeze(drop=True)
        print(f"{name}: RMSE {float((error**2).mean() ** 0.5):.3f} m")


if __name__ == "__main__":
    main()

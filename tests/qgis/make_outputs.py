"""Outputs of every kind for `check_in_qgis.py`, and what is true of them, by rasterio alone: `make_outputs.py FOLDER`.

Every source is a plain with a bright hall on whole source pixels, so that all three rasters show one edge; the
outputs come from the command line, with their styles.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio import warp

sys.path.insert(0, str(Path(__file__).parents[1]))

import outputs
import pairs
import rasters

SCALE, SIDE = 4, 48
HALL = (slice(14, 30), slice(10, 34))  # source pixels
HOLE = (slice(36, 42), slice(30, 40))
DEGREES = 1 / 3600

KINDS = {
    "heights": {"low": 300, "rise": 12, "units": "metre", "name": "surface height", "nodata": -9999},
    "no_nodata": {"low": 300, "rise": 12, "units": "m", "name": "height", "nodata": None},
    "thermal": {"low": 295, "rise": 9, "units": "K", "name": "surface temperature", "nodata": float("nan")},
    "integers": {"low": 20, "rise": 9, "units": "degrees Celsius", "name": "LST", "nodata": -32768, "scale": 0.01,
                 "dtype": "int16"},
    "geographic": {"low": 800, "rise": 40, "units": "m", "name": "elevation", "nodata": -9999, "crs": "EPSG:4326",
                   "grid": Affine(DEGREES, 0, 9.5, 0, -DEGREES, 47.25)},
    "rotated": {"low": 300, "rise": 12, "units": "m", "name": "dsm", "nodata": -9999,
                "grid": rasters.grid(500000, 5000000, 4, rotation=25)},
    "compound": {"low": 300, "rise": 12, "units": "m", "name": "orthometric height", "nodata": -9999,
                 "crs": "EPSG:32632+5773"},
    "other_guide": {"low": 300, "rise": 12, "units": "m", "name": "dtm", "nodata": -9999, "guide_crs": "EPSG:32633"},
}  # fmt: skip


def make(folder, name, kind):
    """One pair, its output, and what is true of it."""
    low, rise, nodata, scale = kind["low"], kind["rise"], kind["nodata"], kind.get("scale")
    grid, crs = kind.get("grid", rasters.grid(500000, 5000000, 4)), kind.get("crs", rasters.UTM)
    dtype = kind.get("dtype", "float32")
    row, col = np.mgrid[:SIDE, :SIDE]
    values = low + 0.02 * row + 0.01 * col
    values[HALL] += rise
    stored = values / (scale or 1)
    if nodata is not None:
        stored[HOLE] = nodata
    folder = folder / name
    folder.mkdir(parents=True)
    source = rasters.write(folder / "source.tif", stored.astype(dtype), grid, crs, nodata=nodata, scale=scale)
    with rasterio.open(source, "r+") as dataset:
        dataset.units, dataset.descriptions = [kind["units"]], [kind["name"]]
    photo = np.full((3, SIDE * SCALE, SIDE * SCALE), 60, "uint8")
    photo[:, HALL[0].start * SCALE : HALL[0].stop * SCALE, HALL[1].start * SCALE : HALL[1].stop * SCALE] = 220
    place, photo_crs = grid * Affine.scale(1 / SCALE), kind.get("guide_crs", crs)
    if photo_crs != crs:
        photo, place = warp.reproject(photo, src_crs=crs, src_transform=place, dst_crs=photo_crs)
    rasters.write(folder / "guide.tif", photo, place, photo_crs)
    method = {"method": "diffusion"} if name != "thermal" else {}
    done = pairs.upscale(folder, "--style", "--dtype", dtype, **method)
    assert done.code == 0, done.err
    return describe(folder / "out.tif", source, low=low, rise=rise)


def describe(output, source, *, low, rise):
    """What QGIS has to find, read with plain rasterio."""
    made = outputs.physical(output)
    with outputs.opened(output) as dataset, outputs.opened(source) as given:
        bounds = rasterio.transform.array_bounds(*given.shape, given.transform)
        corners = [given.transform * corner for corner in ((0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE))]
        places = [(20, 20), (60, 80), (100, 170), (150, 50)]
        points = [[*(dataset.transform * (col + 0.5, row + 0.5)), float(made[row, col])] for row, col in places]
        hole = dataset.transform * ((HOLE[1].start + 3) * SCALE, (HOLE[0].start + 3) * SCALE)
        return {
            "compound": "VERTCRS[" in given.crs.to_wkt(version="WKT2_2019"),
            "crs": given.crs.to_wkt(),
            "bounds": bounds,
            "box": [min(x for x, _ in corners), min(y for _, y in corners),
                    max(x for x, _ in corners), max(y for _, y in corners)],
            "north_up": given.transform.b == 0,
            "size": [dataset.width, dataset.height],
            "nodata": None if dataset.nodata is None or np.isnan(dataset.nodata) else dataset.nodata,
            "has_nodata": dataset.nodata is not None,
            "hole": list(hole) if np.isnan(made).any() else None,
            "units": given.units[0],
            "name": given.descriptions[0],
            "range": [float(np.nanmin(made)), float(np.nanmax(made))],
            "cut": [float(p) for p in np.nanpercentile(made, (2, 98))],
            "points": points,
            "threshold": low + rise / 2,
            "hall": [HALL[0].start, HALL[1].start, HALL[0].stop, HALL[1].stop],
            "to_pixels": list(~given.transform)[:6],
            "pixel": abs(given.transform.determinant) ** 0.5,
        }  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    truth = {}
    for name, kind in KINDS.items():
        truth[name] = make(folder, name, kind)
        print(f"made {name}", flush=True)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))


main()

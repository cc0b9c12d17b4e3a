"""`geosr tile`: the aligned pairs as files, with an index."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from geosr import pipeline
from geosr.errors import OutputError, UsageError
from geosr.grid import crop
from geosr.options import Inputs
from geosr.tiling import Tile, cut
from geosr.writer import write_tile

_FIELDS = ("index", "source", "guide", "row", "col", "height", "width", "source_valid", "guide_valid")


def write_pairs(inputs: Inputs, folder: Path, *, tile: int = 320) -> int:
    """Cut a pair into `folder`: `source/00000.tif`, `guide/00000.tif`, `index.csv` and `index.geojson`.

    Tiles have `tile` high pixels a side (less where the raster is smaller), each a whole number of source
    pixels, spread evenly over the scene; neighbours share a few source pixels. Tiles without a valid source
    pixel are left out. Source tiles are float32 in physical units, NaN where invalid. Guide tiles lie on the
    high grid, in the guide's own type (float32 for anything but uint8 and uint16), with a mask band. Rows
    and columns of the index count high pixels, and the GeoJSON's outlines are in degrees (EPSG:4326).

    Returns:
        The number of pairs.

    Raises:
        UsageError: the folder exists, or the tile is smaller than a source pixel.
        InputError: as for a run.
        OutputError: the folder could not be written; nothing is left of it.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists; give a folder that does not")
    if tile < inputs.scale:
        raise UsageError(f"a tile of {tile} pixels is smaller than one source pixel ({inputs.scale})")
    scene = pipeline.open_scene(inputs)
    try:
        hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    except OSError as error:
        raise OutputError(f"cannot write in {folder.absolute().parent}: {error.strerror or error}") from error
    try:
        rows = [*_write_all(scene, hidden, cut(scene.grids.low.shape, inputs.scale, size=tile, halo=0))]
        _write_index(hidden, rows)
        hidden.chmod(0o755)
        hidden.rename(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return len(rows)


def _write_all(scene: pipeline.Scene, folder: Path, tiles: list[Tile]) -> Iterator[dict[str, object]]:
    low, high, scale = scene.grids.low, scene.grids.high, scene.grids.scale
    for name in ("source", "guide"):
        (folder / name).mkdir()
    dtype = scene.guide.dtype if scene.guide.dtype in ("uint8", "uint16") else "float32"
    for tile in tiles:
        if (pair := scene.read(tile)) is None:
            continue
        window, name = tile.window.times(scale), f"{tile.index:05d}.tif"
        source = np.where(pair.source_valid, pair.source, np.nan)[None].astype(np.float32)
        guide = pair.guide if dtype == "float32" else np.rint(pair.guide).astype(dtype)
        write_tile(folder / "source" / name, source, crop(low, tile.window), scene.source.crs_wkt)
        write_tile(folder / "guide" / name, guide, crop(high, window), scene.source.crs_wkt, valid=pair.guide_valid)
        values = (
            tile.index,
            f"source/{name}",
            f"guide/{name}",
            window.row,
            window.col,
            window.height,
            window.width,
            round(float(pair.source_valid.mean()), 4),
            round(float(pair.guide_valid.mean()), 4),
            crop(high, window),
        )
        yield dict(zip((*_FIELDS, "grid"), values, strict=True))


def _write_index(folder: Path, rows: list[dict[str, object]]) -> None:
    features = []
    for row in rows:
        grid = row.pop("grid")
        assert isinstance(grid, GeoBox)
        outline = grid.geographic_extent.json if grid.crs else None
        features.append({"type": "Feature", "geometry": outline, "properties": row})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, _FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "index.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

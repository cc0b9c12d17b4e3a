"""`geosr tile`: the aligned pairs as files, with an index."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox

from geosr.errors import UsageError
from geosr.files import check_new
from geosr.geotiff import write_tile
from geosr.grid import check_scale, crop
from geosr.options import Inputs
from geosr.scene import Scene, open_scene, suspicions
from geosr.scratch import new_folder
from geosr.tiling import SIDE, Tile, cut

_FIELDS = ("index", "source", "guide", "row", "col", "height", "width", "source_valid", "guide_valid")


def write_pairs(
    inputs: Inputs, folder: Path, *, tile: int = SIDE, tell: Callable[[str], None] = lambda text: None
) -> int:
    """Cut a pair into `folder`: `source/00000.tif`, `guide/00000.tif`, `index.csv` and `index.geojson`.

    Tiles have `tile` high pixels a side (less where the raster is smaller), each a whole number of source
    pixels, spread evenly over the scene; neighbours share a few source pixels. Tiles without a valid source
    pixel are left out. Source tiles are float32 in physical units, NaN where invalid. Guide tiles lie on the
    high grid, in the guide's own type (float32 for anything but uint8 and uint16), with a mask band. Rows
    and columns of the index count high pixels, and the GeoJSON's outlines are in degrees (EPSG:4326).
    `tell` is given what there is to note of the pair.

    Returns:
        The number of pairs.

    Raises:
        UsageError: the folder exists, or the tile is smaller than a source pixel.
        InputError: as for a run.
        OutputError: the folder could not be written; nothing is left of it.
    """
    check_new(folder)
    if tile < check_scale(inputs.scale):
        raise UsageError(f"a tile of {tile} pixels is smaller than one source pixel ({inputs.scale})")
    scene = open_scene(inputs)
    for note in (*scene.notes, *suspicions(scene, limited=True)):
        tell(note)
    tiles = cut(scene.grids.low.shape, scene.grids.scale, size=tile, halo=0)
    with new_folder(folder) as made:
        rows = [*_write_all(scene, made, tiles)]
        _write_index(made, rows)
    return len(rows)


def _write_all(scene: Scene, folder: Path, tiles: list[Tile]) -> Iterator[dict[str, object]]:
    low, high, scale = scene.grids.low, scene.grids.high, scene.grids.scale
    for name in ("source", "guide"):
        (folder / name).mkdir()
    dtype = scene.guide.dtype if scene.guide.dtype in ("uint8", "uint16") else "float32"
    largest = None if dtype == "float32" else np.iinfo(dtype).max
    for tile in tiles:
        if (pair := scene.read(tile)) is None:
            continue
        window, name = tile.window.times(scale), f"{tile.index:05d}.tif"
        source = np.where(pair.source_valid, pair.source, np.nan)[None].astype(np.float32)
        guide = pair.guide if largest is None else np.rint(pair.guide).clip(0, largest).astype(dtype)
        write_tile(folder / "source" / name, source, crop(low, tile.window), scene.source.crs_wkt, of=scene.source)
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
        features.append({"type": "Feature", "geometry": _outline(grid), "properties": row})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, _FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "index.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _outline(grid: GeoBox) -> dict[str, object] | None:
    """The tile's four corners in degrees, as GeoJSON; None without a CRS."""
    if grid.crs is None:
        return None
    rows, cols = grid.shape
    corners = [grid.affine * corner for corner in ((0, 0), (0, rows), (cols, rows), (cols, 0), (0, 0))]
    to_degrees = pyproj.Transformer.from_crs(grid.crs.proj, "EPSG:4326", always_xy=True)
    return {"type": "Polygon", "coordinates": [[to_degrees.transform(*corner) for corner in corners]]}

"""The images of the IEEE GRSS Data Fusion Contest 2019: how they are laid out, and what is wrong with their files.

Track 1 has single views with heights above ground in each view's own geometry, without any georeference. Track 3 has
tiles of a surface model (WGS84 heights) in UTM, and images that are placed by RPCs alone.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import raster
from geosr.describe import describe_source
from geosr.errors import InputError, UnavailableError
from geosr.grid import Window, pool_grid
from geosr.ortho import Surface, off_nadir, orthorectify
from geosr.raster_guard import show
from geosr.samples import Sample, TruePair, pool_truth

CROP = 320
"""Side of the papers' images in pixels."""

TILES = 6
"""Tiles whose nine crops make 54 pairs, as many as the paper has; it does not name its own."""

_MSI_BANDS = 8
_NO_HEIGHT = -999.0
_ZONES = {"JAX": "EPSG:32617", "OMA": "EPSG:32615"}
"""UTM zones of the cities: Track 3's tiles have eastings and northings and do not name theirs."""


def dfc2019(root: Path, *, image: str = "RGB") -> list[Sample]:
    """Track 1: `CITY_TILE_VIEW_RGB.tif` and `..._AGL.tif` (metres above ground), anywhere below `root`.

    With `image="MSI"` the eight bands of `..._MSI.tif` in place of the colours, see `read_msi`.

    Crops of 320 x 320 without an invalid height, from the first `TILES` tiles, by name, of which all crops are
    so: one view each, since views do not align with each other. A list of our own.

    Raises:
        InputError: there are no such files, or no tile is whole.
    """
    heights = {path.name.removesuffix("_AGL.tif"): path for path in sorted(root.rglob("*_AGL.tif"))}
    images = {path.name.removesuffix(f"_{image}.tif"): path for path in sorted(root.rglob(f"*_{image}.tif"))}
    views = sorted(heights.keys() & images.keys())
    if not views:
        raise InputError(
            f"{show(root)} holds no pairs of Track 1, such as JAX_004_006_{image}.tif with JAX_004_006_AGL.tif; "
            f"found {len(images)} _{image}.tif and {len(heights)} _AGL.tif"
        )
    tiles = (views for _, views in groupby(views, key=lambda view: view.rpartition("_")[0]))
    whole = (
        crops for tile in tiles if (crops := next(filter(None, (_crops(v, images[v], heights[v]) for v in tile)), None))
    )
    samples = [sample for crops in islice(whole, TILES) for sample in crops]
    if not samples:
        raise InputError(
            f"{show(root)}: every one of its {len(views)} views has invalid heights or is under 320 pixels"
        )
    return samples


def _crops(view: str, image: Path, heights: Path) -> list[Sample]:
    """All crops of a view; none if a height in them is invalid."""
    truth = describe_source(heights)
    starts = [range(0, side - CROP + 1, CROP) for side in truth.shape]
    windows = [Window(row, col, CROP, CROP) for row in starts[0] for col in starts[1]]
    if not all(raster.read_source(truth, window)[1].all() for window in windows):
        return []
    kind = MsiSample if image.name.endswith("_MSI.tif") else Sample
    return [kind(f"{view}_{w.row}_{w.col}", "dfc2019", image, heights, w) for w in windows]


@dataclass(frozen=True)
class MsiSample(Sample):
    """A sample of which the sharp image has eight bands."""

    def _read_guide(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        image = read_msi(self.guide)
        return image, np.ones(image.shape[1:], bool)


def read_msi(path: Path) -> NDArray[np.float32]:
    """The eight bands (8, rows, columns) of a `..._MSI.tif`.

    The contest's files were written as so many pages as they have rows, each of (columns, 8) pixels: GDAL reads the
    first row of the image as all there is. Files that were rewritten band by band are read as well.

    Raises:
        InputError: it cannot be read, or has not eight bands.
        UnavailableError: tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise UnavailableError(
            "reading DFC2019's multispectral images needs tifffile: pip install 'geosr[datasets]'"
        ) from error
    try:
        stored = tifffile.imread(path)
    except Exception as error:  # of a damaged file it raises whatever comes
        raise InputError(f"{show(path)}: cannot be read, it may be damaged: {show(error)}") from error
    if stored.ndim != 3 or _MSI_BANDS not in (stored.shape[0], stored.shape[2]):
        raise InputError(f"{show(path)}: holds an array of {show(stored.shape)}; eight bands are needed")
    image = stored if stored.shape[0] == _MSI_BANDS else np.moveaxis(stored, 2, 0)
    return np.ascontiguousarray(image, np.float32)


@dataclass(frozen=True, kw_only=True)
class OrthoSample(Sample):
    """A tile of Track 3: the truth lies where the text file `place` says, and the image is orthorectified to there."""

    place: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that it is read from."""
        return *super().files, self.place

    def read(self, scale: int) -> TruePair:
        """As `Sample.read`. Behind buildings the image shows what hides the ground; that is not looked for.

        The surface over which it is orthorectified is the source and not the truth, which a user would not have.
        """
        truth, grid = self._read_truth(), _tile_grid(self.name, self.place)
        if grid.shape != truth.shape:
            raise InputError(
                f"{show(self.place)}: says {grid.shape[1]} pixels a side, {show(self.truth.name)} has others"
            )
        blank = pool_truth(self.name, truth, np.zeros((0, *truth.shape), np.float32), scale)
        low, known = blank.pair.source, blank.pair.source_valid
        if not known.any():
            raise InputError(f"{show(self.truth)}: no block of {scale} x {scale} pixels is valid")
        filled = np.where(known, low, np.median(low[known]))
        image, seen = orthorectify(self.guide, grid, Surface(filled, pool_grid(grid, scale)))
        if not seen.any():
            raise InputError(f"{show(self.guide)}: does not show the tile of {show(self.truth.name)}")
        return pool_truth(self.name, truth, image, scale, seen, grid)


def dfc2019_track3(root: Path) -> list[Sample]:
    """Track 3: `CITY_TILE_DSM.tif` with its `.txt`, and `CITY_TILE_VIEW_RGB.tif` with RPCs, anywhere below `root`.

    Each tile is a pair with the view that looks down steepest. Heights of -999 are invalid. The four numbers of the
    `.txt` are taken as easting and northing of the lower left pixel's outer corner, pixels a side and metres a pixel.

    Raises:
        InputError: there are no such files.
    """
    heights = {path.name.removesuffix("_DSM.tif"): path for path in sorted(root.rglob("*_DSM.tif"))}
    images = sorted(root.rglob("*_RGB.tif"))
    views = {tile: [path for path in images if path.name.startswith(f"{tile}_")] for tile in heights}
    samples: list[Sample] = [
        OrthoSample(
            tile, "dfc2019-track3", _steepest(views[tile]), path, unknown=_NO_HEIGHT, place=path.with_suffix(".txt")
        )
        for tile, path in heights.items()
        if views[tile]
    ]
    if not samples:
        raise InputError(
            f"{show(root)} holds no tiles of Track 3, such as JAX_004_DSM.tif and JAX_004_DSM.txt with images such as "
            f"JAX_004_006_RGB.tif; found {len(heights)} _DSM.tif and {len(images)} _RGB.tif"
        )
    return samples


def _steepest(views: list[Path]) -> Path:
    """The view nearest to straight down; the first where none can be read, which its own pair will tell of."""
    angles = {}
    for path in views:
        with suppress(InputError):
            angles[path] = off_nadir(path)
    return min(angles, key=lambda path: angles[path]) if angles else views[0]


def _tile_grid(tile: str, text: Path) -> GeoBox:
    """Where a tile lies, by its `.txt`.

    Raises:
        InputError: it cannot be read, does not hold four numbers, or is of another city.
    """
    try:
        numbers = [float(word) for word in text.read_text(encoding="ascii", errors="replace").split()]
    except (OSError, ValueError) as error:
        raise InputError(f"{show(text)}: cannot be read as numbers: {show(error)}") from error
    if len(numbers) != 4 or not np.isfinite(numbers).all() or not 2 <= numbers[2] <= 1e5 or numbers[3] <= 0:
        raise InputError(f"{show(text)}: should hold easting, northing, pixels and metres a pixel")
    if (city := tile.partition("_")[0]) not in _ZONES:
        raise InputError(f"{show(text)}: the UTM zone of {show(city)} is not known, only of {', '.join(_ZONES)}")
    left, bottom, side, step = numbers
    return GeoBox((int(side), int(side)), Affine(step, 0, left, 0, -step, bottom + side * step), _ZONES[city])

"""Images of a data set with a truth: read as pairs, their source made from the truth, and written as files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import raster
from geosr.bands import Band
from geosr.consistency import blocks_of
from geosr.describe import describe_guide, describe_source
from geosr.digests import digest_of
from geosr.errors import InputError
from geosr.files import reported
from geosr.geotiff import write_tile
from geosr.grid import Window, crop, pool_grid
from geosr.pair import Pair
from geosr.raster_guard import files_of, fingerprint, show
from geosr.scratch import scratch_folder

Array = NDArray[np.float64]

_ORIGIN = "GEOSR_MADE_FROM"
"""Tag of the files that are made from a sample: its `origin`."""


@dataclass(frozen=True)
class TruePair:
    """A pair with what its source is the mean of.

    Attributes:
        name: of the pair.
        pair: source and guide.
        truth: (s*h, s*w) float64, NaN where unknown.
        grid: of the truth; None where its place is not known.
    """

    name: str
    pair: Pair
    truth: Array
    grid: GeoBox | None = None


@dataclass(frozen=True)
class Sample:
    """An image of a data set.

    Attributes:
        name: of the image.
        group: the part of the data set over which a table takes its mean.
        guide: file of the sharp image.
        truth: file of what is to be found, on the same pixels.
        window: the part of both that is used; None for all.
        unknown: the value in the truth's file that means that nothing is known.
        band: of the truth's file, where it has several.
    """

    name: str
    group: str
    guide: Path
    truth: Path
    window: Window | None = None
    unknown: float | None = None
    band: Band | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that it is read from."""
        return self.guide, self.truth

    @property
    def origin(self) -> str:
        """A digest of where its files lie and of what is taken of them, not of what they hold."""
        parts = type(self).__name__, *map(os.path.realpath, self.files), self.window, self.unknown, self.band
        return digest_of(repr(parts).encode())

    def read(self, scale: int) -> TruePair:
        """The pair and its truth, both cut to whole source pixels.

        Raises:
            InputError: a file is refused, or guide and truth differ in size.
        """
        truth, (image, image_valid) = self._read_truth(), self._read_guide()
        if image_valid.shape != truth.shape:
            raise InputError(
                f"{show(self.guide)} is {_size(image_valid.shape)} pixels, {show(self.truth.name)} "
                f"{_size(truth.shape)}; guide and truth must lie on the same pixels"
            )
        rows, cols = (self.window or Window(0, 0, *truth.shape)).slices
        return pool_truth(self.name, truth[rows, cols], image[:, rows, cols], scale, image_valid[rows, cols])

    def _read_guide(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """All of it, (bands, rows, columns), and where it is valid."""
        guide = describe_guide(self.guide)
        return raster.read_guide(guide, guide.geobox)

    def _read_truth(self) -> Array:
        """All of it, NaN where unknown."""
        if self.truth.suffix.lower() == ".pfm":
            return read_pfm(self.truth)
        values, valid = raster.read_source(describe_source(self.truth, band=self.band, nodata=self.unknown))
        return np.where(valid, values, np.nan)


def read_pfm(path: Path) -> Array:
    """A Portable Float Map of one band, as Middlebury 2014 has its disparities; NaN where it is not finite.

    Raises:
        InputError: it cannot be read or is none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{show(path)}: cannot be read: {error.strerror or error}") from error
    header = re.match(rb"Pf\s+(\d{1,6})\s+(\d{1,6})\s+(-?[0-9.]+)\s", data)
    if not header:
        raise InputError(f"{show(path)}: is no PFM file of one band")
    cols, rows, body = int(header[1]), int(header[2]), data[header.end() :]
    if len(body) != rows * cols * 4 or not rows * cols:
        raise InputError(f"{show(path)}: {cols} x {rows} pixels need {rows * cols * 4} bytes, it has {len(body)}")
    stored = np.frombuffer(body, "<f4" if header[3].startswith(b"-") else ">f4").reshape(rows, cols)[::-1]
    return np.where(np.isfinite(stored), stored, np.nan).astype(np.float64)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def pool_truth(
    name: str,
    truth: Array,
    guide: NDArray[np.floating],
    scale: int,
    guide_valid: NDArray[np.bool_] | None = None,
    grid: GeoBox | None = None,
) -> TruePair:
    """A pair whose source is the truth's means over scale x scale pixels, valid where all of them are finite.

    Args:
        name: of the pair.
        truth: (rows, columns), NaN where unknown; what goes beyond whole source pixels is cut off.
        guide: (bands, rows, columns) on the same pixels.
        scale: high pixels to one source pixel along a side.
        guide_valid: (rows, columns); where the guide is finite when None.
        grid: of all of the truth; None where it is not known.
    """
    rows, cols = (side // scale * scale for side in truth.shape)
    truth, guide = truth[:rows, :cols], guide[:, :rows, :cols].astype(np.float32)
    seen = np.isfinite(guide).all(axis=0) if guide_valid is None else guide_valid[:rows, :cols]
    means = np.asarray(blocks_of(truth, scale).mean(axis=(1, 3)))
    valid = np.isfinite(means)
    place = None if grid is None else crop(grid, Window(0, 0, rows, cols))
    return TruePair(name, Pair(guide, seen, np.where(valid, means, 0.0), valid), truth, place)


def save_sample(sample: Sample, scale: int, source: Path, guide: Path) -> None:
    """Write a sample's pair, float32, and beside the source the truth, `..._truth.tif`.

    Files that are there, were made from this sample and are no older than what they are made from are left as they are,
    so that a run goes on where it was.

    Raises:
        InputError: as `Sample.read`.
        OutputError: there is no space left, or no permission.
    """
    truth = source.with_name(f"{source.name.removesuffix('source.tif')}truth.tif")
    newest = max(fingerprint(path)[1] for given in sample.files for path in {given, *files_of(given)})
    if all(origin_of(path) == sample.origin and path.stat().st_mtime_ns >= newest for path in (truth, guide, source)):
        return
    true = sample.read(scale)
    low = np.where(true.pair.source_valid, true.pair.source, np.nan)
    made = ((truth, true.truth[None], None), (guide, true.pair.guide, true.pair.guide_valid), (source, low[None], None))
    with reported(f"{show(source.parent)} cannot be written"):
        source.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(source) as hidden, reported(f"cannot write {source}"):
        for path, values, valid in made:
            grid = _grid_of(true, (values.shape[1], values.shape[2]))
            wkt = grid.crs.to_wkt() if grid.crs else None
            tags = {_ORIGIN: sample.origin}
            write_tile(hidden / path.name, values.astype(np.float32), grid, wkt, valid=valid, tags=tags)
            (hidden / path.name).replace(path)


def origin_of(path: Path) -> str | None:
    """The `origin` of the sample that a file was made from; None where there is no such file."""
    try:
        return describe_guide(path).tags.get(_ORIGIN)
    except InputError:
        return None


def _grid_of(true: TruePair, shape: tuple[int, int]) -> GeoBox:
    """The grid of an array of the pair: the truth's, or that of its source."""
    if true.grid is None:
        return GeoBox(shape, Affine.identity(), None)
    return pool_grid(true.grid, true.grid.shape[0] // shape[0])

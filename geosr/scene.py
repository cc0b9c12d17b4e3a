"""A source and a guide on one pair of nested grids: opened, looked at, read in windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import coordinates, preflight, raster
from geosr.coregister import Shift, find_shift
from geosr.describe import describe_guide, describe_source
from geosr.displacement import Displacement
from geosr.errors import InputError
from geosr.grid import GridPair, Window, crop, plan_grids
from geosr.options import Inputs
from geosr.pair import Pair
from geosr.raster import Raster
from geosr.raster_guard import show
from geosr.tiling import Tile


@dataclass(frozen=True)
class Scene:
    """A source and a guide brought onto one pair of nested grids.

    Attributes:
        source: the coarse raster.
        guide: the sharp raster.
        grids: of the part that is worked on.
        origin: that part in the source's own pixels.
        notes: what the user should know about the pair.
        shift: how far off the guide was found to be; None where nobody asked.
    """

    source: Raster
    guide: Raster
    grids: GridPair
    origin: Window
    notes: tuple[str, ...] = ()
    shift: Shift | None = None

    def read_source(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Physical values and validity of a window of the low grid."""
        return raster.read_source(self.source, self._of_the_file(window))

    def may_hold(self, window: Window) -> bool:
        """Whether a file of the source reaches into a window of the low grid: between those of a folder are gaps."""
        return self.source.reaches(self._of_the_file(window))

    def _of_the_file(self, window: Window) -> Window:
        """A window of the low grid in the source's own pixels."""
        return window.shifted(self.origin.row, self.origin.col)

    def read_guide(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The guide and its validity on a window of the high grid."""
        return raster.read_guide(self.guide, crop(self.seen, window), grid=self.seen)

    @property
    def seen(self) -> GeoBox:
        """The high grid as the guide is looked for: where the shift says."""
        rows, cols = self.shift.applied if self.shift else (0.0, 0.0)
        high = self.grids.high
        return GeoBox(high.shape, high.affine * Affine.translation(cols, rows), high.crs)

    def read(self, tile: Tile, *, with_guide: bool = True) -> Pair | None:
        """The tile's aligned arrays; None where the source has no valid pixel. Without the guide it has no bands."""
        source, source_valid = self.read_source(tile.window)
        if not source_valid.any():
            return None
        high = tile.window.times(self.grids.scale)
        guide = self.read_guide(high) if with_guide else _no_bands(high.shape)
        return Pair(*guide, source, source_valid, (high.row, high.col))


def _no_bands(shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A guide for a method that does not use any."""
    return np.zeros((0, *shape), np.float32), np.ones(shape, bool)


def open_scene(inputs: Inputs) -> Scene:
    """Look at both rasters, see that they can be read, and plan the grids.

    Raises:
        UsageError: a scale or an option out of range.
        InputError: a raster is refused, or the two do not fit.
    """
    if inputs.assume_crs is not None:
        coordinates.parse_crs(inputs.assume_crs)  # wrong is wrong, also where both files name theirs
    source = describe_source(
        inputs.source,
        band=inputs.band,
        nodata=inputs.source_nodata,
        assume_crs=inputs.assume_crs,
        native_resolution=inputs.native_resolution,
    )
    x, y = inputs.guide_shift or (0.0, 0.0)
    near = coordinates.moved(source.geobox, (-x, -y), source.geobox)  # where its file has what is wanted
    guide = describe_guide(inputs.guide, nodata=inputs.guide_nodata, assume_crs=inputs.assume_crs, near=near)
    grids, guide_box, origin, notes = plan_grids(source.geobox, guide.geobox, inputs.scale, inputs.bounds)
    if inputs.guide_shift:
        guide_box = coordinates.moved(guide_box, inputs.guide_shift, source.geobox)
    guide = replace(guide, geobox=guide_box)
    unused = coordinates.unused_crs(inputs.assume_crs, (source.geobox, guide.geobox))
    way = coordinates.check_transform(source.geobox, guide.geobox, allow_ballpark=inputs.allow_ballpark)
    fit = _check_fit(guide, grids)
    notes = (*source.warnings, *guide.warnings, *unused, *notes, *(note for note in (way, *fit) if note))
    scene = Scene(source, guide, grids, origin, notes)
    return _coregistered(scene, (x, y)) if inputs.coregister else scene


def _coregistered(scene: Scene, given: tuple[float, float]) -> Scene:
    """The scene with its guide looked for where it fits the source; `given` is the guide shift that it has already."""

    def read_guide(window: Window, displacement: Displacement | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return replace(scene, guide=replace(scene.guide, displacement=displacement)).read_guide(window)

    shift = find_shift(scene.grids, scene.read_source, read_guide)
    guide = replace(scene.guide, displacement=shift.local)
    return replace(scene, guide=guide, shift=shift, notes=(*scene.notes, shift.describe(scene.grids, given)))


def _check_fit(guide: Raster, grids: GridPair) -> Iterator[str]:
    """What to say of a guide that covers a part only or is coarse; refuse one that is of no use."""
    covered = coordinates.overlap_fraction(grids.low, guide.geobox, guide.places)
    if covered == 0:
        notes = "".join(f"\n{note}" for note in guide.warnings)  # one may say what was assumed of its place
        raise InputError(
            "source and guide do not overlap\n"
            f"source: {coordinates.extent_text(grids.low)}\nguide: {coordinates.extent_text(guide.geobox)}{notes}"
        )
    finer = min(coordinates.step_ratio(grids.low, guide.geobox))
    if finer <= 1.01:
        remedy = (
            "is the source perhaps the guide? A guide with smaller pixels is needed"
            if finer < 0.9
            else "a guide with smaller pixels is needed; if the source's sensor resolves less than its pixels, "
            "give --native-resolution METRES"
        )
        raise InputError(
            f"the guide {show(guide.path.name)} is no finer than the source: {finer:.2f} of its pixels to one source "
            f"pixel; {remedy}"
        )
    if covered < 0.9995:
        yield f"the guide covers {covered:.1%} of the source"
    if finer < 0.99 * grids.scale:
        enough = f"; --scale {int(finer + 0.01)} would show all of it" if finer >= 1.99 else ""
        yield (
            f"the guide is coarser than the output, {finer:.2f} of its pixels to one source pixel: detail is limited "
            f"to that ratio{enough}"
        )


def suspicions(scene: Scene, *, limited: bool) -> Iterator[str]:
    """Constants in the files that look like nodata which nobody declared.

    `limited`: the output has limits already, or none is made.
    """
    for role, file in (("source", scene.source), ("guide", scene.guide)):
        with suppress(InputError):  # what cannot be read will be named by its tile
            constant = preflight.suspicious_constant(file)
            if constant is not None:
                value = raster.value_text(constant, file.dtype)  # whole, as it will be typed
                hint = f"if it is, pass --{role}-nodata {value}"
                if role == "source" and constant == file.offset == 0 and not limited:  # zeros are often ground or shore
                    hint += "; if 0 is a real value, --min 0 keeps the output from going below it (--max 0 above it)"
                yield f"{preflight.suspicion(f'the {role}', value)}; {hint}"


def find_valid(scene: Scene, tiles: list[Tile], *, with_guide: bool = True) -> tuple[Tile, Pair]:
    """The tile with a valid source pixel whose middle is nearest to the scene's, and what is read of it.

    Raises:
        InputError: there is none.
    """
    rows, cols = scene.grids.low.shape

    def away(tile: Tile) -> float:
        window = tile.window
        return math.hypot(2 * window.row + window.height - rows, 2 * window.col + window.width - cols)

    for tile in sorted(tiles, key=away):
        if pair := scene.read(tile, with_guide=with_guide):
            return tile, pair
    raise InputError(f"the source {show(scene.source.path.name)} has no valid pixel here; all are nodata")

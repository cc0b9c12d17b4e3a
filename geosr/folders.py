"""A folder of raster files, as survey offices deliver them, taken for one raster."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from geosr import coordinates, mosaic
from geosr import raster_guard as guard
from geosr.errors import InputError
from geosr.grid import Window
from geosr.raster import Raster, read_stored, reopened
from geosr.raster_guard import show
from geosr.units import conversion

_MARGIN = 8  # source pixels; a guide is looked for 3 away at most
_MOST_NOTES = 4
_MOST_DOUBLES = 256  # pairs of files that are compared; 3 ms each where they share a frame of 2000 x 2000
_GLIMPSE = 256  # pixels a side that two files are compared on


def describe_folder(
    path: str | os.PathLike[str], describe: Callable[[str | os.PathLike[str]], Raster], near: GeoBox | None
) -> Raster:
    """Its files as one raster."""
    folder = Path(os.path.abspath(path))
    found = [describe(file) for file in guard.rasters_in(folder)]
    wanted = [file for file in found if near is None or _is_near(file, near)] or found
    _check_alike(wanted)
    names = [show(f"{folder.name}/{file.path.name}") for file in wanted]
    grid, windows = mosaic.lay_out([file.geobox for file in wanted], names)
    _check_apart(wanted, windows)
    first, size = wanted[0], sum(file.fingerprint[0] for file in wanted)
    claimed = math.prod(grid.shape) * len(first.bands) * np.dtype(first.dtype).itemsize
    if guard.claims_too_much(claimed, size):
        rows, cols = grid.shape
        raise InputError(
            f"{show(folder)}: its files lie so far apart that together they are {cols} x {rows} pixels "
            f"({claimed / 2**30:,.0f} GiB), and they have {size} bytes; one of them may be misplaced"
        )
    notes = [*_folder_notes(folder, found, wanted), *_shortened([note for file in wanted for note in file.warnings])]
    if mixed := len({str(file.nodata) for file in wanted}) > 1:
        notes.append(f"{show(folder.name)}: its files do not declare one nodata value; each file's own holds for it")
    return replace(
        first,
        path=folder,
        geobox=grid,
        nodata=None if mixed else first.nodata,
        units=next((file.units for file in wanted if file.units is not None), None),
        description=first.description if len({file.description for file in wanted}) == 1 else None,
        tags=_common([file.tags for file in wanted]),
        band_tags=_common([file.band_tags for file in wanted]),
        alpha=next((file.alpha for file in wanted if file.alpha is not None), None),
        fingerprint=(size, max(file.fingerprint[1] for file in wanted), first.fingerprint[2]),
        warnings=tuple(notes),
        parts=tuple((window, _slim(file, first)) for window, file in zip(windows, wanted, strict=True)),
    )


def _check_alike(files: Sequence[Raster]) -> None:
    """Refuse files that cannot be taken for one raster."""
    first, unit = files[0], next((file.units for file in files if file.units is not None), None)
    for file in files:
        if not file.georeferenced:
            raise InputError(f"{show(file.path)}: has no position; the rasters of a folder are put together by theirs")
        differing = [
            ("CRS", not _same_crs(first.crs_wkt, file.crs_wkt)),
            ("unit", file.units is not None and conversion(file.units, str(unit)) != (1.0, 0.0)),
            ("number of bands", file.bands != first.bands),
            ("data type", file.dtype != first.dtype),
            ("palette", file.palette != first.palette),
            ("scale or offset", (file.scale, file.offset) != (first.scale, first.offset)),
        ]
        if what := next((name for name, differs in differing if differs), None):
            raise InputError(
                f"{show(file.path)}: has another {what} than {show(first.path.name)}; the rasters of a folder are "
                "taken for one, and must be alike"
            )


def _check_apart(files: Sequence[Raster], windows: Sequence[Window]) -> None:
    """Refuse two files that cover the same ground with other values: those are not tiles of one raster."""
    for one, other, shared in islice(mosaic.doubles(windows), _MOST_DOUBLES):
        row, col = shared.row + max(shared.height - _GLIMPSE, 0) // 2, shared.col + max(shared.width - _GLIMPSE, 0) // 2
        middle = Window(row, col, min(shared.height, _GLIMPSE), min(shared.width, _GLIMPSE))
        seen = []
        for number in (one, other):
            with reopened(files[number]) as dataset:
                seen.append(read_stored(files[number], dataset, middle.relative_to(windows[number])))
        (a, a_valid), (b, b_valid) = seen
        both = a_valid & b_valid
        if both.any() and (a != b).any(axis=0)[both].mean() > 0.5:
            raise InputError(
                f"{show(files[other].path)} and {show(files[one].path.name)} cover the same ground with other values, "
                "and a folder's files are taken for tiles of one raster\nbands of one image belong into one file; of "
                "several dates or surfaces give the one that is meant, and mosaic pictures that overlap so far first"
            )


def _common(tags: Sequence[dict[str, str]]) -> dict[str, str]:
    """What all files say."""
    return {key: value for key, value in tags[0].items() if all(other.get(key) == value for other in tags)}


def _same_crs(a: str | None, b: str | None) -> bool:
    return a == b or (a is not None and b is not None and coordinates.same_crs(a, b))


def _is_near(file: Raster, place: GeoBox) -> bool:
    """Whether a guide's file may be used there: with a margin for guides that are looked for elsewhere."""
    if file.geobox.crs is None or place.crs is None:
        return True
    return coordinates.overlap_fraction(place.pad(_MARGIN), file.geobox) > 0


def _slim(file: Raster, first: Raster) -> Raster:
    """What is needed to read it; it goes to workers with every tile, so what is the first one's is not repeated."""
    geobox = GeoBox(file.geobox.shape, file.geobox.affine, first.geobox.crs)
    nodatas = first.nodatas if file.nodatas == first.nodatas else file.nodatas
    return replace(
        file,
        geobox=geobox,
        crs_wkt=first.crs_wkt,
        nodatas=nodatas,
        palette=first.palette,
        tags={},
        band_tags={},
        warnings=(),
    )


def _folder_notes(folder: Path, found: Sequence[Raster], wanted: Sequence[Raster]) -> Iterator[str]:
    name, files = show(folder.name), f"{len(found)} {guard.FORMATS[found[0].driver]} file{'s' * (len(found) > 1)}"
    there = "" if len(wanted) == len(found) else f", of which {len(wanted)} lie over the source"
    yield f"{name}: {files} taken for one raster{there}"
    if inside := guard.folders_with_rasters(folder):
        yield f"{name}: rasters in its folders {', '.join(map(show, inside))} are not read"


def _shortened(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes on many files: the first few."""
    left = len(notes) - _MOST_NOTES
    return (*notes[:_MOST_NOTES], *([f"{left} more notes of this kind on other files"] if left > 0 else []))

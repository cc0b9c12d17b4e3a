"""A raster as a picture: colours, and relief where it is a surface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import coordinates, raster
from geosr.bands import Band
from geosr.describe import describe_guide, describe_source
from geosr.errors import InputError, UsageError
from geosr.files import reported
from geosr.geotiff import encode_picture
from geosr.picture import KINDS, Kind, Mask, Picture, Stretch, decide_kind, hillshade, paint, paint_image
from geosr.preflight import suspicion, suspicious_constant
from geosr.publish import check_output, publish
from geosr.raster import Raster
from geosr.raster_guard import show
from geosr.scratch import scratch_folder

MAX_SIDE = 8192
AS_IS = Stretch(0.0, 255.0)
"""Of colours that are shown as they are."""


@dataclass(frozen=True)
class Quicklook:
    """What was drawn.

    Attributes:
        picture: uint8 (4, rows, columns).
        kind: of the values.
        stretch: values at the two ends of the colours.
        step: raster pixels to one of the picture, along a side.
        relief: by how much it was exaggerated; None where there is none.
        notes: on what may be wrong with the file.
    """

    picture: Picture
    kind: Kind
    stretch: Stretch
    step: int
    relief: float | None
    notes: tuple[str, ...] = ()


def kind_of(file: Raster) -> Kind:
    """What the values of `file` are; of an output, whose name may be any, the source's name tells first."""
    if layer := file.tags.get("GEOSR_LAYER"):  # in the source's unit, and no heights
        return Kind("other", f"its tag GEOSR_LAYER, {layer}", file.units or "")
    vertical = "VERTCRS[" in (file.crs_wkt or "")
    source = Path(file.tags.get("GEOSR_SOURCE", "")).stem
    return decide_kind(file.units, file.description, vertical=vertical, source=source, stem=file.path.stem)


def steps_of(grid: GeoBox, kind: Kind, times: float = 1.0) -> tuple[float, float]:
    """Length of `times` column steps and row steps of `grid` in the unit of heights, for `hillshade`."""
    across, down = coordinates.ground_resolution(grid)
    return times * across / kind.metres, times * down / kind.metres


def quicklook(
    path: Path,
    output: Path,
    *,
    size: int = 1024,
    kind: str | None = None,
    band: Band | None = None,
    overwrite: bool = False,
) -> Quicklook:
    """Draw the raster at `path` into the PNG file `output`.

    Args:
        path: a raster file; where neither kind nor band is given, three bands of uint8 or uint16 are drawn as a photo,
            and a palette in its colours.
        output: the picture to write.
        size: longer side of the picture at most; a larger raster is read from its overviews, or thinned out.
        kind: one of `KINDS`, over what the file says.
        band: which one of several, from 1.
        overwrite: replace an existing picture.

    Raises:
        UsageError, InputError: before anything is written.
        OutputError: the picture could not be written, or a file of its name has appeared, which is left alone.
    """
    if not 16 <= size <= MAX_SIDE:
        raise UsageError(f"size is {size}; it must be from 16 to {MAX_SIDE}")
    if kind not in (None, *KINDS):
        raise UsageError(f"kind is {kind!r}; use one of {', '.join(KINDS)}")
    output = check_output(output, [path], overwrite=overwrite, form="PNG")
    if kind is band is None and (photo := _describe_photo(path)):
        drawn = _draw_photo(photo, size)
    else:
        file = describe_source(path, band=band)
        found = kind_of(file)
        drawn = draw(file, replace(found, name=kind, reason="what was asked for") if kind else found, size)
        drawn = replace(drawn, notes=tuple(_suspicions(file)))
    with scratch_folder(output) as hidden, reported(f"cannot write {output}"):
        made = hidden / "made.png"
        made.write_bytes(encode_picture(drawn.picture, "PNG"))
        publish(made, output, overwrite=overwrite)
    return drawn


def draw(file: Raster, kind: Kind, size: int) -> Quicklook:
    """`file` in at most `size` pixels a side; elevations with their relief."""
    step = -(-max(file.shape) // size)
    values, valid = raster.glance_source(file, step)
    stretch = Stretch.measure(values, valid)
    shade, relief = (
        hillshade(values, valid, steps_of(file.geobox, kind, step)) if kind.name == "elevation" else (None, None)
    )
    return Quicklook(paint(values, valid, kind.name, stretch, shade), kind, stretch, step, relief)


def _suspicions(file: Raster) -> Iterator[str]:
    """A constant that looks like nodata is drawn as a value, and spoils the stretch of the colours."""
    with suppress(InputError):  # of parts that are not needed for the picture
        constant = suspicious_constant(file)
        if constant is not None:
            yield suspicion(show(file.path.name), raster.value_text(constant, file.dtype))


def _describe_photo(path: Path) -> Raster | None:
    """A raster of colours: a palette's, or three bands of 8 or 16 bits; None for any other, and for what is refused."""
    with suppress(InputError):
        file = describe_guide(path)
        return file if file.palette or (len(file.bands) == 3 and file.dtype in ("uint8", "uint16")) else None
    return None


def _draw_photo(file: Raster, size: int) -> Quicklook:
    """Its colours in at most `size` pixels a side."""
    step = -(-max(file.shape) // size)
    rows, cols = (-(-side // step) for side in file.shape)
    height, width = file.shape
    grid = GeoBox((rows, cols), file.geobox.affine * Affine.scale(width / cols, height / rows), file.geobox.crs)
    picture, stretch = paint_photo(file, *raster.glance_guide(file, grid))
    how = "" if stretch == AS_IS else ", which share one stretch"
    reason = "its palette" if file.palette else f"its three bands of {file.dtype}{how}"
    return Quicklook(picture, Kind("picture", reason), stretch, step, None)


def paint_photo(file: Raster, bands: NDArray[np.float32], valid: Mask) -> tuple[Picture, Stretch]:
    """A guide's red, green and blue where it names them, else its first three bands or its first; and their stretch.

    A palette's colours and 8 bits are shown as they are, all else from the 2nd to the 98th percentile of all bands.
    """
    names = ["red", "green", "blue"]
    named = names if file.palette else [file.colorinterp[band - 1] for band in file.bands]
    chosen = [named.index(name) for name in names] if {*names} <= {*named} else [*range(3)]
    shown = bands[chosen if len(bands) >= 3 else [0]].astype(np.float64)
    as_is = file.palette or file.dtype == "uint8"
    stretch = AS_IS if as_is else Stretch.measure(shown, np.broadcast_to(valid, shown.shape))
    return paint_image(shown, valid, stretch), stretch

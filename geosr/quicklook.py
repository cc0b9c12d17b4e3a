"""A raster as a picture: colours, and relief where it is a surface."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from affine import Affine
from odc.geo.geobox import GeoBox

from geosr import coordinates, raster
from geosr.bands import Band
from geosr.describe import describe_guide, describe_source
from geosr.errors import InputError, UsageError
from geosr.geotiff import encode_picture
from geosr.picture import KINDS, Kind, Picture, Stretch, decide_kind, hillshade, paint, paint_image
from geosr.publish import check_output, publish
from geosr.raster import Raster
from geosr.store import reported, scratch_folder

MAX_SIDE = 8192


@dataclass(frozen=True)
class Quicklook:
    """What was drawn.

    Attributes:
        picture: uint8 (4, rows, columns).
        kind: of the values.
        stretch: values at the two ends of the colours.
        step: raster pixels to one of the picture, along a side.
        relief: by how much it was exaggerated; None where there is none.
    """

    picture: Picture
    kind: Kind
    stretch: Stretch
    step: int
    relief: float | None


def kind_of(file: Raster, *, stem: str | None = None) -> Kind:
    """What the values of `file` are; `stem` stands for its name where that is another one."""
    if layer := file.tags.get("GEOSR_LAYER"):  # in the source's unit, and no heights
        return Kind("other", f"its tag GEOSR_LAYER, {layer}", file.units or "")
    vertical = "VERTCRS[" in (file.crs_wkt or "")
    return decide_kind(file.units, file.description, vertical=vertical, stem=stem or file.path.stem)


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
        path: a raster file; of three bands of uint8 as the picture that they are, where neither kind nor band is given.
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


def _describe_photo(path: Path) -> Raster | None:
    """A raster of three 8-bit bands; None for any other, and for what `describe_source` will refuse."""
    with suppress(InputError):
        file = describe_guide(path)
        return file if len(file.bands) == 3 and file.dtype == "uint8" else None
    return None


def _draw_photo(file: Raster, size: int) -> Quicklook:
    """Its bands as red, green and blue, in at most `size` pixels a side."""
    step = -(-max(file.shape) // size)
    rows, cols = (-(-side // step) for side in file.shape)
    height, width = file.shape
    grid = GeoBox((rows, cols), file.geobox.affine * Affine.scale(width / cols, height / rows), file.geobox.crs)
    picture = paint_image(*raster.glance_guide(file, grid), as_is=True)
    return Quicklook(picture, Kind("picture", "its three bands of uint8"), Stretch(0.0, 255.0), step, None)

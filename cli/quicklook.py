"""`geosr quicklook`."""

from __future__ import annotations

from pathlib import Path

import click

from geosr.picture import KINDS

from .options import PATH, Command, option
from .render import one_line, printable, say

_PICTURE = "The picture"


@click.command(cls=Command)
@click.argument("raster", type=PATH)
@option(_PICTURE, "-o", "--output", type=PATH, required=True, metavar="FILE", help="The PNG file to write.")
@option(
    _PICTURE,
    "--size",
    type=int,
    default=1024,
    show_default=True,
    metavar="PIXELS",
    help="Its longer side at most; a larger raster is read from its overviews.",
)
@option(
    _PICTURE,
    "--kind",
    type=click.Choice(KINDS),
    metavar="KIND",
    help=f"What the values are: {', '.join(KINDS)}.  [default: by unit, band name, CRS and file names]",
)
@option(_PICTURE, "--band", metavar="N", help="Which band of a raster that has several, from 1, or as 8.2um.")
@option(_PICTURE, "--overwrite", is_flag=True, help="Replace a picture that exists.")
def command(raster: Path, output: Path, size: int, kind: str | None, band: str | None, overwrite: bool) -> None:
    """Draw RASTER as a picture: elevations with relief and colour, temperatures and all else in colour.

    Three bands of 8 bits, and a palette's colours, are drawn as they are. Else colours go from the 2nd to the 98th
    percentile of the values, of all three where 16-bit bands make a photo; nodata is transparent.

    \b
      geosr quicklook out.tif -o out.png
    """  # noqa: D301
    from geosr.quicklook import quicklook

    drawn = quicklook(raster, output, size=size, kind=kind, band=band, overwrite=overwrite)
    for note in drawn.notes:
        say(f"note: {note}")
    _, rows, cols = drawn.picture.shape
    stretch, units = drawn.stretch, f" {drawn.kind.units}" if drawn.kind.units else ""
    relief = "" if drawn.relief is None else f", relief x {drawn.relief:.2g}"
    click.echo(
        f"wrote {one_line(output)}: {cols} x {rows} pixels, one for {drawn.step} x {drawn.step}; "
        f"{drawn.kind.name} by {printable(drawn.kind.reason)}; "
        f"colours from {stretch.low:.6g} to {stretch.high:.6g}{units}{relief}"
    )

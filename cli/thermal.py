"""`geosr thermal`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH, Command, option
from .render import one_line, say

_RESULT = "How the result is made"


@click.command(cls=Command)
@click.argument("band", type=PATH)
@option("What the job is", "--mtl", type=PATH, required=True, metavar="FILE", help="The scene's ..._MTL.txt.")
@option("What the job is", "-o", "--output", type=PATH, required=True, metavar="FILE", help="The GeoTIFF to write.")
@option(_RESULT, "--celsius", is_flag=True, help="Degrees Celsius in place of kelvin.")
@option(
    _RESULT,
    "--native-resolution",
    type=float,
    metavar="METRES",
    help="What the sensor resolves, where the file's pixels are smaller: 100 for Landsat 8 and 9, whose thermal bands "
    "are delivered on 30 m. Averaged to the nearest whole number of pixels (3 x 3).",
)
@option(
    _RESULT,
    "--thermal-band",
    type=click.Choice(["10", "11"]),
    help="Which band it is, where the file's name (..._B10.TIF) does not say.",
)
@option("How it runs", "--overwrite", is_flag=True, help="Replace an output that exists.")
def command(
    band: Path,
    mtl: Path,
    output: Path,
    celsius: bool,
    native_resolution: float | None,
    thermal_band: str | None,
    overwrite: bool,
) -> None:
    """Make brightness temperature out of the digital numbers of BAND, Landsat 8's or 9's band 10 or 11 (Level 1).

    The result is a source for `geosr upscale`; with --native-resolution it is first brought to what it really shows.

    \b
      geosr thermal LC08_..._B10.TIF --mtl LC08_..._MTL.txt --native-resolution 100 -o bt.tif
      geosr upscale --source bt.tif --guide sentinel2.tif --scale 9 -o bt_10m.tif
    """  # noqa: D301
    from geosr.thermal import to_temperature

    notes = to_temperature(
        band,
        mtl,
        output,
        band=None if thermal_band is None else int(thermal_band),
        celsius=celsius,
        native_resolution=native_resolution,
        overwrite=overwrite,
    )
    for note in notes:
        say(f"note: {note}")
    click.echo(f"wrote {one_line(output)}")

"""`geosr info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geosr.errors import InputError
from geosr.options import Execution, Recipe

from .options import (
    PATH,
    Command,
    batch_option,
    device_option,
    fit_option,
    inputs_from,
    method_options,
    option,
    pair_options,
    refuse_given,
)
from .render import Screen, clock, table_lines

if TYPE_CHECKING:
    from geosr.inspection import Inspection

_OF_ONE = ("source_nodata", "assume_crs")


@click.command(cls=Command)
@click.argument("source", type=PATH)
@click.argument("guide", type=PATH, required=False)
@pair_options
@method_options
@fit_option
@device_option
@batch_option
@option("How it runs", "--time", "timed", is_flag=True, help="Estimate the time, too, by doing a little of the work.")
@click.pass_context
def command(
    context: click.Context,
    /,
    source: Path,
    guide: Path | None,
    method: str,
    preset: str,
    weights: Path | None,
    fit: str | None,
    device: str,
    batch: int | None,
    timed: bool,
    **values: Any,
) -> None:
    """Look at a pair: what SOURCE and GUIDE are, whether they fit, and what `geosr upscale` would do.

    SOURCE is the coarse raster, GUIDE the sharp image of the same ground; one raster alone is described, with the
    values that it holds (of a huge one a sample is read). Nothing is written. With --method auto the methods are first
    tried, as `geosr assess` does: that takes minutes.

    \b
      geosr info dsm.tif
      geosr info dsm.tif ortho.tif --scale 4 --time
    """  # noqa: D301
    from geosr.estimates import run_seconds
    from geosr.inspection import describe_files, describe_one, inspect, rows

    if guide is None:
        kept = {"source", "guide", *_OF_ONE}
        names = [name for name in context.params if name not in kept]
        refuse_given(context, names, "without GUIDE; leave it out, or give both rasters")
        nodata, crs = values["source_nodata"], values["assume_crs"]
        click.echo("\n".join(table_lines(describe_one(source, nodata=nodata, assume_crs=crs))))
        return
    inputs, recipe = inputs_from(source, guide, values), Recipe(method, preset, weights=weights, fit=fit)
    found: Inspection | InputError
    with Screen() as screen:
        execution = Execution(device, batch=batch, on_event=screen.show)
        try:
            found = inspect(inputs, recipe, execution)
        except InputError as error:
            found = error
    if isinstance(found, InputError):  # not in its handler: whatever GDAL printed there would come with a traceback
        for line in table_lines(describe_files(inputs)):  # what tells why the two do not fit
            click.echo(line)
        raise found
    click.echo("\n".join(table_lines(rows(found))))
    if timed:
        seconds = found.planning + run_seconds(found.plan, execution)
        click.echo("\n".join(table_lines([("time", f"about {clock(seconds)}")])))

"""`geosr info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
)
from .render import Screen, clock, table_lines


@click.command(cls=Command)
@click.argument("source", type=PATH)
@click.argument("guide", type=PATH)
@pair_options
@method_options
@fit_option
@device_option
@batch_option
@option("How it runs", "--time", "timed", is_flag=True, help="Estimate the time, too, by doing a little of the work.")
def command(
    source: Path,
    guide: Path,
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

    SOURCE is the coarse raster, GUIDE the sharp image of the same ground. Nothing is written. With --method auto the
    methods are first tried, as `geosr assess` does: that takes minutes.

    \b
      geosr info dsm.tif ortho.tif --scale 4 --time
    """  # noqa: D301
    from geosr.estimates import run_seconds
    from geosr.inspection import inspect, rows

    inputs, recipe = inputs_from(source, guide, values), Recipe(method, preset, weights=weights, fit=fit)
    with Screen() as screen:
        execution = Execution(device, batch=batch, on_event=screen.show)
        found = inspect(inputs, recipe, execution)
    click.echo("\n".join(table_lines(rows(found))))
    if timed:
        seconds = found.planning + run_seconds(found.plan, execution)
        click.echo("\n".join(table_lines([("time", f"about {clock(seconds)}")])))

"""`geosr upscale`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from geosr.consistency import Consistency
from geosr.options import Execution, Recipe
from geosr_cli.options import PATH, inputs_from, pair_options, read_settings, recipe_options
from geosr_cli.render import Screen, show_inspection


@click.command()
@click.option("--source", type=PATH, required=True, help="The coarse raster: heights, temperatures, ...")
@click.option("--guide", type=PATH, required=True, help="The sharp image of the same ground, in any CRS and grid.")
@click.option("-o", "--output", type=PATH, required=True, help="GeoTIFF to write.")
@pair_options
@recipe_options
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--workers", type=int, help="Tiles in work at once.  [default: by the processors]")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
@click.option("-v", "--verbose", is_flag=True, help="Also the grids and the settings.")
def command(
    source: Path,
    guide: Path,
    output: Path,
    device: str,
    workers: int | None,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> None:
    """Give a coarse raster the resolution of a sharp image of the same ground.

    The output has the source's CRS and corner, pixels SCALE times smaller, and its values: averaged over
    each source pixel, it is the source. It is a Cloud-Optimized GeoTIFF.

    \b
      geosr upscale --source dsm.tif --guide ortho.tif --scale 4 -o dsm_x4.tif

    Try a part first with --bounds, and see `geosr info` for what will be done and how long it takes.
    """
    from geosr.pipeline import check_output, inspect, upscale_file

    inputs = inputs_from(source, guide, values)
    consistency = values.pop("consistency")
    recipe = Recipe(
        settings=read_settings(values.pop("settings")),
        consistency=None if consistency is None else Consistency.parse(consistency),
        **values,
    )
    execution = Execution(device, workers, overwrite)
    if dry_run or verbose:
        check_output(output, [source, guide], overwrite=overwrite)
        show_inspection(inspect(inputs, recipe, execution))
    if dry_run:
        return
    with Screen(quiet=quiet) as screen:
        screen.finish(upscale_file(inputs, recipe, replace(execution, on_event=screen.show), output))

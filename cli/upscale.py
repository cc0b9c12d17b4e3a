"""`geosr upscale`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geosr.bands import ALL
from geosr.errors import TileError, UsageError
from geosr.options import Execution

from .options import (
    PATH,
    Command,
    batch_option,
    device_option,
    inputs_from,
    option,
    pair_options,
    recipe_from,
    recipe_options,
    scheduler_options,
    style_option,
    tile_error_option,
    uncertainty_option,
)
from .render import JsonLog, Screen, table_lines

_PAIR = "What the job is"
_RUN = "How it runs"


def _only_one(context: click.Context, option: click.Parameter, paths: tuple[Path, ...]) -> Path | None:
    """The path of an option that may be given once, if it is: click would take the last without a word."""
    if len(paths) > 1:
        folder = "" if option.name == "report" else "; tiles of one raster, or links to them, are given as their folder"
        raise UsageError(f"{option.opts[0]} is given {len(paths)} times, and one is taken{folder}")
    return paths[0] if paths else None


@click.command(cls=Command)
@option(
    _PAIR,
    "--source",
    type=PATH,
    multiple=True,
    callback=_only_one,
    required=True,
    metavar="PATH",
    help="The coarse raster: elevations, canopy heights, temperatures, ... A file, or a folder of tiles of it.",
)
@option(
    _PAIR,
    "--guide",
    type=PATH,
    multiple=True,
    callback=_only_one,
    required=True,
    metavar="PATH",
    help="The sharp image of the same ground, in any CRS, extent and pixel grid. A file, or a folder of tiles of it.",
)
@option(_PAIR, "-o", "--output", type=PATH, required=True, metavar="FILE", help="The GeoTIFF to write.")
@pair_options
@recipe_options
@device_option
@option(
    _RUN,
    "--workers",
    type=int,
    metavar="N",
    help="Tiles in progress at once; does not change the output.  [default: one for each processor; 1 on a GPU]",
)
@scheduler_options
@batch_option
@tile_error_option
@option(_RUN, "--overwrite", is_flag=True, help="Replace an output that exists; the old one stays until then.")
@option(_RUN, "--dry-run", is_flag=True, help="Check everything, say what would be done, and write nothing.")
@option(
    _RUN,
    "--report",
    type=PATH,
    multiple=True,
    callback=_only_one,
    metavar="FILE",
    help="A report to write: settings, versions, times, what became of the tiles, also where some fail. As JSON, or "
    "with a name that ends in .html as a page to look at, with pictures and profiles.",
)
@uncertainty_option("FILE")
@option(
    _RUN,
    "--guide-influence",
    type=PATH,
    metavar="FILE",
    help="A GeoTIFF to write as well: what the guide changed against the interpolated source.",
)
@style_option
@option(_RUN, "--log-json", is_flag=True, help="Print one JSON object per event on stderr, for programs.")
@option(_RUN, "-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@option(_RUN, "-v", "--verbose", is_flag=True, help="Print the grids, all settings and the stages as well.")
def command(
    source: Path,
    guide: Path,
    output: Path,
    device: str,
    workers: int | None,
    scheduler: str,
    gpus: str | None,
    batch: int | None,
    tile_timeout: float | None,
    on_tile_error: str,
    overwrite: bool,
    dry_run: bool,
    report: Path | None,
    uncertainty: Path | None,
    guide_influence: Path | None,
    style: bool,
    log_json: bool,
    quiet: bool,
    verbose: bool,
    **values: Any,
) -> int:
    """Make a coarse raster sharper, with a sharp image of the same ground as a guide.

    The output is a Cloud-Optimized GeoTIFF in the source's CRS, with the source's corner and values, and
    pixels --scale times smaller: averaged over each source pixel, it gives the source again. It appears
    under its name only when it is complete.

    \b
      geosr upscale --source dsm.tif --guide ortho.tif --scale 4 -o dsm_x4.tif

    `geosr info dsm.tif ortho.tif --time` tells beforehand whether the two fit and how long it takes;
    --bounds tries a part.
    """  # noqa: D301
    from geosr.inspection import inspect, rows
    from geosr.multiband import inspect_bands, upscale_bands
    from geosr.outputs import check_outputs
    from geosr.pipeline import upscale_file

    if quiet + verbose + log_json > 1:
        raise UsageError("--quiet, --verbose and --log-json contradict each other; give one of them")
    with JsonLog() if log_json else Screen(quiet=quiet, verbose=verbose) as screen:
        inputs = inputs_from(source, guide, values)
        recipe = recipe_from(values)
        execution = Execution(
            device,
            workers,
            scheduler,
            overwrite,
            on_tile_error,
            report,
            influence=guide_influence,
            uncertainty=uncertainty,
            on_event=screen.show,
            tile_timeout=tile_timeout,
            gpus=gpus,
            style=style,
            batch=batch,
        )
        check_outputs(output, [source, guide], execution)
        if dry_run:
            look = inspect_bands if inputs.band == ALL else inspect
            click.echo("\n".join(table_lines(rows(look(inputs, recipe, execution), settings=True))))
            return 0
        if inputs.band == ALL:
            made = upscale_bands(inputs, recipe, execution, output)
            screen.finish_bands(made)
            return TileError.exit_code if made.interpolated else 0
        done = upscale_file(inputs, recipe, execution, output)
        screen.finish(done)
    return TileError.exit_code if done.interpolated else 0

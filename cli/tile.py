"""`geosr tile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geosr.tiling import SIDE

from .options import PATH, Command, inputs_from, option, pair_options
from .render import count, one_line, say


@click.command(cls=Command)
@click.argument("source", type=PATH)
@click.argument("guide", type=PATH)
@option("What the job is", "-o", "--output", type=PATH, required=True, metavar="FOLDER", help="The folder to make.")
@pair_options
@option(
    "How the result is made",
    "--tile",
    type=int,
    default=SIDE,
    show_default=True,
    metavar="PIXELS",
    help="Tiles of at most this many output pixels a side.",
)
def command(source: Path, guide: Path, output: Path, tile: int, **values: Any) -> None:
    """Cut SOURCE and GUIDE into aligned pairs of tiles, for looking at, labelling or training.

    The folder gets `source/` and `guide/` with GeoTIFFs of the same names, and an index of them as CSV and
    GeoJSON. Tiles without any valid source pixel are left out.

    \b
      geosr tile dsm.tif ortho.tif --scale 4 -o pairs
    """  # noqa: D301
    from geosr.pairs_folder import write_pairs

    inputs = inputs_from(source, guide, values)
    pairs = write_pairs(inputs, output, tile=tile, tell=lambda text: say(f"note: {text}"))
    click.echo(f"wrote {count(pairs, 'pair')} to {one_line(output)}")

"""`geosr tile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geosr_cli.options import PATH, inputs_from, pair_options


@click.command()
@click.argument("source", type=PATH)
@click.argument("guide", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder to make.")
@pair_options
@click.option("--tile", type=int, default=320, show_default=True, help="Side of a tile in high pixels.")
def command(source: Path, guide: Path, output: Path, tile: int, **values: Any) -> None:
    """Cut SOURCE and GUIDE into aligned pairs of tiles, with an index as CSV and GeoJSON."""
    from geosr.pairs_folder import write_pairs

    count = write_pairs(inputs_from(source, guide, values), output, tile=tile)
    click.echo(f"wrote {count} pair(s) to {output}")

"""`geosr compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geosr.options import Execution
from geosr.tables import check_files, write_files

from .options import (
    PATH,
    Command,
    device_option,
    inputs_from,
    method_list,
    option,
    pair_options,
    read_methods,
    table_options,
)
from .render import clock, say, tell


@click.command(cls=Command)
@click.argument("source", type=PATH)
@click.argument("guide", type=PATH)
@pair_options
@option(
    "What the job is",
    "--truth",
    type=PATH,
    metavar="FILE",
    help="What is to be found, on any grid.  [default: the source itself, with the pair pooled by --scale]",
)
@method_list("bicubic,diffusion,mmsr")
@option("How the result is made", "--seed", type=int, default=0, show_default=True, metavar="N", help="Of the fits.")
@device_option
@table_options
@option(
    "What is written",
    "-o",
    "--output",
    type=PATH,
    metavar="FOLDER",
    help="A new folder for all of it and a picture: guide, source, truth, results and error maps.",
)
def command(
    source: Path,
    guide: Path,
    truth: Path | None,
    methods: str,
    seed: int,
    device: str,
    json: Path | None,
    csv: Path | None,
    markdown: Path | None,
    output: Path | None,
    **values: Any,
) -> None:
    """Run methods side by side on a pair: their errors, seconds and peak memory.

    They work on one part of at most 320 x 320 output pixels in the middle of the scene, or of --bounds, each in a
    process of its own. Without --truth they work one scale lower, where the source is the truth.

    \b
      geosr compare dsm.tif ortho.tif --truth lidar.tif --methods diffusion,mmsr,mmsr:paper-dem -o side_by_side
    """  # noqa: D301
    from geosr.comparison import Entry, compare, write_folder
    from geosr.figures import check_drawing
    from geosr.files import check_new

    files = {"json": json, "csv": csv, "markdown": markdown}
    check_files(files)
    if output is not None:
        check_new(output)
        check_drawing()

    def tell_entry(entry: Entry) -> None:
        say(f"{entry.label}: {entry.failure or f'done in {clock(entry.seconds or 0)}'}")

    inputs, chosen = inputs_from(source, guide, values), read_methods(methods)
    found = compare(inputs, chosen, Execution(device), truth=truth, seed=seed, on_entry=tell_entry)

    def write() -> None:
        write_files(files, found.table, found.content())
        if output is not None:
            write_folder(found, output)

    tell(found.table.lines(), found.notes, write)

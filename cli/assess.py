"""`geosr assess`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geosr import methods
from geosr.assess import Assessment, Score
from geosr.options import Execution, Recipe
from geosr.tables import check_files, write_files

from .options import PATH, Command, device_option, inputs_from, option, pair_options, table_options
from .render import clock, printable, table_lines, tell


@click.command(cls=Command)
@click.argument("source", type=PATH)
@click.argument("guide", type=PATH)
@pair_options
@option(
    "How the result is made",
    "--method",
    "names",
    multiple=True,
    metavar="NAME",
    help="A method to try, may be given more than once.  [default: those that auto chooses among]",
)
@option("How the result is made", "--seed", type=int, default=0, show_default=True, metavar="N", help="Of the fits.")
@device_option
@table_options
def command(
    source: Path,
    guide: Path,
    names: tuple[str, ...],
    seed: int,
    device: str,
    json: Path | None,
    csv: Path | None,
    markdown: Path | None,
    **values: Any,
) -> None:
    """Tell what methods can be expected to do on a pair, before any long work and without a truth.

    SOURCE and GUIDE are pooled by --scale, or by 4 or 2 where that would leave too little, on two tiles of the pair;
    each method upscales the pooled source, and the source itself is the truth. Gains one scale lower are mostly larger
    than at full size; the order is what counts.

    \b
      geosr assess dsm.tif ortho.tif --scale 4
    """  # noqa: D301
    from geosr.assess import assess_file

    files = {"json": json, "csv": csv, "markdown": markdown}
    check_files(files)
    inputs = inputs_from(source, guide, values)
    found = assess_file(inputs, Recipe(seed=seed), Execution(device), names or methods.candidates())
    notes = [*found.notes]
    if found.step and found.step < inputs.scale:
        notes.append(f"tried at scale {found.step}: pooled by {inputs.scale} too little of the source would be left")
    lines = (*table_lines(_rows(found)), found.verdict)
    tell(lines, notes, lambda: write_files(files, found.table, found.content()))


def _rows(found: Assessment) -> list[tuple[str, str]]:
    unit = f" {printable(found.units)}" if found.units else ""
    return [
        (score.method, f"RMSE {score.rmse:.4g}{unit}{_against(found, score)}, {clock(score.seconds)}")
        for score in found.scores
    ]


def _against(found: Assessment, score: Score) -> str:
    """By how much the error is smaller or larger than bicubic's, whose own row stands first and says nothing."""
    if score is found.scores[0]:
        return ""
    gain = found.gain(score)
    return f", {abs(gain):.0%} {'smaller' if gain >= 0 else 'larger'} than bicubic's"

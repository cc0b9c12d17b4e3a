"""`geosr evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geosr.bands import ALL
from geosr.errors import UsageError
from geosr.options import Execution
from geosr.tables import Cell, Table, check_files, write_files

from .options import (
    PATH,
    Command,
    device_option,
    method_list,
    option,
    read_methods,
    refuse_given,
    scale_option,
    table_options,
)
from .render import say, tell

if TYPE_CHECKING:
    from geosr.evaluation import Evaluation

_FILES = "What is compared"
_HOW = "How it is measured"

_OF_FILES = ("source", "guide", "band", "assume_crs", "elevation", "step")
_OF_PROTOCOLS = ("scale", "methods", "device")

_ROWS = {
    "pixels": "compared: valid in both",
    "rmse": "RMSE, {unit}",
    "mae": "mean absolute error, {unit}",
    "bias": "mean of prediction - truth, {unit}",
    "nmad": "1.4826 x median deviation from the median error, {unit}",
    "le90": "90 % of the errors are no larger, {unit}",
    "psnr": "dB, over the truth's range",
    "ssim": "structural similarity, 1 = the same",
    "step": "what counts as an edge: neighbours in the truth further apart, {unit}",
    "edge_share": "of the pixels lie within 2 pixels of an edge",
    "edge_rmse": "RMSE there, {unit}",
    "flat_rmse": "RMSE elsewhere, {unit}",
    "slope_rmse": "RMSE of the slope, degrees",
    "aspect_rmse": "RMSE of the aspect where it is steeper than 5 degrees, degrees",
    "guide_copied": "correlation of the errors' detail with the guide's, away from edges; 0 = nothing printed in",
    "consistency_rms": "RMS of (prediction over each source pixel - that pixel), {unit}",
    "consistency_max": "the largest of them, {unit}",
}


@click.command(cls=Command)
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PRED TRUTH | ROOT")
@option(_FILES, "--source", type=PATH, metavar="PATH", help="What the prediction was made from: source consistency.")
@option(_FILES, "--guide", type=PATH, metavar="PATH", help="What it was made with: is its texture in the errors?")
@option(
    _FILES, "--band", metavar="N", help="Of rasters that have several: which, from 1, or as 8.2um; all: a row each."
)
@option(_FILES, "--assume-crs", metavar="CRS", help="The coordinate system of rasters that name none.")
@option(
    _FILES,
    "--protocol",
    type=click.Choice(["middlebury", "dfc2019"]),
    help="Rerun a paper's table on the data set in ROOT: pool the truth by --scale, run --methods, print the "
    "published numbers beside the errors.",
)
@scale_option
@method_list("bicubic,diffusion,mmsr")
@option(
    _HOW,
    "--elevation",
    is_flag=True,
    help="The values are heights, in metres unless the file names a unit: errors of slope and aspect, too.",
)
@option(
    _HOW,
    "--step",
    type=float,
    metavar="HEIGHT",
    help="Difference between neighbours of the truth that makes an edge.  [default: twice the RMS of all differences]",
)
@device_option
@table_options
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[Path, ...],
    protocol: str | None,
    scale: float,
    methods: str,
    device: str,
    json: Path | None,
    csv: Path | None,
    markdown: Path | None,
    source: Path | None,
    guide: Path | None,
    band: str | None,
    assume_crs: str | None,
    elevation: bool,
    step: float | None,
) -> None:
    """Measure PRED against TRUTH, over the pixels that are valid in both.

    The two may lie on any grids: the one with the larger pixels sets the grid, and a note says what was done with
    the other. With --protocol, ROOT is a data set, which geosr super-resolves itself.

    \b
      geosr evaluate dsm_x4.tif lidar.tif --source dsm.tif --guide ortho.tif --elevation
      geosr evaluate --protocol middlebury samples/ --scale 4 --methods bicubic,diffusion
    """  # noqa: D301
    files = {"json": json, "csv": csv, "markdown": markdown}
    check_files(files)
    useless, way = (_OF_FILES, "with") if protocol else (_OF_PROTOCOLS, "without")
    refuse_given(context, useless, f"{way} --protocol; leave it out")
    if len(paths) != (1 if protocol else 2):
        wanted = "one ROOT with --protocol" if protocol else "PRED and TRUTH"
        raise UsageError(f"evaluate wants {wanted}; the paths given are {len(paths)}")
    if protocol:
        _rerun(protocol, paths[0], scale, methods, device, files)
        return
    from geosr.evaluation import evaluate, evaluate_bands

    how: dict[str, Any] = {
        "source": source,
        "guide": guide,
        "elevation": elevation,
        "step": step,
        "assume_crs": assume_crs,
    }
    if band == ALL:
        bands = evaluate_bands(*paths, **how)
        content: dict[str, object] = {"bands": [{"band": band, **_content(found)} for band, found in bands.items()]}
        table, notes = _table_of_bands(bands), [note for found in bands.values() for note in found.notes]
    else:
        found = evaluate(*paths, band=band, **how)
        content, table, notes = _content(found), _table(found), [*found.notes]
    names = dict(zip(("prediction", "truth"), map(str, paths), strict=True))
    tell(table.lines(), dict.fromkeys(notes), lambda: write_files(files, table.of(**names), {**names, **content}))


def _content(found: Evaluation) -> dict[str, object]:
    return {"units": found.units, "notes": found.notes, **asdict(found.scores)}


def _table(found: Evaluation) -> Table:
    scores: dict[str, Cell] = asdict(found.scores)
    unit = found.units or "in the truth's units"
    rows = ((name, scores[name], text.format(unit=unit)) for name, text in _ROWS.items() if scores[name] is not None)
    return Table(("metric", "value", "what"), tuple(rows))


def _table_of_bands(bands: dict[int, Evaluation]) -> Table:
    """A row for each, without the metrics that none of them has."""
    scores = {band: asdict(found.scores) for band, found in bands.items()}
    names = [name for name in _ROWS if any(each[name] is not None for each in scores.values())]
    return Table(("band", *names), tuple((band, *(each[name] for name in names)) for band, each in scores.items()))


def _rerun(protocol: str, root: Path, scale: float, methods: str, device: str, files: dict[str, Path | None]) -> None:
    from geosr.device import pick_device
    from geosr.grid import check_scale
    from geosr.protocols import rerun

    done = rerun(
        protocol,
        root,
        check_scale(scale),
        read_methods(methods),
        device=pick_device(Execution(device).device),
        on_pair=lambda name, line: say(f"{name}: {line}"),
    )
    tell(done.table.lines(), done.notes, lambda: write_files(files, done.table, done.content()))

"""`geosr batch`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geosr.errors import TileError, UsageError
from geosr.events import Note
from geosr.options import Execution, Inputs
from geosr.stac import GUIDE_KEYS, SOURCE_KEYS
from geosr.tables import SUFFIXES, Table, check_files, write_files

from .options import (
    PATH,
    Command,
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
from .render import clock, count, say, tell

if TYPE_CHECKING:
    from geosr.batch import Outcome, Summary
    from geosr.pair_lists import PairList

_PAIRS = "Which pairs"
_RUN = "How it runs"


@click.command(cls=Command)
@option(
    _PAIRS,
    "--source",
    type=os.path.expanduser,
    metavar="PATTERN",
    help="The coarse rasters, with one * in it: 'dsm/*_DSM.tif'.",
)
@option(
    _PAIRS,
    "--guide",
    type=os.path.expanduser,
    metavar="PATTERN",
    help="Their images; {stem} is what the * matched: 'rgb/{stem}_RGB.tif'.",
)
@option(
    _PAIRS,
    "--truth",
    type=os.path.expanduser,
    metavar="PATTERN",
    help="In place of --source: images as sharp as the guides, pixel on pixel, with one *; sources are made "
    "from them, means over --scale x --scale pixels.",
)
@option(
    _PAIRS,
    "--manifest",
    type=PATH,
    metavar="FILE",
    help="In place of patterns: a CSV file with the columns source, guide and, if it names outputs, output; or a STAC "
    "Item or ItemCollection (.json) with local assets. Relative paths start at its folder.",
)
@option(_PAIRS, "--source-asset", metavar="KEY", help=f"Of STAC items.  [default: {' or '.join(SOURCE_KEYS)}]")
@option(_PAIRS, "--guide-asset", metavar="KEY", help=f"Of STAC items.  [default: {' or '.join(GUIDE_KEYS)}]")
@option(
    _PAIRS,
    "--dataset",
    type=(str, PATH),
    metavar="NAME ROOT",
    help="In place of patterns: a paper's data set: middlebury, dfc2019, dfc2019-msi, dfc2019-track3 and epfl (sources "
    "are made from the truth), dfc2014.",
)
@option(
    _PAIRS,
    "-o",
    "--output",
    type=os.path.expanduser,
    metavar="TEMPLATE",
    help="Names of the outputs, with {stem} and, if wanted, {scale}: 'out/{stem}_x{scale}.tif'. Folders are made.",
)
@pair_options
@recipe_options
@device_option
@option(
    _RUN,
    "--workers",
    type=int,
    metavar="N",
    help="Pairs in progress at once, and tiles of all of them together. Does not change the outputs.  "
    "[default: one for each processor; 1 on a GPU; as many as an existing cluster has]",
)
@scheduler_options
@tile_error_option
@option(
    _RUN, "--overwrite", is_flag=True, help="Make outputs again that exist already; without it their pairs are skipped."
)
@uncertainty_option("TEMPLATE")
@style_option
@option(_RUN, "--dry-run", is_flag=True, help="List the pairs and what does not match, and write nothing.")
@option(
    _RUN,
    "--summary",
    type=PATH,
    metavar="FILE",
    help="Write what became of every pair, as .csv, .md or .json (which has notes and files as well).",
)
@option(_RUN, "-q", "--quiet", is_flag=True, help="Print nothing but errors and, on stdout, the table.")
def command(
    source: str | None,
    guide: str | None,
    truth: str | None,
    manifest: Path | None,
    source_asset: str | None,
    guide_asset: str | None,
    dataset: tuple[str, Path] | None,
    output: str | None,
    device: str,
    workers: int | None,
    scheduler: str,
    gpus: str | None,
    tile_timeout: float | None,
    on_tile_error: str,
    overwrite: bool,
    uncertainty: Path | None,
    style: bool,
    dry_run: bool,
    summary: Path | None,
    quiet: bool,
    **values: Any,
) -> int:
    """Upscale many pairs in one run, as `geosr upscale` does one.

    A pair that fails does not stop the others; the same command again skips what is there and goes on. The exit code is
    5 if any pair has no output.

    \b
      geosr batch --source 'dsm/*_DSM.tif' --guide 'rgb/{stem}_RGB.tif' -o 'out/{stem}_x{scale}.tif' --dry-run
      geosr batch --manifest pairs.csv -o 'out/{stem}.tif' --summary batch.csv
      geosr batch --dataset middlebury samples/ --scale 4 -o 'out/{stem}_x{scale}.tif'
    """  # noqa: D301
    from geosr.batch import plan_batch, run_batch
    from geosr.pair_lists import with_uncertainty

    files = _summary_file(summary)
    if summary is not None and manifest is not None and os.path.realpath(summary) == os.path.realpath(manifest):
        raise UsageError(f"--summary {summary} is the list of the pairs; give it another name")
    inputs = inputs_from(Path(), Path(), values)
    recipe = recipe_from(values)
    execution = Execution(
        device,
        workers,
        scheduler,
        overwrite,
        on_tile_error,
        tile_timeout=tile_timeout,
        gpus=gpus,
        style=style,
        on_event=lambda event: say(f"note: {event.text}") if isinstance(event, Note) and not quiet else None,
    )
    found = _find(source, guide, truth, manifest, (source_asset, guide_asset), dataset, output, inputs)
    if uncertainty is not None:
        found = with_uncertainty(found, str(uncertainty), inputs.scale)
    if dry_run:
        planned = plan_batch(found, inputs, recipe, execution)
        _show(planned.listing, planned, files)
        return TileError.exit_code if planned.counts["failed"] else 0
    counter = _Counter(len(found.jobs), quiet)
    done = run_batch(found, inputs, recipe, execution, counter.show)
    if not quiet:
        _print_notes(done)
    _show(done.table, done, files)
    return done.exit_code


def _find(
    source: str | None,
    guide: str | None,
    truth: str | None,
    manifest: Path | None,
    assets: tuple[str | None, str | None],
    dataset: tuple[str, Path] | None,
    output: str | None,
    inputs: Inputs,
) -> PairList:
    from geosr.pair_lists import (
        NAMES,
        check_template,
        pairs_by_manifest,
        pairs_by_pattern,
        pairs_by_stac,
        pairs_of_dataset,
    )

    patterns, scale = not (source is guide is truth is None), inputs.scale
    if patterns + (manifest is not None) + (dataset is not None) != 1:
        raise UsageError("give exactly one of --source and --guide patterns, --manifest, and --dataset")
    stac = manifest is not None and manifest.suffix.lower() in (".json", ".geojson")
    if any(assets) and not stac:
        raise UsageError("--source-asset and --guide-asset are for STAC items: --manifest FILE.json")
    if manifest is not None and stac:
        return pairs_by_stac(manifest, check_template(output), scale, *assets)
    if manifest is not None:
        return pairs_by_manifest(manifest, output, scale)
    if dataset is not None:
        name, root = dataset
        if name not in NAMES:
            raise UsageError(f"--dataset {name} is not known; there are: {', '.join(NAMES)}")
        return pairs_of_dataset(name, root, check_template(output), scale)
    first = source or truth
    if first is None or guide is None or (source and truth):
        raise UsageError("--source (or --truth) and --guide belong together")
    return pairs_by_pattern(first, guide, check_template(output), scale, truth=truth is not None, band=inputs.band)


def _summary_file(summary: Path | None) -> dict[str, Path | None]:
    """The file by its kind, as `write_files` wants it."""
    if summary is None:
        return {}
    kinds = {suffix: kind for kind, suffix in SUFFIXES.items()}
    if summary.suffix.lower() not in kinds:
        raise UsageError(f"--summary {summary}: give a name that ends in {', '.join(kinds)}")
    files: dict[str, Path | None] = {kinds[summary.suffix.lower()]: summary}
    check_files(files)
    return files


class _Counter:
    """A line for each pair as it ends."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._ended, self._total, self._quiet = 0, total, quiet

    def show(self, found: Outcome) -> None:
        """One pair."""
        if found.output is None:  # no pair
            where = ""
        else:
            self._ended += 1
            where = f"{self._ended} of {self._total}: "
        took = "" if found.seconds is None else f" in {clock(found.seconds)}"
        error = "" if found.expected is None else f", expected error: RMS {found.expected:.3g}"
        why = f": {found.why}" if found.why else ""
        if not self._quiet or not found.complete:
            say(f"{where}{found.name} {found.status}{took}{error}{why}")


def _print_notes(done: Summary) -> None:
    """Each note once, with the number of pairs it was made on."""
    for text, pairs in Counter(text for found in done.outcomes for text in found.notes).items():
        say(f"note ({count(pairs, 'pair')}): {text}")


def _show(table: Table, done: Summary, files: Mapping[str, Path | None]) -> None:
    """The table on stdout, and in its files: one that cannot be written, or has no reader, is no loss of the other."""
    counts = ", ".join(f"{number} {status}" for status, number in done.counts.items() if number)
    tell((*table.lines(), "", counts), (), lambda: write_files(files, done.listing, done.content()))

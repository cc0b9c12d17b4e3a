"""What a run has to say of the pair, the work and the result: sentences, in the order in which it comes to them."""

from __future__ import annotations

from collections.abc import Iterator

from geosr.consistency import EXACT
from geosr.findings import Written
from geosr.options import Execution
from geosr.pair import Stats
from geosr.placement import Placement
from geosr.plan import Plan, notes_on
from geosr.report import Report
from geosr.run_folder import RunFolder

_ROUNDED = 1e-3  # of the source's spread, from which on a deviation is told


def notes_on_plan(plan: Plan, placement: Placement, execution: Execution) -> Iterator[str]:
    """What may be wrong with the pair, and what makes this installation slower than it could be."""
    from geosr.device import idle_gpu

    yield from notes_on(plan)
    if slowness := plan.method.slowness(placement.device):
        yield slowness
    if plan.method.needs_fit and execution.device == "auto" and (text := idle_gpu()):
        yield text


def notes_on_earlier_run(folder: RunFolder) -> Iterator[str]:
    """What became of unfinished work, if it was of another job."""
    if folder.changes:
        changes = ", ".join(folder.changes)
        yield f"an earlier run for this output is not continued but started afresh: {changes}"


def notes_on_statistics(plan: Plan, stats: Stats) -> Iterator[str]:
    """What is done about a noisy guide."""
    if plan.method.statistics == "scene" and any(stats.guide_noise):
        share = max(stats.guide_noise)
        yield f"the guide is noisy (up to {share:.0%} of its spread): it is smoothed first"


def notes_on_tiles(plan: Plan, placement: Placement, report: Report) -> Iterator[str]:
    """Where the tiles are not what the method makes of source and guide."""
    if spiky := [result for result in report.results if result.spikes]:
        first = spiky[0].tile.name(plan.scene.grids.scale)
        yield (
            f"source pixels that stand alone far from all others: {sum(result.spikes for result in spiky)}, the first "
            f"in {first}; the output keeps their values, and no other pixel depends on them (--min and --max replace "
            "them, --source-nodata removes those of one value)"
        )
    if smaller := sum(result.batch is not None for result in report.results):
        yield (
            f"memory did not suffice for {placement.batch} tiles at once: {smaller} were fitted in smaller "
            "batches, and another run may differ by rounding"
        )
    if plan.reads_guide and report.guided < 1 and not report.failed:
        yield f"no guide on {1 - report.guided:.1%} of the area: the source is interpolated there"


def notes_on_output(plan: Plan, stats: Stats, written: Written) -> Iterator[str]:
    """Where the file is not what the tiles are, and values that nobody wants."""
    if written.beyond:
        yield (
            f"{written.beyond} source pixels lie beyond --min or --max and were set to the limit: the output "
            "deviates from the source there, and the expected error does not include it"
        )
    if written.cut:
        yield (
            f"{written.cut} output pixels lie beyond what {plan.recipe.dtype} holds and were cut off, which moves "
            "means over source pixels: use another --dtype, or --min and --max"
        )
    if written.moved:
        yield (
            f"{written.moved} output pixels fell on the nodata value and were moved by one, so as to stay valid: "
            "use another --dtype"
        )
    rounded = plan.recipe.dtype == "float32" and plan.consistency == EXACT and not written.beyond
    if rounded and written.deviation.largest > _ROUNDED * stats.source_spread:
        yield (
            f"float32 rounds values as large as these: means over source pixels deviate from the source by up to "
            f"{written.deviation.largest:.3g}; use --dtype float64"
        )
    yield from _notes_on_range(plan, stats, written)


def _notes_on_range(plan: Plan, stats: Stats, written: Written) -> Iterator[str]:
    """Of values that nobody wants where 0 is the ground: below it, by more than rounding."""
    source, output = written.lowest
    if source == 0 and plan.recipe.minimum is None and output < -1e-4 * stats.source_spread:
        yield f"the output goes down to {output:.3g} where the source is never below 0: --min 0 keeps it there"

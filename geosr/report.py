"""What a run did: as a value, and as the file that the user asked for, JSON or a page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from geosr.describe import describe_source
from geosr.errors import InputError, TileError, UsageError
from geosr.files import check_place, write_whole
from geosr.findings import Written
from geosr.options import Execution
from geosr.placement import Placement
from geosr.plan import Plan
from geosr.provenance import versions
from geosr.raster_guard import show
from geosr.tables import as_json
from geosr.tile_store import TileResult

_NAMED = 20  # failed tiles that an error names; each was told of when it failed


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        output: the file to be written.
        results: of every tile.
        resumed: how many of them an earlier run had done.
        seconds: by stage.
        written: consistency and seams, as measured on the output; None where none was written.
        notes: what the run had to say of the pair, the work and the result.
    """

    output: Path
    results: list[TileResult]
    resumed: int
    seconds: Mapping[str, float]
    written: Written | None = None
    notes: Sequence[str] = ()

    @property
    def tiles(self) -> int:
        """How many tiles the scene was cut into."""
        return len(self.results)

    @property
    def skipped(self) -> int:
        """Tiles without any valid source pixel."""
        return sum(result.skipped for result in self.results)

    @property
    def failed(self) -> list[TileResult]:
        """Tiles without an answer: there is no output then."""
        return [result for result in self.results if result.failed]

    @property
    def interpolated(self) -> list[TileResult]:
        """Tiles that failed and hold the interpolated source."""
        return [result for result in self.results if result.interpolated]

    @property
    def guided(self) -> float:
        """Share of the valid area on which the guide had a say, 0 to 1."""
        return sum(result.guided * result.valid for result in self.results) / max(self._valid, 1)

    @property
    def expected(self) -> float:
        """Root mean square error to be expected over the valid pixels, in the source's units."""
        return float(np.sqrt(sum(result.expected * result.valid for result in self.results) / max(self._valid, 1)))

    @property
    def _valid(self) -> int:
        return sum(result.valid for result in self.results)

    def failure(self, scale: int) -> TileError:
        """What ends a run of which tiles failed."""
        failed = self.failed
        lines = [f"{result.tile.name(scale)}: {result.failure}" for result in failed[:_NAMED]]
        more = [f"and {len(failed) - _NAMED} more"] if len(failed) > _NAMED else []
        summary = f"{len(failed)} of {self.tiles} tiles failed; nothing was written"
        return TileError("\n".join([summary, *lines, *more]))


def check_report(path: Path, others: Sequence[Path]) -> None:
    """See before any work that the report can be written; one that is there will be replaced.

    Raises:
        UsageError: the name does not end in .json or .html, or is one of `others`.
        OutputError: as `check_place`.
    """
    if path.suffix.lower() not in (".json", ".html"):
        raise UsageError(f"{show(path)}: a report is JSON or a page; give a name that ends in .json or .html")
    if check_place(path) in [Path(os.path.realpath(other)) for other in others]:
        raise UsageError(f"the report {show(path)} is an input or the output; give it another name")


def write_report(
    report: Report, plan: Plan, placement: Placement, execution: Execution, depends_on: Mapping[str, object]
) -> None:
    """Write the run's report if one is asked for, whole or not at all.

    Args:
        report: what the run did.
        plan: of the run.
        placement: of the run.
        execution: says where the report lies.
        depends_on: the run's fingerprint.

    Raises:
        OutputError: there is no space left, or no permission.
    """
    if execution.report is None:
        return
    content = _content(report, plan, placement, execution, depends_on)
    if execution.report.suffix.lower() == ".json":
        data = as_json(content).encode(errors="replace")
    else:
        data = _page(plan, report, content, execution.uncertainty)
    write_whole(execution.report, data)


def _content(
    report: Report, plan: Plan, placement: Placement, execution: Execution, depends_on: Mapping[str, object]
) -> dict[str, object]:
    """What is said, by name."""
    found, inputs, software = report.written, ("source", "guide"), versions()
    return {
        "inputs": {name: depends_on[name] for name in inputs},
        "settings": {name: _set(value) for name, value in depends_on.items() if name not in (*software, *inputs)},
        "versions": software,
        "tiles": _tiles(report, plan.scene.grids.scale),
        "batches": _batches(report.results, plan.scene.grids.scale, placement.batch),
        "output": str(report.output) if found else None,
        "notes": [*report.notes],
        "exit_code": TileError.exit_code if report.failed or report.interpolated else 0,
        "scheduler": execution.scheduler,
        "workers": placement.workers,
        "seconds": {name: round(seconds, 3) for name, seconds in report.seconds.items()},
        "guided_percent": round(100 * report.guided, 2),
        "units": plan.scene.source.units,
        "expected_error": float(f"{report.expected:.4g}"),
        "deviation": asdict(found.deviation) if found else None,
        "seam_ratio": found.seam_ratio if found else None,
        "coregistration": plan.scene.shift.content() if plan.scene.shift else None,
    }


def _set(value: object) -> object:
    """A setting that is infinite or NaN is text: null, as JSON has such numbers, would say that it is not set."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _tiles(report: Report, scale: int) -> dict[str, object]:
    """How many there are of each kind, and those that failed."""
    return {
        "total": report.tiles,
        "done": sum(result.failure is None for result in report.results),
        "resumed": report.resumed,
        "skipped": report.skipped,
        "failed": [_failure(result, scale) for result in report.failed],
        "interpolated": [_failure(result, scale) for result in report.interpolated],
    }


def _batches(results: Sequence[TileResult], scale: int, planned: int) -> dict[str, object]:
    """How many tiles were fitted together, and which with fewer others for want of memory."""
    smaller = [_place(result, scale) | {"batch": result.batch} for result in results if result.batch]
    passing = any(result.failure and result.retry for result in results)  # another run may have memory for them
    return {"planned": planned, "smaller": smaller, "same_bytes_again": not (smaller or passing)}


def _failure(result: TileResult, scale: int) -> dict[str, object]:
    return _place(result, scale) | {"reason": result.failure}


def _place(result: TileResult, scale: int) -> dict[str, object]:
    window = result.tile.window.times(scale)
    return {"index": result.tile.index, "row": window.row, "column": window.col}


def _page(plan: Plan, report: Report, content: dict[str, object], uncertainty: Path | None) -> bytes:
    """The report as a page, with pictures of what was read and written."""
    from geosr.report_page import make_page
    from geosr.views import Look, Subject, look

    scene, found = plan.scene, report.written
    seen: Look | str
    try:
        result = describe_source(report.output) if found else None
        doubt = describe_source(uncertainty) if found and uncertainty else None
        seen = look(Subject(scene.source, scene.guide, result, scene.grids, scene.origin, scene.seen, doubt))
    except InputError as error:  # of a block that cannot be read, which made tiles fail
        seen = str(error)
    names = {"source": scene.source.path.name, "guide": scene.guide.path.name}
    fallen = [each.tile.core.times(scene.grids.scale) for each in report.results if each.failure]
    return make_page(content, names, seen, found.deviations if found else None, fallen)

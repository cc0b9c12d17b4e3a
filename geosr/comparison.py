"""Methods side by side on one pair: errors, seconds and peak memory, each method in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geosr import methods
from geosr.assess import WITHOUT_GUIDE, steps_down
from geosr.consistency import Consistency, spread
from geosr.describe import describe_source
from geosr.errors import InputError, TileError
from geosr.evaluation import convert, place_on, read_onto
from geosr.figures import check_drawing, draw_comparison
from geosr.files import check_new
from geosr.grid import Window
from geosr.metrics import Mask, Scores, score_arrays
from geosr.options import Execution, Inputs
from geosr.pair import Pair, Stats
from geosr.placement import place
from geosr.raster_guard import show
from geosr.scene import Scene, find_valid, open_scene, suspicions
from geosr.scratch import new_folder
from geosr.tables import Table, as_json
from geosr.tiling import SIDE, cut, middle
from geosr.trials import Array, Trial, attempt_alone

if TYPE_CHECKING:
    from geosr.methods.base import Method, Patch

_METRICS = ("rmse", "mae", "bias", "nmad", "le90", "psnr", "ssim", "edge_rmse", "flat_rmse")


@dataclass(frozen=True)
class Entry:
    """One method's row.

    Attributes:
        label: as the user named it.
        values: (rows, columns) in the source's units; None where it failed.
        scores: against the truth; None where it failed.
        seconds: of fit and prediction.
        memory: bytes at its process's peak; None where that cannot be told.
        failure: why it has no answer.
    """

    label: str
    values: Array | None = None
    scores: Scores | None = None
    seconds: float | None = None
    memory: int | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What was compared on what.

    Attributes:
        entries: one for each method, `WITHOUT_GUIDE` first.
        guide: (bands, rows, columns) float32.
        source: (h, w), NaN where invalid.
        truth: (rows, columns), NaN where unknown.
        units: of the source, None where its file says nothing.
        notes: which part, which truth.
    """

    entries: tuple[Entry, ...]
    guide: NDArray[np.float32]
    source: Array
    truth: Array
    units: str | None
    notes: tuple[str, ...]

    @property
    def table(self) -> Table:
        """A row for each method; failures in a column where there are any."""
        failed = any(entry.failure for entry in self.entries)
        rows = []
        for entry in self.entries:
            scores = asdict(entry.scores) if entry.scores else {}
            memory = None if entry.memory is None else round(entry.memory / 1e6)
            failure = (entry.failure,) if failed else ()
            rows.append((entry.label, *(scores.get(name) for name in _METRICS), entry.seconds, memory, *failure))
        return Table(("method", *_METRICS, "seconds", "MB", *(("failure",) if failed else ())), tuple(rows))

    def content(self) -> dict[str, object]:
        """For JSON: everything but the pixels."""
        rows = [
            {
                "method": entry.label,
                "scores": asdict(entry.scores) if entry.scores else None,
                "seconds": entry.seconds,
                "peak_memory_bytes": entry.memory,
                "failure": entry.failure,
            }
            for entry in self.entries
        ]
        return {"units": self.units, "notes": self.notes, "methods": rows}

    def picture(self) -> bytes:
        """Guide, source, truth, results and error maps as PNG."""
        results = {entry.label: entry.values for entry in self.entries if entry.values is not None}
        return draw_comparison(self.guide, self.source, self.truth, results, unit=self.units or "")


def compare(
    inputs: Inputs,
    chosen: Mapping[str, tuple[str, str]],
    execution: Execution,
    *,
    truth: Path | None = None,
    seed: int = 0,
    on_entry: Callable[[Entry], None] = lambda entry: None,
) -> Comparison:
    """Run methods on one part of a pair, of a tile's size: the middle of the scene or of `inputs.bounds`.

    Where the source has no valid pixel there, it is the tile nearest to the middle that has one.

    Without a truth they run one scale lower, where the source itself is the truth; see `assess`.

    Args:
        inputs: the pair.
        chosen: method, and preset or file of weights, by label; `WITHOUT_GUIDE` is put before them.
        execution: its device counts.
        truth: of the same ground and in the same units, on any grid; brought onto the output's.
        seed: of the fits.
        on_entry: told of each method as it is done.

    Raises:
        UsageError, InputError, UnavailableError: as for a run.
        InputError: no pixel has a truth, or too little of the source is left one scale lower.
    """
    scene = open_scene(inputs)
    shape = scene.grids.low.shape
    tiles = cut(shape, inputs.scale, size=SIDE, halo=0)
    tile, pair = find_valid(scene, [middle(shape, inputs.scale, size=SIDE), *tiles])
    placement = place(1, execution)
    stats = Stats.robust([pair])
    window = tile.window.times(inputs.scale)
    part = f"compared on {window.height} x {window.width} output pixels from row {window.row}, column {window.col}"
    kinds = {WITHOUT_GUIDE: (WITHOUT_GUIDE, "default"), **chosen}
    given = {label: _given(methods.create_as(*kind), pair, stats) for label, kind in kinds.items()}
    if truth is None:
        task = _one_step_down(given, pair, placement.device)
    else:
        task = _with_truth(given, pair, stats, scene, truth, window)
    run = partial(attempt_alone, seed=seed, device=placement.device, threads=placement.threads)
    entries = []
    for label, kind in kinds.items():
        entry = _try(label, partial(run, task.given[label].patch, *kind), task)
        on_entry(entry)
        entries.append(entry)
    shown = task.given[WITHOUT_GUIDE]
    source = np.where(shown.patch.source_valid, shown.stats.physical(shown.patch.source), np.nan)
    notes = (*scene.notes, *suspicions(scene, limited=True), f"{part}{task.lower}", *task.notes)
    return Comparison(tuple(entries), shown.patch.guide, source, task.truth, scene.source.units, notes)


@dataclass(frozen=True)
class _Given:
    """What a method gets of the pair, and the statistics that normalise it."""

    patch: Patch
    stats: Stats


@dataclass(frozen=True)
class _Task:
    """What the methods are tried on.

    Attributes:
        given: what each gets, by label.
        truth: (rows, columns) in the source's units, NaN where unknown.
        answered: where a run would answer.
        lower: what is to be said after the part, if it is one scale lower; else empty.
        notes: on the truth.
    """

    given: Mapping[str, _Given]
    truth: Array
    answered: Mask
    lower: str = ""
    notes: tuple[str, ...] = ()


def _one_step_down(given: Mapping[str, _Given], pair: Pair, device: str) -> _Task:
    """One scale lower, where the source itself is the truth."""
    lower = {label: _step_down(each, device) for label, each in given.items()}
    _, known = lower[WITHOUT_GUIDE]
    given = {label: each for label, (each, _) in lower.items()}
    truth = np.where(known, pair.source[: known.shape[0], : known.shape[1]], np.nan)
    said = f", one scale lower (x{given[WITHOUT_GUIDE].patch.scale}), where the source is the truth"
    return _Task(given, truth, np.ones(known.shape, dtype=bool), said)


def _with_truth(
    given: Mapping[str, _Given], pair: Pair, stats: Stats, scene: Scene, path: Path, window: Window
) -> _Task:
    """At the output's own scale, where a run would answer (its output is nodata elsewhere) by the method."""
    spikes = stats.spikes(pair)  # in a run's output they have their own values, whatever the method
    answered = spread(pair.source_valid & ~spikes, scene.grids.scale)
    truth, notes = _read_truth(scene, path, window, answered)
    if spikes.any():
        notes += (f"source pixels that stand alone far from all others, and are not scored: {spikes.sum()}",)
    return _Task(given, truth, answered, notes=notes)


def _given(method: Method, pair: Pair, scene: Stats) -> _Given:
    """As a run would give it: by the statistics and with the consistency that the method's preset asks for."""
    from geosr.methods.solve import prepare, stats_for

    stats = stats_for(method, pair, scene)
    return _Given(prepare(pair, stats, Consistency.parse(method.consistency)), stats)


def _step_down(given: _Given, device: str) -> tuple[_Given, Mask]:
    """The same one scale lower, and which source pixels are a truth there.

    Raises:
        InputError: too little is left.
    """
    steps = steps_down([given.patch], device)
    if not steps:
        raise InputError("cannot tell: fewer than 32 source pixels are left one scale lower; give a truth (--truth)")
    low, _, known = steps[0]
    return replace(given, patch=replace(low, tolerance=given.patch.tolerance)), known


def _read_truth(scene: Scene, path: Path, window: Window, answered: Mask) -> tuple[Array, tuple[str, ...]]:
    """The truth on a window of the output's grid, in the source's units, NaN where unknown; and what to say of these.

    Some of it is to be where a run would answer.
    """
    described, unit_note = convert(describe_source(path), scene.source.units, "truth", "source")
    file, notes = place_on(scene.grids.high, described, "output", "truth")
    values, valid = read_onto(file, scene.grids.high, window)
    if not (valid & answered).any():
        raise InputError(f"the truth {show(path.name)} has no valid pixel where source and guide are compared")
    return np.where(valid, values, np.nan), (*notes, *file.warnings, *unit_note)


def _try(label: str, run: Callable[[], Trial], task: _Task) -> Entry:
    try:
        done = run()
    except TileError as error:
        return Entry(label, failure=str(error))
    values = np.where(task.answered, task.given[label].stats.physical(done.values), np.nan)
    return Entry(label, values, score_arrays(values, task.truth), done.seconds, done.memory)


def write_folder(found: Comparison, folder: Path) -> None:
    """`compare.json`, `compare.csv`, `compare.md` and `compare.png` in a new folder, all of it or nothing.

    Raises:
        UsageError: the folder exists.
        UnavailableError: matplotlib is not installed.
        OutputError: there is no space left, or no permission.
    """
    check_new(folder)
    check_drawing()
    files = {
        "compare.json": as_json(found.content()).encode(errors="replace"),
        "compare.csv": found.table.csv().encode(errors="replace"),
        "compare.md": found.table.markdown().encode(errors="replace"),
        "compare.png": found.picture(),
    }
    with new_folder(folder) as made:
        for name, data in files.items():
            (made / name).write_bytes(data)

"""Many pairs in one run: each as `pipeline.upscale_file` does it, several at once, with a summary at the end."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from geosr import methods
from geosr.bands import ALL
from geosr.describe import describe_source
from geosr.errors import GeosrError, InputError, OutputError, TileError, UnavailableError
from geosr.events import Note
from geosr.files import check_place, reported
from geosr.methods.weights import open_weights
from geosr.multiband import check_bands, upscale_bands
from geosr.options import AUTO, Execution, Inputs, Recipe
from geosr.outputs import asked_tags, digest_tags
from geosr.pair_lists import Job, PairList
from geosr.pipeline import upscale_file
from geosr.placement import Crew, open_crew
from geosr.published import remove_finished
from geosr.raster_guard import files_of, show
from geosr.runner import Threads
from geosr.samples import origin_of, save_sample
from geosr.scene import open_scene
from geosr.scratch import scratch_folder
from geosr.style import style_path, write_style
from geosr.tables import Table

STATUSES = DONE, TO_DO, SKIPPED, FAILED, LEFT_OUT = "done", "to do", "skipped", "failed", "left out"


@dataclass(frozen=True)
class Outcome:
    """What became of a pair.

    Attributes:
        name: of the pair.
        status: `done`; `skipped`, its output was there; `failed`; `left out`, it is no pair or listed twice; of a plan
            `to do`.
        why: what went wrong, or what else is to be said.
        seconds: that it took.
        expected: root mean square error to be expected, in the source's units.
        source, guide, output: its files.
        notes: what the user should know about it.
        complete: every tile was done by the method asked for.
    """

    name: str
    status: str
    why: str | None = None
    seconds: float | None = None
    expected: float | None = None
    source: Path | None = None
    guide: Path | None = None
    output: Path | None = None
    notes: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class Summary:
    """What became of all pairs, in the order of the list."""

    outcomes: tuple[Outcome, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each status."""
        return {status: sum(found.status == status for found in self.outcomes) for status in STATUSES}

    @property
    def exit_code(self) -> int:
        """0 if every pair has its output, all tiles made by the method asked for."""
        return 0 if all(found.complete for found in self.outcomes) else TileError.exit_code

    @property
    def table(self) -> Table:
        """A row for each pair."""
        columns = ("pair", "status", "seconds", "expected_error", "why")
        return Table(columns, tuple((o.name, o.status, o.seconds, o.expected, o.why) for o in self.outcomes))

    @property
    def listing(self) -> Table:
        """The same with every pair's files."""
        paths = ([str(path) if path else None for path in (o.source, o.guide, o.output)] for o in self.outcomes)
        rows = tuple((*row[:2], *files, *row[2:]) for row, files in zip(self.table.rows, paths, strict=True))
        return Table((*self.table.columns[:2], "source", "guide", "output", *self.table.columns[2:]), rows)

    def content(self) -> dict[str, object]:
        """For JSON: everything."""
        return {"counts": self.counts, "pairs": [asdict(found) for found in self.outcomes]}


def plan_batch(found: PairList, inputs: Inputs, recipe: Recipe, execution: Execution) -> Summary:
    """What `run_batch` would do: `to do`, `skipped`, `failed` or `left out`.

    Every pair is opened as a run would, to see whether its files can be read and fit; samples, whose files are not made
    yet, are not.
    """
    outcomes = []
    for job in found.jobs:
        own = _inputs_of(job, inputs)
        there = None if execution.overwrite else _earlier(job, own, recipe)
        outcomes.append(there or _look(job, own, replace(execution, uncertainty=job.uncertainty)))
    return Summary((*outcomes, *_misfits(found)))


def _look(job: Job, inputs: Inputs, execution: Execution) -> Outcome:
    if job.sample:
        return _of(job, TO_DO)
    try:
        band = check_bands(inputs, execution)[0] if inputs.band == ALL else inputs.band
        scene = open_scene(replace(inputs, band=band, coregister=False))
    except (GeosrError, MemoryError) as error:
        return _of(job, FAILED, str(error) or "out of memory")
    return replace(_of(job, TO_DO), notes=scene.notes)


def run_batch(
    found: PairList,
    inputs: Inputs,
    recipe: Recipe,
    execution: Execution,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Every pair as `upscale_file` does it; one that fails does not stop the others.

    As many pairs are in progress at once as there are workers (processors, when `execution.workers` is None), each on a
    thread of this process; one that has no memory left for its tiles waits for others. With threads, the workers that
    are left over are shared out among the pairs' tiles; worker processes, of which there is one set for all pairs, work
    on tiles of any of them. A fit and a tile have one thread of the processor each, however many pairs there are, so
    that neither the other pairs nor the workers change a byte.

    An output that is there is left alone: the pair is skipped if it was made from the same files with the same method
    and scale, and fails otherwise. Finished tiles of a pair that failed are kept for the next run, as in one scene.

    Args:
        found: the pairs.
        inputs: what holds for all of them; its source and guide do not count.
        recipe: for all of them.
        execution: for all of them together; it asks for no report. A pair says itself what is written beside its
            output, and its outcome what there is to note; `on_event` hears of the workers.
        on_outcome: called in the caller's thread as each pair ends.

    Raises:
        UsageError, UnavailableError: what would fail for every pair; also a scheduler that is lost on the way.
    """
    if recipe.method != AUTO:
        methods.create(recipe.method, recipe.preset, recipe.settings, recipe.weights)
    execution = replace(execution, threads=execution.threads or 1)
    lost = _misfits(found)
    for outcome in lost:
        on_outcome(outcome)
    try:
        with warnings.catch_warnings():  # global: pairs that set and restore the filters get in each other's way
            warnings.simplefilter("ignore", UserWarning)  # rasterio's, of rasters without georeference
            outcomes = _run_all(found.jobs, inputs, recipe, execution, on_outcome)
    except BaseException as error:
        error.add_note("finished outputs and tiles are kept; run the same command again to continue")
        raise
    return Summary((*outcomes, *lost))


def _run_all(
    jobs: Sequence[Job], inputs: Inputs, recipe: Recipe, execution: Execution, on_outcome: Callable[[Outcome], None]
) -> list[Outcome]:
    """What became of every pair; workers are started only where there is anything to do."""
    outcomes, rest = {}, {}
    for place, job in enumerate(jobs):
        own = _inputs_of(job, inputs)
        if not execution.overwrite and (there := _earlier(job, own, recipe)):
            outcomes[place] = there if there.status == FAILED else _completed(there, job, style=execution.style)
            on_outcome(outcomes[place])
        else:
            rest[place] = job
    if rest:
        with _crew([*rest.values()], recipe, execution) as crew:
            work = partial(_run, inputs=inputs, recipe=recipe, execution=execution, crew=crew)
            done = Threads(crew.runs).run(work, [*rest.values()], on_done=on_outcome)
        outcomes |= zip(rest, done, strict=True)
    return [outcomes[place] for place in range(len(jobs))]


@contextmanager
def _crew(jobs: Sequence[Job], recipe: Recipe, execution: Execution) -> Iterator[Crew]:
    """The workers for all pairs; what worker processes put on disk lies beside an output."""
    with ExitStack() as stack:
        folder, files = Path(), {}
        if execution.scheduler != "threads":
            folder = stack.enter_context(scratch_folder(_first_output(jobs)))
            files = {file.absolute(): file.stat().st_size for job in jobs for file in _files_of(job, recipe)}
        method = None if recipe.method == AUTO else recipe.method
        yield stack.enter_context(open_crew(len(jobs), files, folder, execution, method))


def _files_of(job: Job, recipe: Recipe) -> Iterator[Path]:
    """What a pair's workers read, as far as it is there; a sample's files are not made yet."""
    for path in recipe.files if job.sample else (job.source, job.guide, *recipe.files):
        with suppress(InputError):  # said of the pair when it is its turn
            yield from (file for file in files_of(path) if os.path.isfile(file))


def _first_output(jobs: Sequence[Job]) -> Path:
    """One that can be written now: its folder is there."""
    for job in jobs:
        with suppress(OutputError):
            _make_folder(job.output.parent)
            return check_place(job.output)
    return jobs[0].output


def _run(job: Job, inputs: Inputs, recipe: Recipe, execution: Execution, crew: Crew) -> Outcome:
    """One pair, whatever becomes of it."""
    began = time.monotonic()
    notes: list[str] = []
    execution = replace(execution, on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    inputs = _inputs_of(job, inputs)
    try:
        for output in job.outputs:
            _make_folder(output.parent)
        if job.sample:
            save_sample(job.sample, inputs.scale, job.source, job.guide)
        own = replace(execution, uncertainty=job.uncertainty)
        upscale = _upscale_bands if inputs.band == ALL else _upscale
        outcome = upscale(job, inputs, recipe, own, crew)
    except UnavailableError:  # a library or the scheduler: no other pair will do better
        raise
    except (GeosrError, MemoryError) as error:
        outcome = _of(job, FAILED, "\n".join((str(error) or "out of memory", *getattr(error, "__notes__", ()))))
    return replace(outcome, seconds=round(time.monotonic() - began, 3), notes=tuple(notes))


def _inputs_of(job: Job, inputs: Inputs) -> Inputs:
    """What holds for this pair; of a data set's sample the band is chosen when its files are made."""
    return replace(inputs, source=job.source, guide=job.guide, band=None if job.sample else inputs.band)


def _upscale(job: Job, inputs: Inputs, recipe: Recipe, execution: Execution, crew: Crew) -> Outcome:
    made = upscale_file(inputs, recipe, execution, job.output, crew)
    why, complete = _interpolated(len(made.interpolated), made.tiles), not made.interpolated
    return _of(job, DONE, why, expected=made.expected, complete=complete)


def _upscale_bands(job: Job, inputs: Inputs, recipe: Recipe, execution: Execution, crew: Crew) -> Outcome:
    made = upscale_bands(inputs, recipe, execution, job.output, crew)
    return _of(job, DONE, _interpolated(made.interpolated, made.tiles), complete=not made.interpolated)


def _interpolated(number: int, tiles: int) -> str | None:
    return f"{number} of {tiles} tiles failed and hold the interpolated source" if number else None


def _make_folder(folder: Path) -> None:
    with reported(f"{show(folder)} cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)


def _earlier(job: Job, inputs: Inputs, recipe: Recipe) -> Outcome | None:
    """A pair whose output is there: skipped if an earlier run made it of the same, and the rasters beside it.

    Else failed, and left alone.
    """
    if not os.path.exists(job.output):
        return None
    try:
        made = describe_source(job.output, band=1, assume_crs=inputs.assume_crs)
    except (GeosrError, MemoryError) as error:
        return _of(job, FAILED, f"its output is there and cannot be read; use --overwrite to replace it: {error}")
    tags = made.tags
    files = {"GEOSR_SOURCE": job.source.absolute().name, "GEOSR_GUIDE": job.guide.absolute().name}
    asked = files | _asked(inputs, recipe)
    asked |= {} if job.sample else _digests(job)
    names = [name.removeprefix("GEOSR_") for name, value in asked.items() if tags.get(name, "") != value]
    other = [*dict.fromkeys(name.removesuffix("_DIGEST").lower().replace("_", " ") for name in names)]
    other += ["dtype"] if made.dtype != recipe.dtype else []
    other += ["coregister"] if inputs.coregister != ("GEOSR_COREGISTER_SHIFT" in tags) else []
    if job.sample:
        cut_from = {"source": origin_of(job.source), "guide": origin_of(job.guide)}
        other += [name for name, origin in cut_from.items() if origin not in (None, job.sample.origin)]
    if other:
        differs = ", ".join(other)
        return _of(job, FAILED, f"{show(job.output)} exists, made otherwise ({differs}); use --overwrite to replace it")
    if missing := [path for path in job.outputs if not os.path.exists(path)]:
        return _of(job, FAILED, f"{show(job.output)} exists, {show(missing[0])} does not; use --overwrite to make both")
    expected = tags.get("GEOSR_EXPECTED_ERROR")
    tiles = tags.get("GEOSR_INTERPOLATED_TILES")
    why = f"tiles hold the interpolated source: {tiles}" if tiles else None
    return _of(job, SKIPPED, why, expected=float(expected) if expected else None, complete=not tiles)


def _completed(there: Outcome, job: Job, *, style: bool) -> Outcome:
    """A skipped pair, with what a run that was killed after it had named the output left to do: style and clearing up.

    Failed if the style cannot be written.
    """
    output = Path(os.path.realpath(job.output))
    remove_finished(output)
    if style and not os.path.lexists(style_path(output)):
        try:
            write_style(output)
        except (GeosrError, MemoryError) as error:
            return _of(job, FAILED, str(error) or "out of memory")
    return there


def _digests(job: Job) -> dict[str, str]:
    """Of the files, if they are there: an output may outlive what it was made of."""
    with suppress(InputError):
        return digest_tags(job.source, job.guide)
    return {}


def _asked(inputs: Inputs, recipe: Recipe) -> dict[str, str]:
    """What an output's tags must say if it was made as is asked for, without the names of its files."""
    method = None
    if recipe.method != AUTO:
        method = methods.create(recipe.method, recipe.preset, recipe.settings, recipe.weights)
    weights = {"GEOSR_WEIGHTS_DIGEST": open_weights(recipe.weights).digest} if recipe.weights else {}
    return weights | asked_tags(inputs, recipe, method)


def _of(
    job: Job, status: str, why: str | None = None, *, expected: float | None = None, complete: bool = True
) -> Outcome:
    complete = complete and status != FAILED
    return Outcome(job.name, status, why, None, expected, job.source, job.guide, job.output, complete=complete)


def _misfits(found: PairList) -> list[Outcome]:
    return [
        Outcome(misfit.name, FAILED if misfit.wanted else LEFT_OUT, misfit.why, complete=not misfit.wanted)
        for misfit in found.misfits
    ]

"""Supervised training: pairs with a truth in, weights with a model card out; whatever ends it, it can go on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geosr.digests import digest_of
from geosr.errors import InputError, TileError, UsageError
from geosr.events import Note, Stage, Trained, Validated
from geosr.files import check_place, reported, write_whole
from geosr.machine import processors
from geosr.methods.training_settings import TrainingSettings, training_settings
from geosr.methods.weights import Arrays, Card, pack, unpack
from geosr.options import Execution, check_seed
from geosr.pair_lists import Job
from geosr.provenance import versions
from geosr.publish import check_own_output, publish
from geosr.published import note_published, published_before
from geosr.raster_guard import show
from geosr.run_folder import CHECKPOINT, RunFolder, run_folder
from geosr.tables import Table, check_files, write_files
from geosr.training_data import TrainingPair, identities, read_training_pair

if TYPE_CHECKING:
    from geosr.methods.supervised import Trainer

_VALIDATION_TILES = 8
"""Of a pair that is left out, at most: with more, validating would take longer than training."""

_COLUMNS = ("step", "learning_rate", "loss", "rmse", "bicubic")
_FEW = 12  # pairs that a model card names one by one


@dataclass(frozen=True)
class Course:
    """What is trained, and how; all of it is written on the model card.

    Attributes:
        method: a method that is trained.
        scale: high pixels to one source pixel along a side.
        preset: one of its sets of settings.
        settings: single settings on top.
        validation: share of the pairs that is left out to validate on, one at least; pairs with one guide together.
        seed: of all random numbers: which pairs are left out, the first weights, the crops.
        licence: of the weights, in the user's words.
    """

    method: str = "fdsr"
    scale: int = 4
    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation: float = 0.2
    seed: int = 0
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise UsageError(f"validation is {self.validation}; it must be a share of the pairs, above 0 and below 1")
        check_seed(self.seed)


@dataclass(frozen=True)
class Score:
    """A pair that was left out: RMSE of the consistent result and of bicubic's, in the truth's units."""

    pair: str
    rmse: float
    bicubic: float
    units: str | None
    spread: float

    @property
    def normal(self) -> tuple[float, float]:
        """Both as shares of the source's standard deviation."""
        return self.rmse / self.spread, self.bicubic / self.spread


@dataclass
class _Progress:
    """What a training has come to: everything that the rest of it depends on."""

    step: int = 0
    best_step: int = 0
    best: Arrays = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_error(self) -> float:
        return min((row["rmse"] for row in self.history), default=np.inf)


def train(jobs: list[Job], course: Course, execution: Execution, output: Path, *, log: Path | None = None) -> Card:
    """Train a network on pairs and write its weights to `output`, its model card beside them (`.md`).

    The weights are those with the least error on the pairs that were left out: the mean over these of the RMSE of the
    result projected onto its source, in standard deviations of the source. At each validation a checkpoint is
    kept in a hidden folder beside the output; the same call goes on from there and comes to the same bytes.

    Args:
        jobs: the pairs; their sources are the truth.
        course: what is trained and how.
        execution: its device, threads, `overwrite` and `on_event` count.
        output: a `.safetensors` file.
        log: a CSV file with a row for each validation, rewritten at each.

    Returns:
        The model card.

    Raises:
        UsageError: a setting out of range, fewer than two pairs, an output that exists.
        InputError: a pair is refused, or guides differ in their number of bands.
        UnavailableError: the device is not there.
        TileError: the training diverged.
        OutputError: weights or card could not be written, files of their names have appeared, or another run is
            making them.
    """
    from geosr.device import device_kind, pick_device, torch_threads

    settings = training_settings(course.method, course.preset, course.settings)
    output, beside = _check_outputs(output, log, jobs, overwrite=execution.overwrite)
    parts = split(jobs, course)
    device = pick_device(execution.device)
    threads = execution.threads or processors()
    machine = {"device": device_kind(device), "threads": str(threads)}
    with run_folder(output, _fingerprint(jobs, course, settings, machine)) as folder, torch_threads(threads):
        overwrite = folder.may_replace(overwrite=execution.overwrite)
        if folder.changes:
            changes = ", ".join(folder.changes)
            execution.on_event(Note(f"an earlier training is not continued but started afresh: {changes}"))
        execution.on_event(Stage("pairs"))
        learnt, left_out = _read(parts, course, settings)
        for pair in (*learnt, *left_out):
            for text in pair.notes:
                execution.on_event(Note(f"{pair.name}: {text}"))
        card = Card(course.method, course.scale, learnt[0].bands, settings.network(learnt[0].bands), {})
        execution.on_event(Stage("training"))
        done = _run(folder, card, (learnt, left_out), course, settings, device, execution, log)
        card = replace(card, about=_about(learnt, left_out, course, settings, machine, done))
        files = {beside: describe(card).encode(), output: pack(done.best, asdict(card))}
        _publish(folder.path, files, overwrite=overwrite)
    return card


def _check_outputs(output: Path, log: Path | None, jobs: Sequence[Job], *, overwrite: bool) -> tuple[Path, Path]:
    """Where weights and model card will lie."""
    inputs = [path for job in jobs for path in (job.source, job.guide)]
    output = check_own_output(output, inputs, overwrite=overwrite, form="safetensors file")
    beside = output.with_suffix(".md")
    check_place(beside)
    if os.path.lexists(beside) and not overwrite and beside not in published_before(output):
        raise UsageError(f"the model card {show(beside)} exists; use --overwrite to replace it")
    check_files({"csv": log})
    return output, beside


def _publish(folder: Path, files: Mapping[Path, bytes], *, overwrite: bool) -> None:
    """Give files their names when all are on disk, one after the other; the weights' is the last.

    Raises:
        OutputError: there is no space left, no permission, or a file of such a name has appeared, which is left alone.
    """
    made = {name: folder / f"finished{name.suffix}" for name in files}
    for name, data in files.items():
        write_whole(made[name], data)
    note_published(folder, made)
    for name, finished in made.items():
        with reported(f"cannot write {name}"):
            publish(finished, name, overwrite=overwrite)


def split(jobs: Sequence[Job], course: Course) -> tuple[list[Job], list[Job]]:
    """Pairs to learn from and to validate on; those with one guide or one truth show one ground and stay together.

    Raises:
        UsageError: all do.
    """
    scenes = _scenes(jobs)
    names = [*dict.fromkeys(scenes)]
    if len(names) < 2:
        raise UsageError(
            f"there is {len(names)} scene (pairs with one guide or one truth count as one); training needs two at "
            "least, one of them to validate on"
        )
    apart: set[str] = set()
    for place in np.random.default_rng(course.seed).permutation(len(names))[:-1]:
        if sum(scene in apart for scene in scenes) >= max(round(course.validation * len(jobs)), 1):
            break
        apart.add(names[place])
    parts: tuple[list[Job], list[Job]] = ([], [])
    for job, scene in zip(jobs, scenes, strict=True):
        parts[scene in apart].append(job)
    return parts


def _scenes(jobs: Sequence[Job]) -> list[str]:
    """For each pair the first file of all that it shares a file with, directly or through others."""
    parent: dict[str, str] = {}

    def first(file: str) -> str:
        while parent.setdefault(file, file) != file:
            file = parent[file]
        return file

    files = [[os.path.realpath(path) for path in (job.guide, job.source)] for job in jobs]
    for guide, truth in files:
        parent[first(truth)] = first(guide)
    return [first(guide) for guide, _ in files]


def _fingerprint(
    jobs: list[Job], course: Course, settings: TrainingSettings, machine: Mapping[str, str]
) -> dict[str, str]:
    """Everything that changes a weight."""
    pairs = digest_of("\n".join(identities(jobs)).encode())
    asked = {name: value for name, value in asdict(course).items() if name not in ("settings", "licence")}
    chosen = {f"setting {name}": value for name, value in asdict(settings).items()}
    values = {"training of": course.method, "pairs": pairs, **asked, **chosen, **machine, **versions()}
    return {name: str(value) for name, value in values.items()}


def _read(
    parts: tuple[list[Job], list[Job]], course: Course, settings: TrainingSettings
) -> tuple[list[TrainingPair], list[TrainingPair]]:
    from geosr.methods.supervised import block_of, crop_side

    side = crop_side(settings, course.scale, block_of(course.method))
    counts = settings.tiles, min(settings.tiles, _VALIDATION_TILES)
    learnt, left_out = (
        [read_training_pair(job, course.scale, side, count) for job in jobs]
        for jobs, count in zip(parts, counts, strict=True)
    )
    first = learnt[0]
    for pair in (*learnt, *left_out):
        if pair.bands != first.bands:
            raise InputError(
                f"the guide of {pair.name} has {pair.bands} bands, that of {first.name} {first.bands}; a network takes "
                "guides of one kind"
            )
    return learnt, left_out


def _run(
    folder: RunFolder,
    card: Card,
    pairs: tuple[list[TrainingPair], list[TrainingPair]],
    course: Course,
    settings: TrainingSettings,
    device: str,
    execution: Execution,
    log: Path | None,
) -> _Progress:
    """All steps, from the last checkpoint on if there is one."""
    from geosr.methods.supervised import Trainer

    trainer = Trainer(card, settings, course.seed, device)
    examples = [example for pair in pairs[0] for example in pair.examples]
    done = _resume(folder.path / CHECKPOINT, trainer, execution)
    began, first = time.monotonic(), done.step
    for step in range(done.step, settings.steps):
        trainer.step(step, examples)
        rate = (step + 1 - first) / max(time.monotonic() - began, 1e-9)
        execution.on_event(Trained(step + 1, settings.steps, rate))
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            _validate(trainer, pairs[1], settings, done, step + 1, device)
            _save(folder.path / CHECKPOINT, trainer, done)
            row = done.history[-1]
            execution.on_event(Validated(step + 1, row["loss"], row["rmse"], row["bicubic"]))
            write_files({"csv": log}, _log(done), {})
    return done


def _log(done: _Progress) -> Table:
    return Table(_COLUMNS, tuple(tuple(row[name] for name in _COLUMNS) for row in done.history))


def _validate(
    trainer: Trainer, pairs: list[TrainingPair], settings: TrainingSettings, done: _Progress, step: int, device: str
) -> None:
    """Score the network on the pairs that were left out, and keep its weights if they are the best so far."""
    trainer.network.eval()
    loss = trainer.loss()
    scores = [_score(trainer, pair, device) for pair in pairs]
    rmse, bicubic = (float(np.mean([score.normal[i] for score in scores])) for i in range(2))
    if not np.isfinite(rmse):  # the last step before it made the weights so, and the losses are of those before
        raise TileError("the training diverged: its answers are not finite; use a lower learning_rate")
    if rmse < done.best_error:
        done.best, done.best_step, done.scores = trainer.weights(), step, [asdict(score) for score in scores]
    rate = settings.rate(step - 1)
    done.history.append({"step": step, "learning_rate": rate, "loss": loss, "rmse": rmse, "bicubic": bicubic})
    done.step = step


def _score(trainer: Trainer, pair: TrainingPair, device: str) -> Score:
    from geosr.methods.judgement import exact
    from geosr.methods.supervised import apply

    squares, count = np.zeros(2), 0
    for example in pair.examples:
        for i, values in enumerate((apply(trainer.network, example.patch, device), example.start)):
            errors = (exact(values, example.patch) - example.truth)[example.known]
            squares[i] += float((errors**2).sum())
        count += int(example.known.sum())
    rmse, bicubic = (np.sqrt(squares / max(count, 1)) * pair.spread).tolist()
    return Score(pair.name, rmse, bicubic, pair.units, pair.spread)


def _save(path: Path, trainer: Trainer, done: _Progress) -> None:
    best = {f"best/{name}": array for name, array in done.best.items()}
    about = {"step": done.step, "best_step": done.best_step, "scores": done.scores, "history": done.history}
    write_whole(path, pack(trainer.arrays() | best, about))


def _resume(path: Path, trainer: Trainer, execution: Execution) -> _Progress:
    """Where an earlier training of the same kind was; at the start where there is none, or it is damaged."""
    if not path.exists():
        return _Progress()
    try:
        arrays, about = unpack(path.read_bytes())
    except (OSError, ValueError) as error:
        execution.on_event(Note(f"the checkpoint of an earlier training {error}; it starts afresh"))
        return _Progress()
    best = {name.removeprefix("best/"): array for name, array in arrays.items() if name.startswith("best/")}
    trainer.restore({name: array for name, array in arrays.items() if not name.startswith("best/")})
    execution.on_event(Note(f"goes on from step {about['step']}"))
    return _Progress(best=best, **about)


def _about(
    learnt: list[TrainingPair],
    left_out: list[TrainingPair],
    course: Course,
    settings: TrainingSettings,
    machine: Mapping[str, str],
    done: _Progress,
) -> dict[str, Any]:
    """What the card says of how the weights came about; no time of day, so that the same training is the same bytes."""
    best = next(row for row in done.history if row["step"] == done.best_step)
    return {
        "data": {
            "trained on": [_pair(pair) for pair in learnt],
            "validated on": [_pair(pair) for pair in left_out],
        },
        "preset": course.preset,
        "settings": asdict(settings),
        "seed": course.seed,
        "step": done.best_step,
        "metrics": {"rmse": best["rmse"], "bicubic": best["bicubic"], "pairs": done.scores},
        "licence": course.licence,
        "software": versions() | dict(machine),
    }


def _pair(pair: TrainingPair) -> dict[str, Any]:
    return {"pair": pair.name, "tiles": len(pair.examples), "units": pair.units}


def describe(card: Card) -> str:
    """The model card as Markdown."""
    about, metrics = card.about, card.about["metrics"]
    trained, validated = about["data"]["trained on"], about["data"]["validated on"]
    columns = ("pair", "rmse", "bicubic", "units")
    scores = Table(columns, tuple(tuple(score[name] for name in columns) for score in metrics["pairs"]))
    lines = [
        f"# {card.method}, x{card.scale}, guides of {card.bands} band{'s' if card.bands > 1 else ''}",
        "",
        f"Weights for `geosr upscale --method {card.method} --scale {card.scale} --weights FILE`. Licence: "
        f"{about['licence']}.",
        "",
        f"- trained on {_count(trained)}: {_names(trained)}",
        f"- left out to validate on: {_names(validated)}",
        f"- weights of step {about['step']} of {about['settings']['steps']}, the best on those: RMSE in standard "
        f"deviations of the source, mean of the pairs: {metrics['rmse']:.4f}, bicubic {metrics['bicubic']:.4f}",
        f"- preset {about['preset']}, seed {about['seed']}; settings: {_pairs_of(about['settings'])}",
        f"- network: {_pairs_of(card.network)}",
        f"- made with {_pairs_of(about['software'])}",
        "",
        "Both projected onto the source:",
        "",
        scores.markdown(),
    ]
    return "\n".join(lines)


def _count(pairs: list[dict[str, Any]]) -> str:
    return f"{sum(pair['tiles'] for pair in pairs)} tiles of {len(pairs)} pair{'s' if len(pairs) > 1 else ''}"


def _names(pairs: list[dict[str, Any]]) -> str:
    more = f" and {len(pairs) - _FEW} more" if len(pairs) > _FEW else ""
    return ", ".join(pair["pair"] for pair in pairs[:_FEW]) + more


def _pairs_of(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())

"""Pairs with a truth as examples to learn from: tiles spread over each pair, normalised as a run would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from geosr import raster
from geosr.describe import describe_guide, describe_source
from geosr.errors import InputError
from geosr.evaluation import place_on
from geosr.grid import Window, crop
from geosr.pair import Pair, Stats, normalise
from geosr.pair_lists import Job
from geosr.raster_guard import digest_of_parts, files_of, show
from geosr.samples import TruePair, pool_truth
from geosr.tiling import SIDE, cut

if TYPE_CHECKING:
    from geosr.methods.supervised import Example

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class TrainingPair:
    """A pair as it is learnt from or validated on.

    Attributes:
        name: of the pair.
        units: of the truth, None where its file says nothing.
        spread: the source's standard deviation, to give errors in its units.
        examples: its tiles.
        bands: of the guide.
        notes: what the user should know of its files.
    """

    name: str
    units: str | None
    spread: float
    examples: list[Example]
    bands: int
    notes: tuple[str, ...]


def read_training_pair(job: Job, scale: int, side: int, count: int) -> TrainingPair:
    """Tiles of a pair whose listed source (or sample) is the truth: its block means are what the network gets.

    The guide is brought onto the truth's grid, as a run brings it onto the output's; a source pixel is valid where all
    of the truth over it is.

    Args:
        job: the pair.
        scale: of the network.
        side: of a crop, which every tile must hold.
        count: tiles at most, spread evenly over the pair.

    Raises:
        InputError: a file is refused, the two do not fit, the pair is too small, or no pixel of it can be learnt from.
    """
    from geosr.methods.supervised import make_example

    loaded = _read_sample(job, scale, side) if job.sample else _read_files(job, scale, side, count)
    chosen = [tile for tile in _spread(loaded.tiles, count) if _tells(tile)]
    if not chosen:
        raise InputError(f"{show(job.name)}: no source pixel of it is valid where the guide is")
    stats = Stats.robust([tile.pair for tile in chosen])
    examples = [make_example(normalise(tile.pair, stats), stats.normal(tile.truth)) for tile in chosen]
    bands = len(chosen[0].pair.guide)
    return TrainingPair(show(job.name), loaded.units, stats.source_spread, examples, bands, loaded.notes)


@dataclass(frozen=True)
class _Loaded:
    """Tiles of a pair, the units of its truth, and what there is to note of its files."""

    tiles: list[TruePair]
    units: str | None = None
    notes: tuple[str, ...] = ()


def _read_sample(job: Job, scale: int, side: int) -> _Loaded:
    assert job.sample
    whole = job.sample.read(scale)
    pair, tiles = whole.pair, []
    for low in _windows(job.name, whole.truth.shape, scale, side):
        high = low.times(scale).slices
        part = Pair(
            pair.guide[:, *high], pair.guide_valid[high], pair.source[low.slices], pair.source_valid[low.slices]
        )
        tiles.append(TruePair(whole.name, part, whole.truth[high]))
    return _Loaded(tiles)


def _read_files(job: Job, scale: int, side: int, count: int) -> _Loaded:
    truth = describe_source(job.source)
    described = describe_guide(job.guide, near=truth.geobox)
    guide, notes = place_on(truth.geobox, described, "truth", "guide")
    tiles = []
    for low in _spread(_windows(job.name, truth.shape, scale, side), count):
        window = low.times(scale)
        values, valid = raster.read_source(truth, window)
        image, seen = raster.read_guide(guide, crop(truth.geobox, window), grid=truth.geobox)
        tiles.append(pool_truth(job.name, np.where(valid, values, np.nan), image, scale, seen))
    return _Loaded(tiles, truth.units, (*truth.warnings, *guide.warnings, *notes))


def _windows(name: str, shape: tuple[int, ...], scale: int, side: int) -> list[Window]:
    """Windows of one size over the low grid of a truth of `shape`."""
    if min(shape) < side:
        raise InputError(
            f"{show(name)} is {shape[1]} x {shape[0]} pixels, and crops have {side} a side; leave it out, or use a "
            "smaller crop (--set crop=N)"
        )
    tiles = cut([length // scale for length in shape], scale, size=max(SIDE, side), halo=0)
    return [tile.window for tile in tiles]


def _spread(things: list[Thing], count: int) -> list[Thing]:
    """As many of them at most, spread evenly over all."""
    places = np.unique(np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int))
    return [things[place] for place in places]


def _tells(tile: TruePair) -> bool:
    """Whether there is a valid source pixel with a guide, and the truth is not constant."""
    known = np.isfinite(tile.truth) & tile.pair.guide_valid
    return bool(tile.pair.source_valid.any()) and bool(known.any()) and bool(np.ptp(tile.truth[known]) > 0)


def identities(jobs: list[Job]) -> Iterator[str]:
    """For each pair what says whether its files are those of before.

    Raises:
        InputError: a file cannot be read.
    """
    for job in jobs:
        origin = job.sample.origin if job.sample else ""
        yield f"{job.name}: {_identity(job.source)} {_identity(job.guide)} {origin}"


def _identity(path: Path) -> str:
    said = []
    for file in files_of(path):
        digest, status = digest_of_parts(file), file.stat()
        said.append(f"{file.absolute()} {status.st_size} {status.st_mtime_ns} {digest}")
    return " ".join(said)

"""The papers' tables rerun: the truth pooled, methods run, mean RMSE beside the published numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geosr.datasets import DATASETS, check_root
from geosr.errors import InputError
from geosr.machine import processors
from geosr.metrics import score_arrays
from geosr.pair import Stats, normalise
from geosr.raster_guard import show
from geosr.samples import Sample, TruePair
from geosr.tables import Table
from geosr.trials import attempt

# Mean RMSE of Dong, Yokoya, Wang and Uezato, "Learning Mutual Modulation for Self-Supervised Cross-Modal
# Super-Resolution", ECCV 2022: Table 1 (disparity values) and Table 4 (metres). CMSR is not given for x8.
_NAMES = ("DKN", "FDKN", "FDSR", "P2P", "CMSR", "MMSR")
_PUBLISHED: dict[tuple[str, int], tuple[int, tuple[float | None, ...]]] = {
    ("2003", 4): (14, (2.11, 1.84, 1.83, 2.94, 2.52, 1.78)),
    ("2003", 8): (14, (2.71, 2.74, 2.55, 3.03, None, 2.63)),
    ("2005", 4): (37, (3.14, 2.79, 2.74, 3.78, 3.51, 2.47)),
    ("2005", 8): (37, (4.45, 4.52, 4.27, 3.99, None, 3.92)),
    ("2014", 4): (43, (2.88, 2.51, 2.41, 3.90, 2.87, 2.30)),
    ("2014", 8): (43, (4.21, 4.06, 4.00, 4.13, None, 3.60)),
    ("dfc2019", 4): (54, (0.80, 0.80, 0.81, 1.57, 0.78, 0.73)),
    ("dfc2019", 8): (54, (1.39, 1.25, 1.55, 1.70, None, 1.02)),
}
_AUTHORS = "mmsr_authors_x4.csv"
"""Columns name and rmse: what MMSR's authors' own run has on their sample images, at x4."""


@dataclass(frozen=True)
class Rerun:
    """A table of a paper, beside what was measured.

    Attributes:
        table: a row for each group: the mean of the images' RMSE by method, then as published (headings with a *).
        errors: RMSE by method, by group and image.
        notes: in what the two differ.
    """

    table: Table
    errors: dict[str, dict[str, dict[str, float]]]
    notes: tuple[str, ...]

    def content(self) -> dict[str, object]:
        """For JSON."""
        rows = [dict(zip(self.table.columns, row, strict=True)) for row in self.table.rows]
        return {"table": rows, "rmse": self.errors, "notes": self.notes}


def published(group: str, scale: int) -> dict[str, float | None]:
    """Mean RMSE by method; empty where the paper has none."""
    return dict(zip(_NAMES, _PUBLISHED[group, scale][1], strict=True)) if (group, scale) in _PUBLISHED else {}


def rerun(
    name: str,
    root: Path,
    scale: int,
    chosen: Mapping[str, tuple[str, str]],
    *,
    device: str = "cpu",
    on_pair: Callable[[str, str], None] = lambda name, line: None,
) -> Rerun:
    """Run methods on every image of a data set as the paper has it: RMSE over all pixels of an image, then the mean.

    Args:
        name: of the data set, see `datasets.DATASETS`.
        root: its folder.
        scale: x4 and x8 were published.
        chosen: method, and preset or file of weights, by label.
        device: as torch names it.
        on_pair: told of each image and its errors.

    Raises:
        InputError: the folder is not as the data set is laid out, or see `authors`.
        TileError: a fit failed.
    """
    check_root(root)
    samples = DATASETS[name](root)
    known = authors(samples, scale)  # before the work: their list may be refused
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for sample in samples:
        true = sample.read(scale)
        found = {label: rmse(true, *kind, device=device) for label, kind in chosen.items()}
        errors.setdefault(sample.group, {})[sample.name] = found
        on_pair(sample.name, ", ".join(f"{label} {error:.4g}" for label, error in found.items()))
    return Rerun(_table(errors, scale, [*chosen], known), errors, _notes(errors, scale))


def rmse(true: TruePair, method: str, kind: str, *, device: str) -> float:
    """RMSE of a method (`methods.create_as`) on a pair, over the pixels with a truth, in its units."""
    stats = Stats.measure([true.pair])
    done = attempt(normalise(true.pair, stats), method, kind, seed=0, device=device, threads=processors())
    found = score_arrays(stats.physical(done.values), true.truth).rmse
    if found is None:
        raise InputError(f"{show(true.name)}: no pixel has a truth")
    return found


def authors(samples: Sequence[Sample], scale: int) -> dict[str, float]:
    """RMSE by image of the MMSR authors' own run, where their list lies beside the images; x4 only.

    Raises:
        InputError: their list cannot be read, or has no such columns.
    """
    found: dict[str, float] = {}
    for folder in {sample.truth.parent.parent for sample in samples} if scale == 4 else ():
        if (folder / _AUTHORS).is_file():
            found |= _listed(folder / _AUTHORS)
    return found


def _listed(file: Path) -> dict[str, float]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            return {row["name"]: float(row["rmse"]) for row in csv.DictReader(opened)}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        wanted = "is no CSV of the columns name and rmse, a number in each row"
        raise InputError(f"{show(file)}: {wanted}: {error}") from error


def _table(
    errors: dict[str, dict[str, dict[str, float]]], scale: int, labels: Sequence[str], known: Mapping[str, float]
) -> Table:
    rows = []
    for group, images in errors.items():
        means = (float(np.mean([found[label] for found in images.values()])) for label in labels)
        theirs = published(group, scale)
        if not theirs and images.keys() <= known.keys():
            theirs = {"MMSR": float(np.mean([known[name] for name in images]))}
        rows.append((group, f"x{scale}", len(images), *means, *(theirs.get(name) for name in _NAMES)))
    return Table(("images", "scale", "pairs", *labels, *(f"{name}*" for name in _NAMES)), tuple(rows))


def _notes(errors: dict[str, dict[str, dict[str, float]]], scale: int) -> tuple[str, ...]:
    notes = [
        "* as published (Dong et al., ECCV 2022), or the authors' own run of these images where their list is there"
    ]
    for group, images in errors.items():
        if (group, scale) in _PUBLISHED and len(images) != (theirs := _PUBLISHED[group, scale][0]):
            notes.append(f"{group}: published over {theirs} pairs, here {len(images)}")
    if "dfc2019" in errors:
        notes.append("dfc2019: the paper does not name its crops; these are a list of our own")
    return tuple(notes)

"""What a guide that is bent, or moved, costs the diffusion, and how much of it --coregister gives back.

    PYTHONPATH=examples:benchmarks python benchmarks/local_shift.py --data ../shared/data --scale 4

The Middlebury samples and synthetic scenes of `coregister.py`. The guide is displaced by a known smooth field of up to
`--size` output pixels along each axis with one period over the image, by a turn and a stretch, by a plain shift, and
not at all. The source is the truth's block mean; everything goes through files. The guide's has pixels of half the
size, undisplaced too, so that taking it from between its pixels does not blur it. RMSE over all pixels, of `--method
diffusion`: with the guide as it was before, displaced, with one shift found and undone, and with the local
displacement too. `left` is the root mean square of what is left of the displacement, in output pixels, over the image.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import coregister as pairs
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from geosr import coregister
from geosr import scene as scenes
from geosr.coregister import Shift
from geosr.options import Inputs

Array = NDArray[np.float64]
KINDS = ("one period", "moved 1.5, 0", "turned and stretched")


def displacement(kind: str, shape: tuple[int, int], size: float) -> Array:
    """(2, rows, columns): how far down and along each pixel's picture is moved, in pixels."""
    down, along = np.mgrid[: shape[0], : shape[1]] + 0.5
    v, u = down / shape[0], along / shape[1]
    none = np.zeros(shape)
    fields = {
        "aligned": (none, none),
        "moved 1.5, 0": (none, none + 1.5),
        "one period": (size * np.sin(2 * np.pi * u), size * np.sin(2 * np.pi * v)),
        "turned and stretched": (size / 2 * (2 * u - 1 + 2 * v - 1), size / 2 * (1 - 2 * v + 2 * u - 1)),
    }
    return np.array(fields[kind])


def bent(bands: Array, moved: Array) -> Array:
    """The picture in pixels of half the size, what was at a place now `moved` from it: cubic splines, gaps as 0."""
    place = (np.mgrid[: 2 * bands.shape[1], : 2 * bands.shape[2]] - 0.5) / 2
    origin = place
    for _ in range(10):  # of a fixed point: the field changes by less than 0.1 a pixel
        origin = place - np.array([map_coordinates(each, origin, order=1, mode="nearest") for each in moved])
    return np.array([map_coordinates(np.nan_to_num(band), origin, order=3, mode="nearest") for band in bands])


def found_at(scene: scenes.Scene, shape: tuple[int, int]) -> Array:
    """(2, rows, columns): the displacement that was found, down and along."""
    assert scene.shift is not None
    rows, cols = scene.shift.applied
    row, col = np.mgrid[: shape[0], : shape[1]] + 0.5
    along, down = scene.shift.local.at(col + cols, row + rows) if scene.shift.local else (0 * col, 0 * row)
    return np.array([down + rows, along + cols])


def look(inputs: Inputs) -> tuple[scenes.Scene, Shift]:
    """The scene with its guide where it was found, and what was found before any local displacement was looked for."""
    seen: list[Shift] = []
    estimate = coregister.estimate

    def watched(pieces: Sequence[coregister.Piece]) -> Shift:
        seen.append(estimate(pieces))
        return seen[-1]

    with patch.object(coregister, "estimate", watched):
        return scenes.open_scene(inputs), seen[0]


def rmse(case: pairs.Case, inputs: Inputs, shift: Shift) -> float:
    """Of the diffusion's answer with the guide looked for where `shift` says."""
    with patch.object(scenes, "find_shift", lambda *_: shift):
        return pairs.rmse(case, inputs, "diffusion", coregister=True)


def rows(case: pairs.Case, scale: int, size: float, kinds: list[str], folder: Path) -> Iterator[list[str]]:
    """Lines of the table."""
    aligned = 0.0
    for kind in ("aligned", *kinds):
        made = displacement(kind, case.truth.shape, size)
        there = replace(case, guide=bent(case.guide, made), guide_affine=case.guide_affine * Affine.scale(0.5))
        inputs = pairs.trial(there, scale, folder, (0.0, 0.0))
        start = time.perf_counter()
        scene, one = look(inputs)
        seconds = time.perf_counter() - start
        shift = scene.shift
        assert shift is not None
        left = np.sqrt(((found_at(scene, case.truth.shape) - made) ** 2).sum(axis=0).mean())
        plain = rmse(case, inputs, Shift())
        aligned = plain if kind == "aligned" else aligned
        once = rmse(case, inputs, one) if any(one.applied) else plain
        both = rmse(case, inputs, shift) if shift.local else once
        far = f"{shift.local.farthest:.2f}" if shift.local else "-"
        errors = f"{aligned:.3f}", f"{plain:.3f}", f"{once:.3f}", f"{both:.3f}", f"{both / aligned - 1:+.1%}"
        yield [f"{case.name} x{scale}", kind, *errors, far, f"{left:.2f}", f"{seconds:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real rasters")
    parser.add_argument("--scale", type=int, nargs="+", default=[4])
    parser.add_argument("--size", type=float, default=2.0, help="output pixels")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--only", nargs="*", help="names of pairs")
    arguments = parser.parse_args()
    heads = "pair|guide|aligned|as it lies|one shift|local too|to aligned|found up to|left|s"
    print(f"| {heads.replace('|', ' | ')} |\n{'|---' * 10}|")
    with tempfile.TemporaryDirectory() as folder:
        for case in pairs.cases(arguments.data, Path(folder)):
            if case.name in (arguments.only or pairs.MIDDLEBURY):
                for scale in arguments.scale:
                    for cells in rows(case, scale, arguments.size, arguments.kinds, Path(folder)):
                        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

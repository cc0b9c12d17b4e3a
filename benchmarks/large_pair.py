"""Pairs of any size for the other benchmarks: a synthetic scene, repeated in mirrors."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window
from scene import make_scene

SCALE = 4
_SCENE = 2000  # pixels a side of the scene that is repeated
_BLOCK = 512


def make_pairs(folder: Path, sizes: Sequence[int]) -> None:
    """`source_SIZE.tif` for outputs of each size at x4, and one `guide.tif` that covers the largest.

    Float32 heights with some nodata, and an RGB photo with pixels of 0.6 of an output pixel on a grid of its own, which
    lies on the heights to a seventh of its pixel; both tiled and compressed. What is there already is left alone. They
    are made in a process of their own: the peak of a child's memory is counted from its parent's on, and the commands
    that are measured next are children of this one.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(_make, (folder, sizes))


def _make(folder: Path, sizes: Sequence[int]) -> None:
    sources = {size: folder / f"source_{size}.tif" for size in sizes}
    if all(path.exists() for path in (*sources.values(), folder / "guide.tif")):
        return
    paths = make_scene(folder / "scene", size=_SCENE)
    with rasterio.open(paths["dsm"]) as dsm, rasterio.open(paths["ortho"]) as ortho:
        source, guide = dsm.transform, ortho.transform
        across = _axes(dsm.width, (source.c - guide.c) / guide.a, source.a / guide.a)
        down = _axes(dsm.height, (source.f - guide.f) / guide.e, source.e / guide.e)
    for size, path in sources.items():
        _repeat(paths["dsm"], path, size // SCALE, down[0], across[0])
    side = int(max(sizes) // SCALE * source.a / guide.a) + 32
    _repeat(paths["ortho"], folder / "guide.tif", side, down[1], across[1])


Axes = tuple[float, float]
"""Where two mirrors stand, in pixels from a raster's edge: on an edge or in the middle of a pixel."""


def _axes(count: int, offset: float, ratio: float) -> tuple[Axes, Axes]:
    """Mirrors for a source of `count` pixels and for its guide, at the same places on the ground.

    Both on edges of source pixels, and as near to half a guide pixel as there are any; the second one as far off it as
    the first, so that the two rasters do not drift apart from one repetition to the next.
    """

    def off(place: int) -> float:
        return abs(2 * (offset + place * ratio) - round(2 * (offset + place * ratio)))

    first = min(range(1, 20), key=off)
    steps = (step for step in range(count - 2 - first, 0, -1) if abs(2 * step * ratio - round(2 * step * ratio)) < 1e-6)
    last = first + next(steps)
    halves = [round(2 * (offset + place * ratio)) / 2 for place in (first, last)]
    return (first, last), (halves[0], halves[1])


def _repeat(small: Path, large: Path, side: int, down: Axes, across: Axes) -> None:
    if large.exists():
        return
    with rasterio.open(small) as given:
        values, profile = given.read(), given.profile
    layout = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate", "zlevel": 1}
    profile |= {"width": side, "height": side, "BIGTIFF": "IF_SAFER", "NUM_THREADS": "ALL_CPUS", **layout}
    with rasterio.open(large.with_suffix(".part"), "w", **profile) as made:
        for row in range(0, side, _BLOCK):
            rows = _mirrored(row, min(row + _BLOCK, side), down)
            strip = values[:, rows][:, :, _mirrored(0, side, across)]
            made.write(strip, window=Window(0, row, side, len(rows)))
    large.with_suffix(".part").rename(large)


def _mirrored(start: int, stop: int, axes: Axes) -> npt.NDArray[np.int_]:
    """The pixel that is seen in each of `start` to `stop` where two mirrors face each other."""
    first, last = axes
    round_trip = 2 * (last - first)
    way = (np.arange(start, stop) + 0.5 - first) % round_trip
    seen: npt.NDArray[np.int_] = np.floor(first + np.minimum(way, round_trip - way)).astype(np.int_)
    return seen

"""Pairs of any size for the other benchmarks: a made-up scene, repeated in mirrors."""

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

    Float32 heights with some nodata, and an RGB photo with pixels of 0.6 of an output pixel on a grid of its own; both
    tiled and compressed. What is there already is left alone. They are made in a process of their own: the peak of a
    child's memory is counted from its parent's on, and the commands that are measured next are children of this one.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(_make, (folder, sizes))


def _make(folder: Path, sizes: Sequence[int]) -> None:
    sources = {size: folder / f"source_{size}.tif" for size in sizes}
    if all(path.exists() for path in (*sources.values(), folder / "guide.tif")):
        return
    paths = make_scene(folder / "scene", size=_SCENE)
    for size, source in sources.items():
        _repeat(paths["dsm"], source, size // SCALE)
    with rasterio.open(paths["dsm"]) as dsm, rasterio.open(paths["ortho"]) as ortho:
        ratio = dsm.res[0] / ortho.res[0]
    _repeat(paths["ortho"], folder / "guide.tif", int(max(sizes) // SCALE * ratio) + 32)


def _repeat(small: Path, large: Path, side: int) -> None:
    if large.exists():
        return
    with rasterio.open(small) as given:
        values, profile = given.read(), given.profile
    layout = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate", "zlevel": 1}
    profile |= {"width": side, "height": side, "BIGTIFF": "IF_SAFER", "NUM_THREADS": "ALL_CPUS", **layout}
    with rasterio.open(large.with_suffix(".part"), "w", **profile) as made:
        for row in range(0, side, _BLOCK):
            rows = _mirrored(row, min(row + _BLOCK, side), values.shape[1])
            strip = values[:, rows][:, :, _mirrored(0, side, values.shape[2])]
            made.write(strip, window=Window(0, row, side, len(rows)))
    large.with_suffix(".part").rename(large)


def _mirrored(start: int, stop: int, size: int) -> npt.NDArray[np.int_]:
    """Indices into `size` values that run to and fro."""
    place = np.arange(start, stop) % (2 * size)
    return np.where(place < size, place, 2 * size - 1 - place)

"""The papers' data sets as pairs with a truth: how their folders are laid out, and nothing else.

A data set is a function from its root folder to its samples, in `DATASETS` by name. Every sample has a guide and a
truth on the same pixels; the source is made from the truth, its means over `scale` x `scale` pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import raster
from geosr.consistency import blocks_of
from geosr.errors import InputError
from geosr.grid import Window, crop
from geosr.pair import Pair
from geosr.raster_guard import show
from geosr.store import reported, scratch_folder
from geosr.writer import write_tile

Array = NDArray[np.float64]

CROP = 320
"""Side of the papers' images in pixels."""

_SCENES = (("im2.png", "disp2.png", 0.0), ("view1.png", "disp1.png", 0.0), ("im0.png", "disp0.pfm", None))
"""Image, disparities and what means unknown in Middlebury's scenes of 2003, of 2005 (and 2006), and of 2014."""

DFC2019_TILES = 6
"""Tiles whose nine crops make 54 pairs, as many as the paper has; it does not name its own."""


@dataclass(frozen=True)
class TruePair:
    """A pair, and what its source is the mean of: (s*h, s*w) float64, NaN where unknown."""

    name: str
    pair: Pair
    truth: Array


@dataclass(frozen=True)
class Sample:
    """An image of a data set.

    Attributes:
        name: of the image.
        group: the part of the data set over which a table takes its mean.
        guide: file of the sharp image.
        truth: file of what is to be found, on the same pixels.
        window: the part of both that is used; None for all.
        unknown: the value in the truth's file that means that nothing is known.
    """

    name: str
    group: str
    guide: Path
    truth: Path
    window: Window | None = None
    unknown: float | None = None

    def read(self, scale: int) -> TruePair:
        """The pair and its truth, both cut to whole source pixels.

        Raises:
            InputError: a file is refused, or guide and truth differ in size.
        """
        guide, truth = raster.describe_guide(self.guide), self._read_truth()
        if guide.shape != truth.shape:
            raise InputError(
                f"{show(self.guide)} is {_size(guide.shape)} pixels, {show(self.truth.name)} {_size(truth.shape)}; "
                "guide and truth must lie on the same pixels"
            )
        window = self.window or Window(0, 0, *guide.shape)
        image, image_valid = raster.read_guide(guide, crop(guide.geobox, window), grid=guide.geobox)
        return pool_truth(self.name, truth[window.slices], image, scale, image_valid)

    def _read_truth(self) -> Array:
        """All of it, NaN where unknown."""
        if self.truth.suffix.lower() == ".pfm":
            return read_pfm(self.truth)
        values, valid = raster.read_source(raster.describe_source(self.truth, nodata=self.unknown))
        return np.where(valid, values, np.nan)


def read_pfm(path: Path) -> Array:
    """A Portable Float Map of one band, as Middlebury 2014 has its disparities; NaN where it is not finite.

    Raises:
        InputError: it cannot be read or is none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{show(path)}: cannot be read: {error.strerror or error}") from error
    header = re.match(rb"Pf\s+(\d{1,6})\s+(\d{1,6})\s+(-?[0-9.]+)\s", data)
    if not header:
        raise InputError(f"{show(path)}: is no PFM file of one band")
    cols, rows, body = int(header[1]), int(header[2]), data[header.end() :]
    if len(body) != rows * cols * 4 or not rows * cols:
        raise InputError(f"{show(path)}: {cols} x {rows} pixels need {rows * cols * 4} bytes, it has {len(body)}")
    stored = np.frombuffer(body, "<f4" if header[3].startswith(b"-") else ">f4").reshape(rows, cols)[::-1]
    return np.where(np.isfinite(stored), stored, np.nan).astype(np.float64)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def pool_truth(
    name: str,
    truth: Array,
    guide: NDArray[np.floating],
    scale: int,
    guide_valid: NDArray[np.bool_] | None = None,
) -> TruePair:
    """A pair whose source is the truth's means over scale x scale pixels, valid where all of them are finite.

    Args:
        name: of the pair.
        truth: (rows, columns), NaN where unknown; what goes beyond whole source pixels is cut off.
        guide: (bands, rows, columns) on the same pixels.
        scale: high pixels to one source pixel along a side.
        guide_valid: (rows, columns); where the guide is finite when None.
    """
    rows, cols = (side // scale * scale for side in truth.shape)
    truth, guide = truth[:rows, :cols], guide[:, :rows, :cols].astype(np.float32)
    seen = np.isfinite(guide).all(axis=0) if guide_valid is None else guide_valid[:rows, :cols]
    means = np.asarray(blocks_of(truth, scale).mean(axis=(1, 3)))
    valid = np.isfinite(means)
    return TruePair(name, Pair(guide, seen, np.where(valid, means, 0.0), valid), truth)


def save_sample(sample: Sample, scale: int, source: Path, guide: Path) -> None:
    """Write a sample's pair, float32 without georeference, and beside the source the truth, `..._truth.tif`.

    Files that are there and no older than those they are made from are left as they are, so that a run goes on where
    it was.

    Raises:
        InputError: as `Sample.read`.
        OutputError: there is no room or no right.
    """
    truth = source.with_name(source.name.replace("_source", "_truth"))
    newest = max(path.stat().st_mtime_ns for path in (sample.guide, sample.truth))
    if all(path.exists() and path.stat().st_mtime_ns >= newest for path in (truth, guide, source)):
        return
    true = sample.read(scale)
    low = np.where(true.pair.source_valid, true.pair.source, np.nan)
    made = ((truth, true.truth[None], None), (guide, true.pair.guide, true.pair.guide_valid), (source, low[None], None))
    with reported(f"{show(source.parent)} cannot be written"):
        source.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(source) as hidden, reported(f"cannot write {source}"):
        for path, values, valid in made:
            grid = GeoBox(values.shape[1:], Affine.identity(), None)
            write_tile(hidden / path.name, values.astype(np.float32), grid, None, valid=valid)
            (hidden / path.name).replace(path)


def dfc2014(root: Path) -> dict[str, tuple[Path, Path]]:
    """Thermal (LWIR) and visible images by name: `TelopsDatasetCityLWIR*.img` with `TelopsDatasetCityVisible*.img`.

    ENVI files, anywhere below `root`, each with its `.hdr`. There is no truth. The visible mosaic's size is not five
    times the other's: only their map coordinates, from the headers, say how they lie.

    Raises:
        InputError: there are no such files, or a header is missing.
    """
    found = {
        kind: [path for path in sorted(root.rglob(f"*{kind}*.img")) if path.is_file()] for kind in ("LWIR", "Visible")
    }
    if not all(found.values()):
        counts = " and ".join(f"{len(paths)} *{kind}*.img" for kind, paths in found.items())
        raise InputError(
            f"{show(root)} holds no pair such as TelopsDatasetCityLWIR_Subset.img with "
            f"TelopsDatasetCityVisible_20cm_Subset.img; found {counts}"
        )
    for path in (*found["LWIR"], *found["Visible"]):
        if not any(header.is_file() for header in (path.with_suffix(".hdr"), path.with_name(f"{path.name}.hdr"))):
            raise InputError(f"{show(path)} has no header; its size and position are in {show(path.stem)}.hdr")
    visible = {_part(path, "Visible"): path for path in found["Visible"]}
    pairs = {path.stem: (path, visible[part]) for path in found["LWIR"] if (part := _part(path, "LWIR")) in visible}
    if not pairs:
        raise InputError(f"{show(root)}: no LWIR image is of the same part (subset or full) as a visible one")
    return pairs


def _part(path: Path, kind: str) -> tuple[str, str]:
    """What a thermal and a visible image of the same ground have in common: `_20cm` is the visible one's size."""
    before, _, after = path.stem.partition(kind)
    return before, after.replace("_20cm", "")


def middlebury(root: Path) -> list[Sample]:
    """`guide/NAME.png` and `source_hr/NAME.png`, in `root` or in folders of it (2003, 2005, 2014), each a group.

    The files may as well be of another format: any folder of pairs can be laid out so. Without such folders: scenes as
    Middlebury's site distributes them, a folder each (see `_SCENES`), grouped by the folder above. Disparities are
    taken as stored, not divided by the site's scale factors, and invalid where unknown: 0 in PNG, infinite in PFM.

    Raises:
        InputError: the folder is laid out otherwise, or an image has no counterpart.
    """
    folders = [folder for folder in (root, *sorted(root.glob("*/"))) if (folder / "source_hr").is_dir()]
    if not folders:
        return _middlebury_scenes(root)
    return [sample for folder in folders for sample in _middlebury_group(folder)]


def _middlebury_scenes(root: Path) -> list[Sample]:
    samples = [
        Sample(image.parent.name, image.resolve().parent.parent.name, image, truth, unknown=unknown)
        for name, disparity, unknown in _SCENES
        for image in sorted(root.rglob(name))
        if (truth := image.with_name(disparity)).is_file()
    ]
    if not samples:
        raise InputError(
            f"{show(root)} holds no guide/ and source_hr/ with images of the same names, nor folders such as 2003/ "
            f"that do, nor scenes with {', or '.join(f'{image} and {truth}' for image, truth, _ in _SCENES)}"
        )
    return samples


def _middlebury_group(folder: Path) -> list[Sample]:
    guides, truths = (
        {path.stem: path for path in (folder / part).glob("[!.]*.*") if path.suffix not in (".xml", ".msk")}
        for part in ("guide", "source_hr")
    )
    if alone := sorted(guides.keys() ^ truths.keys()):
        raise InputError(f"{show(folder)}: {', '.join(alone[:8])} lies in one of guide/ and source_hr/ only")
    return [Sample(name, folder.resolve().name, guides[name], truths[name]) for name in sorted(guides)]


def dfc2019(root: Path) -> list[Sample]:
    """Track 1: `CITY_TILE_VIEW_RGB.tif` and `..._AGL.tif` (metres above ground), anywhere below `root`.

    Crops of 320 x 320 without an invalid height, from the first `DFC2019_TILES` tiles, by name, of which all crops are
    so: one view each, since views do not align with each other. A list of our own.

    Raises:
        InputError: there are no such files, or no tile is whole.
    """
    heights = {path.name.removesuffix("_AGL.tif"): path for path in sorted(root.rglob("*_AGL.tif"))}
    images = {path.name.removesuffix("_RGB.tif"): path for path in sorted(root.rglob("*_RGB.tif"))}
    views = sorted(heights.keys() & images.keys())
    if not views:
        raise InputError(
            f"{show(root)} holds no pairs of Track 1, such as JAX_004_006_RGB.tif with JAX_004_006_AGL.tif; "
            f"found {len(images)} _RGB.tif and {len(heights)} _AGL.tif"
        )
    tiles = (views for _, views in groupby(views, key=lambda view: view.rpartition("_")[0]))
    whole = (
        crops for tile in tiles if (crops := next(filter(None, (_crops(v, images[v], heights[v]) for v in tile)), None))
    )
    samples = [sample for crops in islice(whole, DFC2019_TILES) for sample in crops]
    if not samples:
        raise InputError(
            f"{show(root)}: every one of its {len(views)} views has invalid heights or is under 320 pixels"
        )
    return samples


def _crops(view: str, image: Path, heights: Path) -> list[Sample]:
    """All crops of a view; none if a height in them is invalid."""
    truth = raster.describe_source(heights)
    starts = [range(0, side - CROP + 1, CROP) for side in truth.shape]
    windows = [Window(row, col, CROP, CROP) for row in starts[0] for col in starts[1]]
    if not all(raster.read_source(truth, window)[1].all() for window in windows):
        return []
    return [Sample(f"{view}_{w.row}_{w.col}", "dfc2019", image, heights, w) for w in windows]


DATASETS: dict[str, Callable[[Path], list[Sample]]] = {"middlebury": middlebury, "dfc2019": dfc2019}

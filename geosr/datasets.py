"""The papers' data sets as pairs with a truth: how their folders are laid out, and nothing else.

A data set is a function from its root folder to its samples, in `DATASETS` by name. Every sample has a guide and a
truth on the same pixels; the source is made from the truth, its means over `scale` x `scale` pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from geosr.dfc2019 import dfc2019, dfc2019_track3
from geosr.errors import InputError
from geosr.raster_guard import WORLD_ENDINGS, is_folder, show
from geosr.samples import Sample

_SCENES = (("im2.png", "disp2.png", 0.0), ("view1.png", "disp1.png", 0.0), ("im0.png", "disp0.pfm", None))
"""Image, disparities and what means unknown in Middlebury's scenes of 2003, of 2005 (and 2006), and of 2014."""


def check_root(root: Path) -> None:
    """See that a data set's root is a folder; `InputError` where it is not."""
    if not is_folder(root):
        raise InputError(f"{show(root)} is no folder; give the root of the data set")


def dfc2014(root: Path) -> dict[str, tuple[Path, Path]]:
    """Thermal (LWIR) and visible images by name: `TelopsDatasetCityLWIR*.img` with `TelopsDatasetCityVisible*.img`.

    ENVI files, anywhere below `root`, each with its `.hdr`. There is no truth. The visible mosaic's size is not five
    times the other's: only their map coordinates, from the headers, say how they lie.

    Raises:
        InputError: there are no such files, or a header is missing.
    """
    found = {
        kind: [path for path in sorted(root.rglob(f"*{kind}*.img")) if os.path.isfile(path)]
        for kind in ("LWIR", "Visible")
    }
    if not all(found.values()):
        counts = " and ".join(f"{len(paths)} *{kind}*.img" for kind, paths in found.items())
        raise InputError(
            f"{show(root)} holds no pair such as TelopsDatasetCityLWIR_Subset.img with "
            f"TelopsDatasetCityVisible_20cm_Subset.img; found {counts}"
        )
    for path in (*found["LWIR"], *found["Visible"]):
        if not any(os.path.isfile(header) for header in (path.with_suffix(".hdr"), path.with_name(f"{path.name}.hdr"))):
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
    folders = [folder for folder in (root, *sorted(root.glob("*/"))) if is_folder(folder / "source_hr")]
    if not folders:
        return _middlebury_scenes(root)
    return [sample for folder in folders for sample in _middlebury_group(folder)]


def _middlebury_scenes(root: Path) -> list[Sample]:
    samples = [
        Sample(image.parent.name, image.resolve().parent.parent.name, image, truth, unknown=unknown)
        for name, disparity, unknown in _SCENES
        for image in sorted(root.rglob(name))
        if os.path.isfile(truth := image.with_name(disparity))
    ]
    if not samples:
        raise InputError(
            f"{show(root)} holds no guide/ and source_hr/ with images of the same names, nor folders such as 2003/ "
            f"that do, nor scenes with {', or '.join(f'{image} and {truth}' for image, truth, _ in _SCENES)}"
        )
    return samples


_BESIDE = WORLD_ENDINGS | {".xml", ".msk", ".ovr", ".prj", ".hdr"}
"""Endings of what lies beside images and is none."""


def _middlebury_group(folder: Path) -> list[Sample]:
    guides, truths = (
        {path.stem: path for path in sorted((folder / part).glob("[!.]*.*")) if path.suffix.lower() not in _BESIDE}
        for part in ("guide", "source_hr")
    )
    if alone := sorted(guides.keys() ^ truths.keys()):
        raise InputError(f"{show(folder)}: {', '.join(alone[:8])} lies in one of guide/ and source_hr/ only")
    return [Sample(name, folder.resolve().name, guides[name], truths[name]) for name in sorted(guides)]


def epfl(root: Path) -> list[Sample]:
    """RGB-NIR scenes (Brown and Suesstrunk, CVPR 2011): `NAME_rgb.tiff` with `NAME_nir.tiff`, anywhere below `root`.

    Each folder (country, field, ...) is a group. The near infrared is the truth, its first band where it has several.
    The two are separate exposures: what moved between them differs.

    Raises:
        InputError: there are no such files.
    """
    images = {kind: sorted(root.rglob(f"*_{kind}.tif*")) for kind in ("rgb", "nir")}
    visible = {(path.parent, path.stem.removesuffix("_rgb")): path for path in images["rgb"]}
    samples = [
        Sample(key[1], path.resolve().parent.name, visible[key], path, band=1)
        for path in images["nir"]
        if (key := (path.parent, path.stem.removesuffix("_nir"))) in visible
    ]
    if not samples:
        raise InputError(
            f"{show(root)} holds no pair such as indoor/0001_rgb.tiff with indoor/0001_nir.tiff; found "
            f"{len(images['rgb'])} _rgb.tif(f) and {len(images['nir'])} _nir.tif(f)"
        )
    return samples


DATASETS: dict[str, Callable[[Path], list[Sample]]] = {
    "middlebury": middlebury,
    "dfc2019": dfc2019,
    "dfc2019-msi": partial(dfc2019, image="MSI"),
    "dfc2019-track3": dfc2019_track3,
    "epfl": epfl,
}

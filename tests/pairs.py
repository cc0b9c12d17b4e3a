"""Small pairs of source and guide, and the command line called on them in this process."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasters
from affine import Affine
from geosr_cli.main import run

import geosr as package


def make_pair(folder, *, size=24, scale=4, crs=rasters.UTM, guide_crs=..., step=None, shift=0.0, bands=3, **profile):
    """`source.tif` (size x size pixels of 4 m, a tilted plane with steps) and `guide.tif` in `folder`.

    Args:
        folder: where to write.
        size: source pixels a side.
        scale: guide pixels to one source pixel along a side.
        crs: of the source.
        guide_crs: of the guide; the source's when left away.
        step: guide's pixel size in metres, 4 / scale when None.
        shift: metres by which the guide lies further east.
        bands: of the guide.
        profile: further rasterio settings of the source.
    """
    step = 4 / scale if step is None else step
    row, col = np.mgrid[:size, :size]
    source = (100 + 0.1 * row + 0.01 * col + 3.0 * (col > size // 2)).astype("float32")
    side = round(4 * size / step)
    half = np.random.default_rng(0).integers(0, 100, (bands, side // 2 + 1, side // 2 + 1), dtype="uint8")
    noise = half.repeat(2, 1).repeat(2, 2)[:, :side, :side]  # texture, no noise
    noise[:, :, side // 2 :] += 100
    folder = Path(folder)
    return (
        rasters.write(folder / "source.tif", source, rasters.grid(500000, 5000000, 4), crs, **profile),
        rasters.write(
            folder / "guide.tif",
            noise,
            rasters.grid(500000 + shift, 5000000, step),
            crs if guide_crs is ... else guide_crs,
        ),
    )


def copy_of_geosr(folder, *, change="", kernels=True):
    """The package as another commit has it, or without its compiled kernels, for a PYTHONPATH that names `folder`."""
    left_out = shutil.ignore_patterns("__pycache__", *([] if kernels else ["_kernels*"]))
    shutil.copytree(Path(package.__file__).parent, folder / "geosr", ignore=left_out)
    with open(folder / "geosr/tiling.py", "a") as file:
        file.write(change)


DIVERGING = [
    "--set",
    "learning_rate=1e12",
    "--set",
    "epochs=3",
    "--set",
    "channels=4",
    "--tile",
    "112",
    "--fit",
    "tile",
]
"""Settings with which a fit fails."""


def make_corner_pair(folder):
    """`make_pair` with a source that is constant but for one corner: only the first tile needs a fit."""
    make_pair(folder, size=40)
    with rasterio.open(folder / "source.tif", "r+") as dataset:
        values = np.full((40, 40), 7, "float32")
        values[:4, :4] = np.arange(16).reshape(4, 4)
        dataset.write(values, 1)


def write_png(path, values):
    """A PNG, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rasters.write(path, values, Affine.identity(), None, driver="PNG")


def write_samples(folder, names, side=48):
    """Images as MMSR's authors distribute them: flat squares of disparity, and a guide that shows them."""
    rng = np.random.default_rng(len(names))
    for name in names:
        levels = np.kron(rng.integers(40, 200, (side // 8, side // 8)), np.ones((8, 8)))[:side, :side]
        image = np.stack([levels, 255 - levels, levels / 2]).astype("uint8")
        write_png(folder / "source_hr" / f"{name}.png", np.roll(levels, 3, axis=1).astype("uint8"))
        write_png(folder / "guide" / f"{name}.png", np.roll(image, 3, axis=2))


def write_view(folder, name, side=640, hole=False):
    """A view of DFC2019's Track 1: no CRS, identity, float heights above ground, NaN where invalid."""
    rng = np.random.default_rng(len(name))
    heights = np.kron(rng.choice([0, 0, 3, 9], (side // 20, side // 20)), np.ones((20, 20))).astype("float32")
    if hole:
        heights[5, 5] = np.nan
    for part, values in (
        ("Track1-Truth", heights),
        ("Track1-RGB", np.stack([np.nan_to_num(heights * 20).clip(0, 255)] * 3).astype("uint8")),
    ):
        kind = "AGL" if part.endswith("Truth") else "RGB"
        (folder / part).mkdir(parents=True, exist_ok=True)
        rasters.write(folder / part / f"{name}_{kind}.tif", values, Affine.identity(), None)
    return heights


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


def geosr(*arguments) -> Outcome:
    """The command line, up to its exit code, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(a) for a in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def upscale(folder, *more, source="source.tif", guide="guide.tif", output="out.tif", method="bicubic") -> Outcome:
    """`geosr upscale` on files of `folder`."""
    paths = ("--source", folder / source, "--guide", folder / guide, "-o", folder / output)
    return geosr("upscale", *paths, *(("--method", method) if method else ()), *more)


def contents(folder) -> dict[str, str]:
    """Every name below `folder`, hidden ones too, with the digest of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(Path(folder).rglob("*"))
        if not path.is_fifo()
    }

"""How well --coregister finds a known shift of the guide, and what that does to the error of a method's answer.

    PYTHONPATH=examples python benchmarks/coregister.py --data ../shared/data --shift 1.5 0 --scale 4

The source is the truth's block mean; the guide's GeoTIFF is moved by `--shift` output pixels (right, down) in its
transform, and everything goes through files. `off` is how far the shift found lies from the one made; for pairs that do
not lie on each other by themselves, from the one made and the one found as they lie. RMSE over all pixels with a
truth, in the source's units. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import scene
from affine import Affine
from numpy.typing import NDArray

import geosr
from geosr.consistency import blocks_of, spread
from geosr.options import Inputs
from geosr.scene import open_scene

Array = NDArray[np.float64]
Point = tuple[float, float]

MIDDLEBURY = ("026", "02_4", "05", "06_2", "36", "79", "88")
UNIT = Affine(1, 0, 500000, 0, -1, 5000000)


@dataclass(frozen=True)
class Case:
    """A truth and a guide on the same ground.

    Attributes:
        name: for the table.
        truth: (rows, columns), NaN where invalid, on `affine`.
        affine: of the truth.
        guide: (bands, rows, columns), NaN where invalid, on `guide_affine`.
        guide_affine: of the guide, as it lies.
    """

    name: str
    truth: Array
    affine: Affine
    guide: Array
    guide_affine: Affine


def read(path: Path) -> tuple[Array, Affine]:
    """All bands with NaN where invalid, and the affine."""
    with rasterio.open(path) as raster:
        values = raster.read().astype(np.float64)
        missing = ~np.isfinite(values)
        if raster.nodata is not None:
            missing |= np.isclose(values, raster.nodata, rtol=1e-6)
        return np.where(missing, np.nan, values), raster.transform


def cases(data: Path, folder: Path) -> Iterator[Case]:
    """The pairs with a truth, in the order of the table."""
    for name in MIDDLEBURY:
        (truth, *_), _ = read(data / f"middlebury/source_hr/{name}.png")
        yield Case(name, truth, UNIT, read(data / f"middlebury/guide/{name}.png")[0][:3], UNIT)
    made = scene.make_scene(folder / "scene", seed=3, size=320)
    for name in ("dsm", "thermal"):
        truths, affine = read(made[f"truth_{name}"])
        yield Case(f"synthetic {name}", truths[0], affine, *read(made["ortho"]))
    for name in ("vhm_0_1", "depth_0"):
        with np.load(data / f"p2p/{name}.npz") as file:
            for index, (truth, guide) in enumerate(zip(file["source_hr"], file["guide"], strict=True)):
                yield Case(f"{name} {index}", truth.astype(np.float64), UNIT, guide.astype(np.float64), UNIT)
    yield _files("kootenay", data / "kootenay/kootenayCHM.tif", data / "kootenay/kootenayOrtho_from_rda.tif")
    neon = "2019_BART_5_320000_4881000_image_crop.tif", "NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif"
    yield _files("neon_bart", *(data / "neon_bart" / name for name in reversed(neon)))
    orchard = data / "aurea_orchard"
    yield _files("aurea thermal", orchard / "thermal.tif", orchard / "20180714_drone_ms4c_p.tif")
    heights = _files("aurea dsm", orchard / "20180714_drone_dsm.tif", orchard / "20180714_drone_ms4c_p.tif")
    yield Case(
        "aurea dsm",
        pooled(heights.truth, 2),
        heights.affine * Affine.scale(2),
        *read(orchard / "20180714_drone_ms4c_p.tif"),
    )
    yield _files("columbus_nocrs", data / "columbus_nocrs/dsm.tif", data / "columbus_nocrs/ortho_rgb.tif")
    vineyard = data / "pytseb_vineyard"
    kelvin = _files("pytseb", vineyard / "ExampleImage_Trad_am.tif", vineyard / "ExampleImage_LAI.tif")
    yield Case("pytseb", np.where(kelvin.truth > 250, kelvin.truth, np.nan), kelvin.affine, kelvin.guide, kelvin.affine)


def _files(name: str, truth: Path, guide: Path) -> Case:
    values, affine = read(truth)
    return Case(name, values[0], affine, *read(guide))


def pooled(values: Array, scale: int) -> Array:
    """Block means, NaN where a block is not whole."""
    rows, cols = (side // scale * scale for side in values.shape)
    return np.asarray(blocks_of(values[:rows, :cols], scale).mean(axis=(1, 3)))


def write(path: Path, values: Array, affine: Affine) -> Path:
    """A float32 GeoTIFF with NaN as nodata."""
    profile = {"driver": "GTiff", "dtype": "float32", "count": len(values), "nodata": np.nan, "crs": "EPSG:32633"}
    size = {"height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(path, "w", **profile, **size, transform=affine) as out:
        out.write(values.astype(np.float32))
    return path


def trial(case: Case, scale: int, folder: Path, shift: Point) -> Inputs:
    """The pair's files, with the guide moved by `shift` (right, down) in output pixels."""
    source = write(folder / "source.tif", pooled(case.truth, scale)[None], case.affine * Affine.scale(scale))
    there = case.affine * Affine.translation(*shift) * ~case.affine
    return Inputs(source, write(folder / "guide.tif", case.guide, there * case.guide_affine), scale, coregister=True)


def rmse(case: Case, inputs: Inputs, method: str, coregister: bool) -> float:
    """Of the method's answer."""
    answer = geosr.upscale(
        inputs.source, inputs.guide, inputs.scale, method, workers=1, coregister=coregister
    ).to_numpy()
    rows, cols = answer.shape
    known = spread(np.isfinite(pooled(case.truth, inputs.scale)), inputs.scale)
    return float(np.sqrt(np.mean((answer.astype(np.float64) - case.truth[:rows, :cols])[known] ** 2)))


def rows(case: Case, scale: int, shifts: list[Point], method: str, folder: Path) -> Iterator[list[str]]:
    """Lines of the table: the pair as it lies, then shifted."""
    own = aligned = None
    for shift in [(0.0, 0.0), *shifts]:
        inputs = trial(case, scale, folder, shift)
        start = time.perf_counter()
        found = open_scene(inputs).shift
        seconds = time.perf_counter() - start
        assert found is not None
        position = np.array([found.cols, found.rows])
        own = position if own is None else own
        before = rmse(case, inputs, method, coregister=False)
        aligned = before if aligned is None else aligned
        after = rmse(case, inputs, method, coregister=True) if any(found.applied) else before
        yield [
            f"{case.name} x{scale}",
            f"{shift[0]:g}, {shift[1]:g}",
            f"{position[0]:+.2f}, {position[1]:+.2f}",
            f"{np.hypot(*(position - shift)):.2f}",
            f"{np.hypot(*(position - own - shift)):.2f}",
            f"{found.error:.2f}",
            f"{found.confidence:.0%}" + (f", {found.obstacle}" if found.obstacle else ""),
            f"{aligned:.3f}",
            f"{before:.3f}",
            f"{after:.3f}",
            f"{after / aligned - 1:+.1%}",
            f"{seconds:.1f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real rasters")
    parser.add_argument("--scale", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--shift", type=float, nargs=2, action="append", metavar=("RIGHT", "DOWN"), default=None)
    parser.add_argument("--method", default="diffusion", help="whose answer is measured; mmsr is the default's")
    parser.add_argument("--only", nargs="*", help="names of pairs")
    arguments = parser.parse_args()
    shifts = [(right, down) for right, down in arguments.shift or [(1.5, 0.0), (1.1, -0.7), (-2.3, 3.1)]]
    heads = "pair|moved by|found|off|off its own|error|confidence|as it lies|moved|coregistered|to as it lies|s"
    print(f"| {heads.replace('|', ' | ')} |\n{'|---' * 12}|")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(arguments.data, Path(folder)):
            for scale in arguments.scale:
                if not arguments.only or case.name in arguments.only:
                    for cells in rows(case, scale, shifts, arguments.method, Path(folder)):
                        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""The main job on a synthetic scene, scored and drawn: `python demo.py FOLDER` (what `make demo` runs)."""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import rasterio
from helpers import parse, read, report, set_options, upscale
from scene import make_scene

mpl.use("Agg")
from matplotlib import pyplot as plt


def read_colours(path: Path, like: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The photo's part that lies over another raster, as rows x columns x RGB."""
    with rasterio.open(path) as photo, rasterio.open(like) as raster:
        window = photo.window(*raster.bounds)
        return np.moveaxis(photo.read(window=window.round_offsets().round_lengths()), 0, -1)


def draw(path: Path, files: dict[str, Path], errors: tuple[float, float]) -> None:
    """Guide, source, truth; result and bicubic; and their error maps, in one picture."""
    source, result, bicubic, truth = (read(files[name]) for name in ("dsm", "result", "bicubic", "truth_dsm"))
    low, high = np.percentile(truth.compressed(), (0.5, 99.5))
    heights = {"cmap": "viridis", "vmin": low, "vmax": high}
    off = {"cmap": "RdBu_r", "vmin": -2, "vmax": 2}
    figure, axes = plt.subplots(2, 4, figsize=(19, 9.6), layout="constrained")
    axes[0, 0].imshow(read_colours(files["ortho"], files["dsm"]))
    panels = (
        (axes[0, 1], source, heights, "source: dsm.tif, 2 m"),
        (axes[0, 2], bicubic, heights, "bicubic, 0.5 m"),
        (axes[0, 3], bicubic - truth, off, f"bicubic - truth: RMSE {errors[1]:.2f} m"),
        (axes[1, 1], truth, heights, "truth, 0.5 m"),
        (axes[1, 2], result, heights, "geosr, 0.5 m"),
        (axes[1, 3], result - truth, off, f"geosr - truth: RMSE {errors[0]:.2f} m"),
    )
    for axis, values, style, title in panels:
        image = axis.imshow(values, interpolation="nearest", **style)
        axis.set_title(title)
        figure.colorbar(image, ax=axis, shrink=0.8, label="m")
    axes[0, 0].set_title("guide: ortho.tif, 0.3 m")
    shade = np.ma.hypot(*np.gradient(result.filled(np.nan)))
    axes[1, 0].imshow(shade, cmap="gray_r", vmin=0, vmax=2, interpolation="nearest")
    axes[1, 0].set_title("geosr: steps between pixels")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Make the scene, run the command, print the errors, draw the picture."""
    options = parse("Run the main job on a synthetic scene and show how it did.", size=320)
    folder: Path = options.folder
    start = time.perf_counter()
    print(f"Making a scene in {folder} ...", flush=True)
    files = make_scene(folder, seed=options.seed, size=options.size)
    files["result"], files["bicubic"] = folder / "result.tif", folder / "bicubic.tif"
    upscale(files["dsm"], files["ortho"], files["result"], *set_options(options.settings))
    upscale(files["dsm"], files["ortho"], files["bicubic"], "--method", "bicubic", "--quiet")
    errors = report(files["result"], files["bicubic"], files["truth_dsm"], "m")
    draw(folder / "demo.png", files, errors)
    print(f"Picture: {folder / 'demo.png'}; {time.perf_counter() - start:.0f} s in all.")


if __name__ == "__main__":
    main()

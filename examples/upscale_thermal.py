"""Temperatures from 2 m to 0.5 m with an orthophoto: `python upscale_thermal.py FOLDER`.

The values are degrees Celsius before and after, and the file says so: the unit travels with the band.
"""

from __future__ import annotations

import rasterio
from helpers import parse, report, set_options, upscale
from scene import make_scene


def main() -> None:
    """Make a scene, upscale its thermal band with the photo and without, and compare with the truth."""
    options = parse("Upscale a thermal band with an orthophoto.", size=128)
    scene = make_scene(options.folder, seed=options.seed, size=options.size)

    output = options.folder / "thermal_mmsr.tif"
    upscale(scene["thermal"], scene["ortho"], output, *set_options(options.settings))
    bicubic = options.folder / "thermal_bicubic.tif"
    upscale(scene["thermal"], scene["ortho"], bicubic, "--method", "bicubic", "--quiet")

    report(output, bicubic, scene["truth_thermal"], "degrees Celsius")
    with rasterio.open(output) as raster:
        print(f"unit of the output: {raster.units[0]}")


if __name__ == "__main__":
    main()

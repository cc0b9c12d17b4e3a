"""Heights from 2 m to 0.5 m with an orthophoto, on the command line: `python upscale_dem.py FOLDER`."""

from __future__ import annotations

from helpers import parse, report, set_options, upscale
from scene import make_scene


def main() -> None:
    """Make a scene, upscale its surface model with the photo and without, and compare with the truth."""
    options = parse("Upscale a surface model with an orthophoto.", size=128)
    scene = make_scene(options.folder, seed=options.seed, size=options.size)

    # The job. Every pixel of dsm.tif is the mean of the 4 x 4 pixels of dsm_mmsr.tif that lie in it.
    output = options.folder / "dsm_mmsr.tif"
    upscale(scene["dsm"], scene["ortho"], output, *set_options(options.settings))

    # For comparison: the same without the photo's help.
    bicubic = options.folder / "dsm_bicubic.tif"
    upscale(scene["dsm"], scene["ortho"], bicubic, "--method", "bicubic", "--quiet")

    report(output, bicubic, scene["truth_dsm"], "m")


if __name__ == "__main__":
    main()

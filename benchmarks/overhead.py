"""What the pipeline costs around a method: geosr with a trivial one against rio warp and rio cogeo, in turns.

    PYTHONPATH=examples python benchmarks/overhead.py FOLDER --size 10000 --rounds 3

`plain` is `rio warp --resampling cubic` of the source to the output's grid and `rio cogeo create` with the same
compression and threads, and `geosr upscale --method bicubic` does the same with tiles, blending and consistency.
`with the guide` adds `rio warp --resampling average` of the guide to that grid, and geosr reads and aligns the guide,
too, for the same bicubic method. Wall and CPU seconds; the ratios are the medians over the rounds. Inputs are
made in FOLDER once and stay there; outputs are removed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import rasterio
from large_pair import SCALE, make_pairs
from scale import Cost, upscale, watch

from geosr.methods.classic import Interpolation
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file

_THREADS = "2"


def rio_commands(source: Path, output: Path) -> list[list[str | Path]]:
    """The source warped, and made a COG as geosr writes it."""
    with rasterio.open(source) as given:
        step = given.res[0] / SCALE
    rio, warped = Path(sys.executable).parent / "rio", output.with_name("warped.tif")
    warp: list[str | Path] = [
        rio,
        "warp",
        source,
        warped,
        "--resampling",
        "cubic",
        "--res",
        str(step),
        "--threads",
        _THREADS,
    ]
    layout = ["--cog-profile", "deflate", "--co", "PREDICTOR=3", "--overview-resampling", "average"]
    cog: list[str | Path] = [rio, "cogeo", "create", warped, output, *layout, "--threads", _THREADS, "--quiet"]
    return [[*warp, "--overwrite"], cog]


def rio_guide(guide: Path, output: Path) -> list[list[str | Path]]:
    """The guide warped onto the grid of the warped source."""
    rio, like = Path(sys.executable).parent / "rio", output.with_name("warped.tif")
    warped = output.with_name("warped_guide.tif")
    options: list[str | Path] = ["--resampling", "average", "--like", like, "--threads", _THREADS, "--overwrite"]
    return [[rio, "warp", guide, warped, *options]]


def total(commands: Sequence[Sequence[str | Path]]) -> Cost:
    costs = [watch(command) for command in commands]
    walls, processors = sum(cost.wall for cost in costs), sum(cost.processor for cost in costs)
    return Cost(walls, processors, max(cost.memory for cost in costs))


def upscale_guided(source: Path, guide: Path, output: Path) -> None:
    """Bicubic as if it used the guide: the same answer, and the guide is read, aligned and normalised."""
    with mock.patch("geosr.methods.classic.create_bicubic", return_value=Interpolation("bicubic", 2, uses_guide=True)):
        execution = Execution(workers=int(_THREADS), overwrite=True)
        upscale_file(Inputs(source, guide, SCALE), Recipe(method="bicubic"), execution, output)


def compare(name: str, ours: list[list[str | Path]], theirs: list[list[str | Path]], rounds: int) -> None:
    """Print both in turns."""
    pairs = []
    for _ in range(rounds):
        pairs.append((total(ours), total(theirs)))
        mine, other = pairs[-1]
        print(
            f"{name}: geosr {mine.wall:.1f} s, processor {mine.processor:.1f} s, {mine.memory / 1e6:.0f} MB; "
            f"rio {other.wall:.1f} s, processor {other.processor:.1f} s, {other.memory / 1e6:.0f} MB",
            flush=True,
        )
    wall = statistics.median(mine.wall / other.wall for mine, other in pairs)
    processor = statistics.median(mine.processor / other.processor for mine, other in pairs)
    print(f"{name}: {wall:.2f} times the time, {processor:.2f} times the processor's", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=10000, help="output pixels a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only-guided", action="store_true", help="one guided run by itself, as the benchmark calls it"
    )
    arguments = parser.parse_args()
    folder = arguments.folder
    make_pairs(folder, [arguments.size])
    source, guide, output = folder / f"source_{arguments.size}.tif", folder / "guide.tif", folder / "out.tif"
    if arguments.only_guided:
        return upscale_guided(source, guide, output)
    plain = rio_commands(source, output)
    guided = [sys.executable, __file__, str(folder), "--size", str(arguments.size), "--only-guided"]
    options = ("--method", "bicubic", "--workers", _THREADS)
    compare("plain", [upscale(source, guide, output, *options)], plain, arguments.rounds)
    compare("with the guide", [[*guided]], [*plain, *rio_guide(guide, output)], arguments.rounds)
    for left in (output, output.with_name("warped.tif"), output.with_name("warped_guide.tif")):
        left.unlink()
    return None


if __name__ == "__main__":
    main()

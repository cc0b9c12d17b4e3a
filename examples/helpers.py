"""What the examples share: their options, running `geosr upscale`, and scoring against the truth."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import rasterio
from scene import add_scene_options


def parse(description: str, size: int) -> argparse.Namespace:
    """The options of an example: FOLDER, --seed, --size, and --set to change the method's settings."""
    parser = argparse.ArgumentParser(description=description)
    add_scene_options(parser, size)
    text = "a setting of the method, such as epochs=20 (may be given more than once)"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help=text)
    return parser.parse_args()


def upscale(source: Path, guide: Path, output: Path, *options: str) -> Path:
    """Run `geosr upscale` as a person would, with the command shown; leaves with its exit code on failure."""
    files = ("--source", str(source), "--guide", str(guide), "--scale", "4", "-o", str(output), "--overwrite")
    command = ("upscale", *files, *options)
    print(f"\n$ geosr {shlex.join(command)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "geosr", *command], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return output


def set_options(settings: list[str]) -> list[str]:
    """`--set` for each of the settings."""
    return [part for setting in settings for part in ("--set", setting)]


def read(path: Path) -> np.ma.MaskedArray[tuple[int, int], np.dtype[np.float64]]:
    """The first band as float64, nodata masked."""
    with rasterio.open(path) as raster:
        return np.ma.masked_invalid(raster.read(1, masked=True).astype(np.float64))


def rmse(values: np.ma.MaskedArray, truth: np.ma.MaskedArray) -> float:
    """The root of the mean squared error where both are valid."""
    return float(np.sqrt(np.ma.mean((values - truth) ** 2)))


def report(result: Path, bicubic: Path, truth: Path, unit: str) -> tuple[float, float]:
    """Print and return both errors, on the pixels that are valid in all three rasters."""
    ours, plain, real = (read(path) for path in (result, bicubic, truth))
    ours.mask, plain.mask = (np.ma.getmaskarray(ours) | np.ma.getmaskarray(plain),) * 2
    errors = rmse(ours, real), rmse(plain, real)
    print(f"\nRMSE against the truth: {errors[0]:.3f} {unit}; bicubic: {errors[1]:.3f} {unit}", flush=True)
    return errors

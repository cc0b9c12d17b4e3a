"""The examples run as the README says, and what they print is true."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, folder, *options):
    command = [sys.executable, str(EXAMPLES / script), str(folder), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, cwd=folder).stdout


def rmse(folder, result, truth):
    """Recomputed from the written files."""
    with rasterio.open(folder / result) as a, rasterio.open(folder / truth) as b:
        values, real = (file.read(1, masked=True).astype(np.float64) for file in (a, b))
    return float(np.sqrt(np.ma.mean((values - real) ** 2)))


@pytest.mark.parametrize(("script", "kind"), [("upscale_dem.py", "dsm"), ("upscale_thermal.py", "thermal")])
def test_example_prints_both_errors_against_the_truth(script, kind, tmp_path):
    printed = run(script, tmp_path, "--size", "64", "--set", "epochs=3")
    told = re.search(r"RMSE against the truth: (\S+) \D*; bicubic: (\S+) ", printed).groups()
    expected = [rmse(tmp_path, f"{kind}_{method}.tif", f"truth_{kind}.tif") for method in ("mmsr", "bicubic")]
    assert [float(number) for number in told] == pytest.approx(expected, abs=5e-4)


def test_the_python_example_prints_the_error_of_the_raster_it_writes(tmp_path):
    printed = run("python_api.py", tmp_path, "--size", "64", "--set", "epochs=3")
    ours, bicubic = (float(number) for number in re.findall(r": RMSE (\S+) m", printed))
    assert ours == pytest.approx(rmse(tmp_path, "api_mmsr.tif", "truth_dsm.tif"), abs=5e-3)
    assert 0 < bicubic < 10


def test_demo_prints_both_errors_and_draws(tmp_path):
    printed = run("demo.py", tmp_path, "--size", "64", "--set", "epochs=3")
    assert re.search(r"RMSE against the truth: \d+\.\d+ m; bicubic: \d+\.\d+ m", printed)
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    with rasterio.open(tmp_path / "result.tif") as result, rasterio.open(tmp_path / "truth_dsm.tif") as truth:
        assert (result.shape, result.transform, result.crs) == (truth.shape, truth.transform, truth.crs)

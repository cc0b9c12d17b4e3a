"""The examples run as the README says, and what they print is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, folder, *options):
    command = [sys.executable, str(EXAMPLES / script), str(folder), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, cwd=folder).stdout


@pytest.mark.parametrize("script", ["upscale_dem.py", "upscale_thermal.py", "python_api.py"])
def test_example_runs_and_reports_an_error_against_the_truth(script, tmp_path):
    printed = run(script, tmp_path, "--size", "64", "--set", "epochs=3")
    assert all(0 < float(number) < 10 for number in re.findall(r"(\d+\.\d+) (?:m|°C|deg)", printed))
    assert re.search(r"RMSE", printed)


def test_demo_prints_both_errors_and_draws(tmp_path):
    printed = run("demo.py", tmp_path, "--size", "64", "--set", "epochs=3")
    assert re.search(r"RMSE against the truth: \d+\.\d+ m; bicubic: \d+\.\d+ m", printed)
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    with rasterio.open(tmp_path / "result.tif") as result, rasterio.open(tmp_path / "truth_dsm.tif") as truth:
        assert (result.shape, result.transform, result.crs) == (truth.shape, truth.transform, truth.crs)

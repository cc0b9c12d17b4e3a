"""The wheel, used from an empty directory, is the whole command."""

import subprocess
import sys
import zipfile
from pathlib import Path

import rasterio
from pairs import make_pair

ROOT = Path(__file__).parents[1]


def test_the_wheel_works_from_an_empty_directory(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=600)
    (wheel,) = (tmp_path / "dist").glob("geosr-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        assert not [name for name in archive.namelist() if name.startswith(("tests", "cli/", "benchmarks"))]
    empty = tmp_path / "empty"
    empty.mkdir()
    make_pair(empty)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import geosr, geosr_cli.main as command\n"
        f"assert geosr.__file__.startswith({str(tmp_path / 'site')!r})\n"
        "command.main()"
    )
    options = ["upscale", "--source", "source.tif", "--guide", "guide.tif", "-o", "out.tif", "--set", "epochs=2"]
    options += ["--report", "report.html"]  # made of files that are no modules
    subprocess.run([sys.executable, "-c", code, *options], check=True, cwd=empty, timeout=600)
    assert (empty / "report.html").stat().st_size > 30_000
    with rasterio.open(empty / "out.tif") as made, rasterio.open(empty / "source.tif") as source:
        assert made.shape == tuple(4 * side for side in source.shape)

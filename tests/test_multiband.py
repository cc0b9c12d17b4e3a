"""All bands in one run: each as a run of its own makes it, in one file, the guide read once."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from outputs import block_means, check_cog, opened, physical
from pairs import DIVERGING, contents, geosr, make_pair, upscale
from rasters import grid, write

from geosr import raster
from geosr.bands import ALL
from geosr.errors import OutOfMemoryError, UsageError
from geosr.events import Note, Progress
from geosr.methods.classic import Interpolation
from geosr.multiband import upscale_bands
from geosr.options import Execution, Inputs, Recipe

WAVELENGTHS = (7.8, 8.153, 9.4)


def make_cube(folder, *, size=24, **profile):
    """`make_pair` with three bands in an ENVI image that gives their wavelengths; the guide in another CRS."""
    source, _ = make_pair(folder, size=size, guide_crs="EPSG:32632", step=0.9)
    plane = physical(source)
    cube = np.stack([plane, plane[::-1] * 2, plane[:, ::-1] - 50]).astype("float32")
    cube[:, 3, 4] = np.nan
    path = write(folder / "cube.img", cube, grid(500000, 5000000, 4), driver="ENVI", **profile)
    listed = ", ".join(map(str, WAVELENGTHS))
    with path.with_suffix(".hdr").open("a") as header:
        header.write(f"wavelength units = Micrometers\nwavelength = {{{listed}}}\n")
    return path, folder / "guide.tif", cube


def test_each_band_is_that_of_a_run_of_its_own(tmp_path):
    *_, cube = make_cube(tmp_path)
    files = {"source": "cube.img", "method": "diffusion"}
    done = upscale(tmp_path, "--band", "all", **files, output="all.tif")
    assert done.code == 0, done.err
    assert "3 bands" in done.err
    check_cog(tmp_path / "all.tif")
    with rasterio.open(tmp_path / "all.tif") as made:
        assert made.descriptions == ("7.8 um", "8.153 um", "9.4 um")
        assert (made.transform, made.shape) == (grid(500000, 5000000, 1), (96, 96))
        values, tags = made.read(), made.tags()
        errors = [float(made.tags(band)["GEOSR_EXPECTED_ERROR"]) for band in (1, 2, 3)]
        assert [made.tags(band)["wavelength"] for band in (1, 2, 3)] == [str(each) for each in WAVELENGTHS]
    assert (tags["GEOSR_GUIDE"], tags["GEOSR_SOURCE"], tags["GEOSR_BAND"]) == ("guide.tif", "cube.img", "all")
    assert tags["GEOSR_METHOD"] == "diffusion"
    for band, (one, given) in enumerate(zip(values, cube, strict=True), 1):
        name = f"{band}.tif"
        assert upscale(tmp_path, "--band", band, **files, output=name).code == 0
        np.testing.assert_array_equal(one, physical(tmp_path / name).astype("float32"))
        np.testing.assert_allclose(block_means(one.astype(float), 4), given, rtol=1e-6)
        with rasterio.open(tmp_path / name) as alone:
            assert float(alone.tags()["GEOSR_EXPECTED_ERROR"]) == errors[band - 1]


def test_a_part_of_an_averaged_source(tmp_path):
    make_cube(tmp_path)
    part = ("--native-resolution", 8, "--bounds", 500010, 4999930, 500070, 4999990)
    files = {"source": "cube.img", "method": "diffusion"}
    assert upscale(tmp_path, "--band", "all", *part, **files, output="all.tif").code == 0
    assert upscale(tmp_path, "--band", 2, *part, **files, output="2.tif").code == 0
    with rasterio.open(tmp_path / "all.tif") as made, rasterio.open(tmp_path / "2.tif") as alone:
        assert (made.transform, made.tags()["GEOSR_POOLED"]) == (alone.transform, "2 x 2")
        np.testing.assert_array_equal(made.read(2), alone.read(1))


def test_images_without_georeference(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("cube.tif", (2, 20, 20)), ("guide.tif", (3, 80, 80))):
        write(tmp_path / name, rng.integers(0, 255, shape).astype("uint8"), Affine.identity(), None)
    for part in ((), ("--bounds", 4, 4, 12, 12)):
        files = {"source": "cube.tif", "method": "bicubic"}
        assert upscale(tmp_path, "--band", "all", "--overwrite", *part, **files, output="all.tif").code == 0
        assert upscale(tmp_path, "--band", 2, "--overwrite", *part, **files, output="2.tif").code == 0
        with opened(tmp_path / "all.tif") as made, opened(tmp_path / "2.tif") as alone:
            assert made.transform == alone.transform
            np.testing.assert_array_equal(made.read(2), alone.read(1))


@pytest.mark.usefixtures("guided_bicubic")
def test_the_guide_is_brought_onto_the_grid_once(tmp_path, monkeypatch):
    source, guide, _ = make_cube(tmp_path)
    read = []
    warp = raster.read_guide

    def counted(file, target, **options):
        read.append((file.path, target.shape))
        return warp(file, target, **options)

    monkeypatch.setattr(raster, "read_guide", counted)
    inputs = Inputs(source, guide, 4, band=ALL)
    upscale_bands(inputs, Recipe(method="bicubic", tile=64), Execution("cpu", 1), tmp_path / "all.tif")
    assert sum(shape[0] * shape[1] for path, shape in read if path == guide) == 96 * 96


def test_an_interrupted_run_goes_on_with_the_next_band(tmp_path):
    source, guide, _ = make_cube(tmp_path, size=40)
    inputs, recipe = Inputs(source, guide, 4, band=ALL), Recipe(method="bicubic", tile=96)
    whole = tmp_path / "whole.tif"
    upscale_bands(inputs, recipe, Execution("cpu", 1), whole)
    events = []

    def interrupt(event):
        events.append(event)
        started = [each.text for each in events if isinstance(each, Note)]
        if isinstance(event, Progress) and event.done == 2 and "band 2, 2 of 3" in started:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_bands(inputs, recipe, Execution("cpu", 1, on_event=interrupt), tmp_path / "all.tif")
    (kept,) = tmp_path.glob(".all.tif-*.geosr")
    (first,) = kept.glob("bands/band0001.tif")
    before = first.stat().st_mtime_ns
    begun = []

    def look(event):
        if isinstance(event, Progress) and event.rate is None:
            begun.append(event.done)
            assert first.stat().st_mtime_ns == before

    upscale_bands(inputs, recipe, Execution("cpu", 1, on_event=look), tmp_path / "all.tif")
    assert begun == [2, 0]  # the second band with its two tiles, then the third
    assert (tmp_path / "all.tif").read_bytes() == whole.read_bytes()
    assert not [*tmp_path.glob(".all*")]
    assert sorted(path for path in contents(tmp_path) if path.startswith(".")) == []


def turned(path):
    """The raster upside down: a file that reads well and holds other values."""
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.write(dataset.read()[:, ::-1])


def halved(path):
    os.truncate(path, path.stat().st_size // 2)


def flipped(path):
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["band0001.tif", "guide.tif"])
@pytest.mark.parametrize("spoil", [turned, flipped, halved, Path.unlink])
def test_a_finished_band_or_guide_that_is_not_as_it_was_written_is_made_anew(name, spoil, tmp_path):
    source, guide, _ = make_cube(tmp_path)
    inputs, recipe = Inputs(source, guide, 4, band=ALL), Recipe(method="guided-filter", tile=96)
    upscale_bands(inputs, recipe, Execution("cpu", 1), tmp_path / "whole.tif")

    def interrupt(event):
        if isinstance(event, Note) and event.text == "band 2, 2 of 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_bands(inputs, recipe, Execution("cpu", 1, on_event=interrupt), tmp_path / "all.tif")
    (file,) = tmp_path.glob(f".all.tif-*.geosr/bands/{name}")
    spoil(file)
    said = []
    upscale_bands(inputs, recipe, Execution("cpu", 1, on_event=said.append), tmp_path / "all.tif")
    what = {"band0001.tif": "band 1", "guide.tif": "the guide"}[name]
    told = f"continuing an earlier run: {what} is missing or damaged and is recomputed"
    assert [event.text for event in said if isinstance(event, Note)].count(told) == 1
    assert (tmp_path / "all.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


class Failing(Interpolation):
    """Bilinear that has no answer for the first two tiles that it is asked for, attempts counted."""

    left = 2

    def predict(self, patch, state, device):
        if Failing.left:
            Failing.left -= 1
            raise OutOfMemoryError("out of memory")
        return super().predict(patch, state, device)


def test_a_band_with_interpolated_tiles_is_made_anew_where_they_may_not_be(tmp_path, monkeypatch):
    source, guide, _ = make_cube(tmp_path)
    inputs, recipe = Inputs(source, guide, 4, band=ALL), Recipe(method="bilinear", tile=96)
    upscale_bands(inputs, recipe, Execution("cpu", 1), tmp_path / "whole.tif")
    failing = Failing("bilinear", 1)
    monkeypatch.setattr("geosr.methods.classic.create_bilinear", lambda preset, settings: failing)

    def interrupt(event):
        if isinstance(event, Note) and event.text == "band 2, 2 of 3":
            raise KeyboardInterrupt

    first = Execution("cpu", 1, on_tile_error="interpolate", on_event=interrupt)
    with pytest.raises(KeyboardInterrupt):
        upscale_bands(inputs, recipe, first, tmp_path / "all.tif")
    assert Failing.left == 0
    (band,) = tmp_path.glob(".all.tif-*.geosr/bands/band0001.tif")
    with rasterio.open(band) as made:
        assert "GEOSR_INTERPOLATED_TILES" in made.tags()
    assert upscale_bands(inputs, recipe, Execution("cpu", 1), tmp_path / "all.tif").interpolated == 0
    assert (tmp_path / "all.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_a_batch_and_the_python_call(tmp_path):
    source, guide, cube = make_cube(tmp_path)
    (tmp_path / "pairs.csv").write_text("source,guide\ncube.img,guide.tif\n")
    pairs = ("--manifest", tmp_path / "pairs.csv", "-o", tmp_path / "out/{stem}.tif", "--method", "diffusion")
    planned = geosr("batch", *pairs, "--band", "all", "--dry-run")
    assert "1 to do" in planned.out
    assert geosr("batch", *pairs, "--band", "all").code == 0
    assert "1 skipped" in geosr("batch", *pairs, "--band", "all").out
    assert "made otherwise (band)" in geosr("batch", *pairs, "--band", "2").out
    with rasterio.open(tmp_path / "out/cube.tif") as made:
        values = made.read()
    import geosr as package

    found = package.upscale(source, guide, 4, "diffusion", band="all")
    assert found.dims == ("band", "y", "x")
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(np.isnan(values[:, ::4, ::4]), np.isnan(cube))


def test_a_batch_remembers_which_bands_hold_interpolated_tiles(tmp_path):
    """Only the second band's fit fails: the first and the third are constant, and need none."""
    make_pair(tmp_path, size=40)
    varied = physical(tmp_path / "source.tif")
    flat = np.full_like(varied, 7)
    cube = np.stack([flat, varied, flat]).astype("float32")
    write(tmp_path / "cube.tif", cube, grid(500000, 5000000, 4))
    (tmp_path / "pairs.csv").write_text("source,guide\ncube.tif,guide.tif\n")
    pairs = ("--manifest", tmp_path / "pairs.csv", "-o", tmp_path / "out/{stem}.tif", "--method", "mmsr")
    options = (*pairs, *DIVERGING, "--band", "all", "--on-tile-error", "interpolate")
    first = geosr("batch", *options)
    assert first.code == 5
    assert "1 done" in first.out
    with rasterio.open(tmp_path / "out/cube.tif") as made:
        assert made.tags()["GEOSR_INTERPOLATED_TILES"].startswith("band 2: tile 0 (row 0, column 0), tile 1")
    again = geosr("batch", *options)
    assert again.code == 5
    assert "1 skipped" in again.out
    assert "hold the interpolated source: band 2: tile 0" in again.out


def test_refusals(tmp_path):
    source, guide, _ = make_cube(tmp_path)
    inputs = Inputs(source, guide, 4, band=ALL)
    for beside in ({"report": tmp_path / "r.json"}, {"style": True}, {"uncertainty": tmp_path / "u.tif"}):
        with pytest.raises(UsageError, match="need one --band"):
            upscale_bands(inputs, Recipe(method="bicubic"), Execution("cpu", 1, **beside), tmp_path / "all.tif")
    refused = geosr("tile", source, guide, "--band", "all", "-o", tmp_path / "tiles")
    assert (refused.code, "one band is needed here" in refused.err) == (2, True)
    assert "settings" in upscale(tmp_path, "--band", "all", "--dry-run", source="cube.img", method="diffusion").out
    (tmp_path / "all.tif").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        upscale_bands(inputs, Recipe(method="bicubic"), Execution("cpu", 1), tmp_path / "all.tif")
    assert (tmp_path / "all.tif").read_text() == "mine"


@pytest.mark.parametrize("beside", [("--report", "r.json"), ("--style",), ("--uncertainty", "u.tif")])
def test_a_dry_run_refuses_what_the_run_would(beside, tmp_path, monkeypatch):
    make_cube(tmp_path)
    monkeypatch.chdir(tmp_path)
    done, dry = (upscale(tmp_path, "--band", "all", *beside, *more, source="cube.img") for more in ((), ("--dry-run",)))
    assert (dry.code, dry.err) == (2, done.err)
    assert "need one --band" in dry.err


def test_a_dry_run_sees_that_the_bands_cannot_go_into_one_file(tmp_path):
    make_pair(tmp_path)
    plane = physical(tmp_path / "source.tif").astype("float32")
    write(tmp_path / "cube.tif", np.stack([plane, plane]), grid(500000, 5000000, 4))
    said = "".join(f'<PAMRasterBand band="{n}"><NoDataValue>{-n}</NoDataValue></PAMRasterBand>' for n in (1, 2))
    (tmp_path / "cube.tif.aux.xml").write_text(f"<PAMDataset>{said}</PAMDataset>")
    done, dry = (upscale(tmp_path, "--band", "all", *more, source="cube.tif") for more in ((), ("--dry-run",)))
    assert (dry.code, dry.err) == (3, done.err)
    assert "different nodata values" in dry.err
    (tmp_path / "pairs.csv").write_text("source,guide\ncube.tif,guide.tif\n")
    pairs = ("--manifest", tmp_path / "pairs.csv", "-o", tmp_path / "out/{stem}.tif", "--method", "bicubic")
    assert "different nodata values" in geosr("batch", *pairs, "--band", "all", "--dry-run").out


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("float64", 8), ("int16", 2)])
def test_a_dry_run_tells_the_disk_that_all_bands_take(dtype, itemsize, tmp_path):
    make_cube(tmp_path, size=200)
    one, every = (
        int(re.search(r"^disk +up to (\d+) MB", told.out, re.MULTILINE)[1])
        for told in (
            upscale(tmp_path, "--band", band, "--dtype", dtype, "--dry-run", source="cube.img") for band in (1, "all")
        )
    )
    more = 200**2 * 16 * (4 * 3 + itemsize * 4 * 3) / 1e6  # the guide's three bands, and 4 x 3 rasters
    assert every == pytest.approx(one + more, abs=2)

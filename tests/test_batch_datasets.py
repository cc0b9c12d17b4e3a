"""Batches of the papers' data sets, each written small in the layout that its documentation gives."""

import json
import re

import numpy as np
import pytest
from affine import Affine
from outputs import block_means, check_means, opened, physical
from pairs import geosr, write_png, write_samples, write_view
from rasters import grid, write

from geosr.datasets import dfc2014
from geosr.errors import InputError

OUTPUT = "out/{stem}_x{scale}.tif"


def batch(folder, name, *more, root=None, method="bicubic"):
    place = ("-o", folder / OUTPUT, "--method", method, "--summary", folder / "s.json")
    done = geosr("batch", "--dataset", name, root or folder / "set", *place, *more)
    content = json.loads((folder / "s.json").read_text()) if (folder / "s.json").exists() else {}
    return done, {pair["name"]: pair for pair in content.get("pairs", [])}


def test_dfc2019_crops_are_pooled_and_aligned_by_pixel(tmp_path):
    write_view(tmp_path / "set", "JAX_004_006", hole=True)
    heights = write_view(tmp_path / "set", "JAX_004_010")
    done, pairs = batch(tmp_path, "dfc2019", "--scale", 5)
    assert done.code == 0, done.err
    assert [*pairs] == [f"JAX_004_010_{row}_{col}" for row in (0, 320) for col in (0, 320)]
    assert "note (4 pairs): neither raster is georeferenced: they are taken to share their corners" in done.err
    stem = "JAX_004_010_0_320_x5"
    crop, output = heights[:320, 320:], tmp_path / "out" / f"{stem}.tif"
    inputs = {part: tmp_path / "out/inputs" / f"{stem}_{part}.tif" for part in ("source", "guide", "truth")}
    np.testing.assert_allclose(physical(inputs["source"]), block_means(crop.astype(float), 5), rtol=1e-6)
    np.testing.assert_array_equal(physical(inputs["truth"]), crop)
    np.testing.assert_array_equal(physical(inputs["guide"]), (crop * 20).clip(0, 255))
    check_means(inputs["source"], output, 5)
    with opened(output) as made:
        assert (made.crs, made.shape) == (None, (320, 320))
    scored = geosr("evaluate", output, inputs["truth"], "--source", inputs["source"])
    assert "consistency_max" in scored.out
    assert scored.code == 0, scored.err
    error = np.sqrt(((physical(output) - crop) ** 2).mean())
    found = float(re.search(r"^rmse +([\d.]+)", scored.out, re.MULTILINE)[1])
    assert found == pytest.approx(error, rel=1e-3)


def test_middlebury_groups_go_on_where_they_were(tmp_path):
    write_samples(tmp_path / "set/2003", ["026", "235"])
    write_samples(tmp_path / "set/2014", ["026"])
    done, pairs = batch(tmp_path, "middlebury", "--scale", 8)
    assert done.code == 0, done.err
    assert [*pairs] == ["2003_026", "2003_235", "2014_026"]
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/**/*.tif")}
    assert len(before) == 12
    (tmp_path / "out/2003_235_x8.tif").unlink()
    again, pairs = batch(tmp_path, "middlebury", "--scale", 8)
    assert again.code == 0
    assert [pair["status"] for pair in pairs.values()] == ["skipped", "done", "skipped"]
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/**/*.tif")}
    assert [name for name in before if before[name] != after[name]] == ["2003_235_x8.tif"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_middlebury_scenes_as_distributed(tmp_path, order):
    rng = np.random.default_rng(6)
    truths = {name: rng.integers(1, 200, (41, 50)) for name in ("cones", "Art", "Jadeplant")}
    for truth in truths.values():
        truth[3, 4] = 0
    for year, name, image, disparity in (
        ("2003", "cones", "im2.png", "disp2.png"),
        ("2005", "Art", "view1.png", "disp1.png"),
        ("2014", "Jadeplant", "im0.png", None),
    ):
        write_png(tmp_path / "set" / year / name / image, np.stack([truths[name]] * 3).astype("uint8"))
        if disparity:
            write_png(tmp_path / "set" / year / name / disparity, truths[name].astype("uint8"))
    stored = np.where(truths["Jadeplant"] > 0, truths["Jadeplant"] + 0.25, np.inf)[::-1].astype(f"{order}f4")
    pfm = tmp_path / "set/2014/Jadeplant/disp0.pfm"
    pfm.write_bytes(f"Pf\n50 41\n{'-1' if order == '<' else '1'}\n".encode() + stored.tobytes())
    done, pairs = batch(tmp_path, "middlebury", "--scale", 4)
    assert done.code == 0, done.err
    assert [*pairs] == ["2003_cones", "2005_Art", "2014_Jadeplant"]
    for name, truth in zip(pairs, truths.values(), strict=True):
        expected = block_means(truth[:40, :48].astype(float), 4) + 0.25 * name.startswith("2014")
        expected[0, 1] = np.nan
        source = tmp_path / "out/inputs" / f"{name}_x4_source.tif"
        np.testing.assert_allclose(physical(source), expected, rtol=1e-6)
        check_means(source, tmp_path / "out" / f"{name}_x4.tif", 4)
    for damaged, text in ((b"P6\n50 41\n1\n", "is no PFM"), (pfm.read_bytes()[:-4], "need 8200 bytes, it has 8196")):
        pfm.write_bytes(damaged)
        again, pairs = batch(tmp_path, "middlebury", "--overwrite", "--scale", 5)
        assert again.code == 5
        assert text in pairs["2014_Jadeplant"]["why"]


def write_scene(folder, name, bands=1):
    """A near infrared image and a colour image on the same pixels, as EPFL's set has them."""
    folder.mkdir(parents=True, exist_ok=True)
    infrared = np.random.default_rng(len(name)).integers(0, 255, (42, 50)).astype("uint8")
    write(folder / f"{name}_nir.tiff", np.stack([infrared] * bands), Affine.identity(), None)
    write(folder / f"{name}_rgb.tiff", np.stack([infrared // 2, 255 - infrared, infrared]), Affine.identity(), None)
    return infrared


def test_epfl_pairs_are_made_from_the_near_infrared(tmp_path):
    images = {"indoor_0001": write_scene(tmp_path / "set/indoor", "0001")}
    images["mountain_0001"] = write_scene(tmp_path / "set/mountain", "0001", bands=3)
    (tmp_path / "set/mountain/0002_rgb.tiff").write_bytes(b"alone")
    done, pairs = batch(tmp_path, "epfl", "--scale", 4)
    assert done.code == 0, done.err
    assert [*pairs] == [*images]
    for name, image in images.items():
        source = tmp_path / f"out/inputs/{name}_x4_source.tif"
        np.testing.assert_allclose(physical(source), block_means(image[:40, :48].astype(float), 4), rtol=1e-6)
        check_means(source, tmp_path / f"out/{name}_x4.tif", 4)


def test_any_folders_of_images_of_one_size(tmp_path):
    image = write_scene(tmp_path / "a", "one")
    write_scene(tmp_path / "a", "two", bands=2)
    (tmp_path / "a/three_nir.tiff").write_bytes((tmp_path / "a/two_nir.tiff").read_bytes())
    patterns = ("--truth", tmp_path / "a/*_nir.tiff", "--guide", tmp_path / "a/{stem}_rgb.tiff")
    place = ("-o", tmp_path / "out/{stem}.tif", "--method", "bicubic", "--scale", 4)
    done = geosr("batch", *patterns, *place)
    assert done.code == 5
    assert "1 done, 2 failed" in done.out  # of two bands, and without a guide
    assert "choose one with --band" in done.out
    source = tmp_path / "out/inputs/one_x4_source.tif"
    np.testing.assert_allclose(physical(source), block_means(image[:40, :48].astype(float), 4), rtol=1e-6)
    chosen = geosr("batch", *patterns, *place, "--band", 2)
    assert "1 done, 2 failed" in chosen.out
    assert "made otherwise (source, guide)" in chosen.out
    refused = geosr("batch", *patterns, "--source", tmp_path / "*.tif", *place)
    assert (refused.code, "belong together" in refused.err) == (2, True)


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_files_that_were_made_from_other_images_are_not_taken(tmp_path, overwrite):
    """Their names say neither where the images lay nor which of them was the guide."""
    for folder, name in (("a", "first"), ("b", "another")):
        write_scene(tmp_path / folder, name)
        for kind in ("nir", "rgb"):
            (tmp_path / folder / f"{name}_{kind}.tiff").rename(tmp_path / folder / f"one_{kind}.tiff")
    place = ("-o", tmp_path / "out/{stem}.tif", "--method", "joint-bilateral", "--scale", 4)
    truths = ("batch", "--truth", tmp_path / "a/*_nir.tiff", "--guide")
    assert geosr(*truths, tmp_path / "a/{stem}_rgb.tiff", *place).code == 0
    first = (tmp_path / "out/one.tif").read_bytes()
    again = geosr(*truths, tmp_path / "b/{stem}_rgb.tiff", *place, *overwrite)
    guide = physical(tmp_path / "out/inputs/one_x4_guide.tif")
    if not overwrite:
        assert again.code == 5
        assert "made otherwise (source, guide)" in again.out
        assert (tmp_path / "out/one.tif").read_bytes() == first
        return
    assert again.code == 0, again.err
    np.testing.assert_array_equal(guide, physical(tmp_path / "b/one_rgb.tiff")[..., :40, :48])
    assert (tmp_path / "out/one.tif").read_bytes() != first


def write_telops(folder, crs="EPSG:32619", size=(16, 14)):
    """The contest's subset: 1 m thermal of several bands, a 0.2 m mosaic that begins elsewhere and ends elsewhere."""
    rng = np.random.default_rng(4)
    rows, cols = size
    fine = np.kron(rng.choice([10.0, 20.0, 30.0], (rows, cols)), np.ones((5, 5)))
    fine = np.roll(fine, (2, 3), (0, 1))
    visible = np.pad(fine, ((7, 4), (3, 6)), mode="edge")
    thermal = np.stack([block_means(fine, 5) + band for band in range(3)]).astype("float32")
    folder.mkdir(parents=True)
    paths = [folder / f"TelopsDatasetCity{name}_Subset.img" for name in ("LWIR", "Visible_20cm")]
    write(paths[0], thermal, grid(300000, 5100000, 1), crs, driver="ENVI")
    mosaic = np.stack([visible * 100] * 3).astype("uint16")
    write(paths[1], mosaic, grid(300000 - 3 * 0.2, 5100000 + 7 * 0.2, 0.2), crs, driver="ENVI")
    return paths, thermal, mosaic


@pytest.mark.parametrize("crs", ["EPSG:32619", None])
def test_dfc2014_is_aligned_by_its_georeference(tmp_path, crs):
    _, thermal, mosaic = write_telops(tmp_path / "set/sub", crs)
    done, pairs = batch(tmp_path, "dfc2014", "--scale", 5, "--band", 2, method="diffusion")
    assert done.code == 0, done.err
    assert [*pairs] == ["TelopsDatasetCityLWIR_Subset"]
    made = tmp_path / "out/TelopsDatasetCityLWIR_Subset_x5.tif"
    write(tmp_path / "band.tif", thermal[1], grid(300000, 5100000, 1), crs)
    check_means(tmp_path / "band.tif", made, 5)
    # the mosaic cut to the thermal image by hand, so that index and georeference agree
    write(tmp_path / "cut.tif", mosaic[:, 7:-4, 3:-6], grid(300000, 5100000, 0.2), crs)
    alone = ("--source", tmp_path / "band.tif", "--guide", tmp_path / "cut.tif", "--scale", 5, "--method", "diffusion")
    assert geosr("upscale", *alone, "-o", tmp_path / "cut_x5.tif").code == 0
    np.testing.assert_allclose(physical(made), physical(tmp_path / "cut_x5.tif"), atol=2e-3)
    shifted = ("--source", tmp_path / "band.tif", "--guide", tmp_path / "off.tif", *alone[4:])
    write(tmp_path / "off.tif", mosaic[:, :80, :70], grid(300000, 5100000, 0.2), crs)  # aligned by index: wrong
    assert geosr("upscale", *shifted, "-o", tmp_path / "off_x5.tif").code == 0
    assert np.abs(physical(made) - physical(tmp_path / "off_x5.tif")).max() > 1
    unchosen, pairs = batch(tmp_path, "dfc2014", "--scale", 5, "--overwrite")
    assert unchosen.code == 5
    assert "choose one with --band" in pairs["TelopsDatasetCityLWIR_Subset"]["why"]


def add_wavelengths(image, text, unit=None):
    """To the header of an ENVI image."""
    header = image.with_suffix(".hdr")
    units = f"wavelength units = {unit}\n" if unit else ""
    header.write_text(re.sub("(?m)^wavelength.*\n", "", header.read_text()) + f"{units}wavelength = {{{text}}}\n")


@pytest.mark.parametrize(
    ("text", "unit", "band"),
    [
        ("7.8, 8.15, 9.4", "Micrometers", "8.2um"),
        ("7800.0,\n 8150, 9400", "Nanometers", "8.2µm"),
        ("7.8, 8.15, 9.4", None, "8200nm"),
        ("1282.05, 1226.99, 1063.83", "Wavenumber", "8.2 UM"),
    ],
)
def test_dfc2014_band_by_its_wavelength(tmp_path, text, unit, band):
    (image, _), thermal, _ = write_telops(tmp_path / "set")
    add_wavelengths(image, text, unit)
    done, _ = batch(tmp_path, "dfc2014", "--scale", 5, "--band", band)
    assert done.code == 0, done.err
    assert "TelopsDatasetCityLWIR_Subset.img: band 2 is taken, at 8.15 um" in done.err
    write(tmp_path / "band.tif", thermal[1], grid(300000, 5100000, 1), "EPSG:32619")
    check_means(tmp_path / "band.tif", tmp_path / "out/TelopsDatasetCityLWIR_Subset_x5.tif", 5)
    again, pairs = batch(tmp_path, "dfc2014", "--scale", 5, "--band", 3)
    assert again.code == 5
    assert "made otherwise (band)" in pairs["TelopsDatasetCityLWIR_Subset"]["why"]


def test_wavelengths_that_no_band_has_are_refused(tmp_path):
    (image, _), _, _ = write_telops(tmp_path / "set")
    place = ("--scale", 5, "--overwrite")
    for text, unit, band, why in (
        (None, None, "8.2um", "gives no wavelengths"),
        ("1282, 1227, 1064", None, "8.2um", "gives no wavelengths"),  # nanometres or wavenumbers: not told
        ("7.8, 8.2, 9.4", "Micrometers", "11um", "has bands from 7.8 to 9.4 um, none of 11 um"),
        ("7.8, 8.2, 9.4", "Micrometers", "8.2", "neither a number nor a wavelength"),
        ("7.8, 8.2, 9.4", "Micrometers", "4", "band 4 was asked for"),
    ):
        if text:
            add_wavelengths(image, text, unit)
        done, pairs = batch(tmp_path, "dfc2014", *place, "--band", band)
        assert done.code == 5
        assert why in pairs["TelopsDatasetCityLWIR_Subset"]["why"]


def test_folders_that_are_no_such_set_say_what_is_missing(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, text in (
        ("dfc2014", "found 0 *LWIR*.img and 0 *Visible*.img"),
        ("dfc2019", "found 0 _RGB.tif and 0 _AGL.tif"),
        ("middlebury", "no guide/ and source_hr/"),
        ("epfl", "found 0 _rgb.tif(f) and 0 _nir.tif(f)"),
        ("dfc2019-track3", "found 0 _DSM.tif and 0 _RGB.tif"),
    ):
        refused, _ = batch(tmp_path, name, root=empty)
        assert refused.code == 3
        assert text in refused.err
        assert "is no folder" in batch(tmp_path, name, root=tmp_path / "nowhere")[0].err
    (visible, *_), *_ = write_telops(tmp_path / "set")
    visible.with_suffix(".hdr").unlink()
    with pytest.raises(InputError, match=r"has no header.*TelopsDatasetCityLWIR_Subset\.hdr"):
        dfc2014(tmp_path / "set")


def test_a_view_of_another_size_fails_alone(tmp_path):
    write_samples(tmp_path / "set", ["a", "b"])
    with opened(tmp_path / "set/guide/a.png") as dataset:
        image = dataset.read()
    write(tmp_path / "set/guide/a.png", image[:, :40], Affine.identity(), None, driver="PNG")
    done, pairs = batch(tmp_path, "middlebury")
    assert done.code == 5
    assert {name: pair["status"] for name, pair in pairs.items()} == {"a": "failed", "b": "done"}
    assert "same pixels" in pairs["a"]["why"]

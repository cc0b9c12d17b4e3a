"""`geosr evaluate` on files, against plain rasterio and numpy."""

import csv
import json
import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine
from outputs import block_means, physical, score_heights
from pairs import geosr, make_pair, upscale
from pyproj import Transformer
from rasters import UTM, grid, pixel_centres, shared_data, write

from geosr import evaluation
from geosr.evaluation import evaluate


@pytest.fixture
def fields():
    rng = np.random.default_rng(0)
    truth = rng.normal(100, 5, (48, 60))
    return truth + rng.normal(0.2, 1, truth.shape), truth


def rmse(a, b):
    return np.sqrt(np.nanmean((a - b) ** 2))


def test_one_grid_with_nodata_scale_and_offset(tmp_path, fields):
    prediction, truth = fields
    stored = np.rint((truth - 90) / 0.01).astype("int16")
    stored[:5] = -32768
    write(tmp_path / "truth.tif", stored, nodata=-32768, scale=0.01, offset=90)
    prediction[:, :7] = np.nan
    write(tmp_path / "pred.tif", prediction, nodata=np.nan)
    found = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")
    expected = physical(tmp_path / "truth.tif")
    assert found.scores.pixels == 43 * 53
    assert found.scores.rmse == pytest.approx(rmse(prediction, expected), rel=1e-12)
    assert found.notes == ("prediction and truth lie on one pixel grid: compared as they are",)


def test_slopes_are_those_on_the_ground_where_the_map_is_stretched(tmp_path, fields):
    """At 60 degrees north a pixel of 20 m in Web Mercator is one of 10.02 x 10.05 m."""
    prediction, truth = fields
    place = grid(*Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(10, 60), 20)
    write(tmp_path / "truth.tif", truth, place, "EPSG:3857")
    write(tmp_path / "pred.tif", prediction, place, "EPSG:3857")
    found = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", elevation=True)
    expected = score_heights(prediction, truth, (10.03, 10.03)).slope_rmse
    assert found.scores.slope_rmse == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("step", [-1, "nan", "inf"])
def test_an_edge_has_a_height(tmp_path, fields, step):
    for name, values in zip(("pred.tif", "truth.tif"), fields, strict=True):
        write(tmp_path / name, values)
    refused = geosr("evaluate", tmp_path / "pred.tif", tmp_path / "truth.tif", "--step", step)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"Error: step is {step}; ")


def test_the_finer_one_is_averaged_onto_the_grid_of_the_other(tmp_path, fields):
    prediction, truth = fields
    low = block_means(truth, 4)
    write(tmp_path / "fine.tif", prediction, grid(500000, 5000000, 1))
    write(tmp_path / "coarse.tif", low, grid(500000, 5000000, 4))
    found = evaluate(tmp_path / "fine.tif", tmp_path / "coarse.tif")
    assert found.scores.rmse == pytest.approx(rmse(block_means(prediction, 4), low), rel=1e-9)
    assert found.notes == ("the prediction, 4 of its pixels to one of the truth's, is averaged onto the truth's grid",)
    turned = evaluate(tmp_path / "coarse.tif", tmp_path / "fine.tif")
    assert turned.scores.rmse == pytest.approx(found.scores.rmse, rel=1e-9)
    assert turned.scores.bias == pytest.approx(-found.scores.bias, rel=1e-9)
    assert "the truth, 4 of its pixels" in turned.notes[0]


def write_in(path, values, unit, *more):
    write(path, values, *more)
    with rasterio.open(path, "r+") as dataset:
        dataset.units = [unit]


@pytest.mark.parametrize(
    ("units", "converted", "told"),
    [
        (("m", "metre"), lambda values: values, ""),
        (("m", "ft"), lambda values: values / 0.3048, ": converted"),
        (("K", "degC"), lambda values: values - 273.15, ": converted"),
        (("degF", "K"), lambda values: (values + 459.67) * 5 / 9, ": converted"),
        (("m", "K"), lambda values: values, ": not converted"),
        (("mg", "%"), lambda values: values, ": not converted"),
    ],
)
@pytest.mark.parametrize("place", [(500000, 5000000), (500000.4, 5000000.3)])
def test_the_prediction_is_converted_to_the_units_of_the_truth(tmp_path, fields, units, converted, told, place):
    prediction, truth = fields
    write_in(tmp_path / "pred.tif", prediction, units[0], grid(*place, 1))
    write_in(tmp_path / "converted.tif", converted(prediction), units[1], grid(*place, 1))
    write_in(tmp_path / "truth.tif", truth, units[1])
    found, expected = (evaluate(tmp_path / name, tmp_path / "truth.tif") for name in ("pred.tif", "converted.tif"))
    assert found.scores.rmse == pytest.approx(expected.scores.rmse, rel=1e-6)
    assert found.scores.bias == pytest.approx(expected.scores.bias, rel=1e-6)
    note = (f"the prediction is in {units[0]}, the truth in {units[1]}{told}",) if told else ()
    assert found.notes == expected.notes + note


def test_consistency_is_in_the_units_of_the_source(tmp_path, fields):
    prediction, truth = fields
    write_in(tmp_path / "pred.tif", prediction, "K")
    write_in(tmp_path / "truth.tif", truth - 273.15, "degC")
    write_in(tmp_path / "source.tif", block_means(prediction, 4), "K", grid(500000, 5000000, 4))
    found = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", source=tmp_path / "source.tif")
    assert found.scores.consistency_max < 1e-9
    assert found.scores.rmse == pytest.approx(rmse(prediction, truth), rel=1e-9)


@pytest.mark.parametrize("crs", [UTM, None])
def test_slopes_of_heights_in_feet(tmp_path, fields, crs):
    """Where no CRS says how long the grid's steps are, heights are taken to be in the same unit."""
    for name, values in zip(("pred.tif", "truth.tif"), fields, strict=True):
        write_in(tmp_path / name, values, "ft", grid(500000, 5000000, 1), crs)
    found = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", elevation=True)
    metres = 0.3048 if crs else 1
    expected = score_heights(*(metres * values for values in fields), (1, 1)).slope_rmse
    assert found.scores.slope_rmse == pytest.approx(expected, rel=1e-9)
    assert found.scores.rmse == pytest.approx(rmse(*fields), rel=1e-12)
    assert found.units == "ft"
    assert ("heights are in ft: converted to metres for slopes" in found.notes) == bool(crs)


def test_the_source_is_no_truth(tmp_path):
    source, _ = make_pair(tmp_path)
    assert upscale(tmp_path).code == 0
    shutil.copy(source, tmp_path / "renamed.tif")
    words = "the truth is the source of this prediction: this measures consistency, not accuracy"
    assert words in evaluate(tmp_path / "out.tif", tmp_path / "renamed.tif").notes
    assert words not in evaluate(tmp_path / "out.tif", tmp_path / "out.tif").notes


def test_a_source_that_was_averaged_first_is_one(tmp_path):
    """From 8 m back to the file's own 4 m."""
    source, _ = make_pair(tmp_path)
    assert upscale(tmp_path, "--native-resolution", 8, "--scale", 2).code == 0
    assert not any("is the source of" in note for note in evaluate(tmp_path / "out.tif", source).notes)


def test_longitudes_that_count_from_0_to_360_meet_those_from_minus_180(tmp_path, fields):
    prediction, truth = fields
    write(tmp_path / "truth.tif", truth, grid(190, 10, 0.01), "EPSG:4326")
    write(tmp_path / "pred.tif", prediction[:40, 4:], grid(-169.96, 10, 0.01), "EPSG:4326")
    found = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif")
    assert found.scores.pixels == 40 * 56
    assert found.scores.rmse == pytest.approx(rmse(prediction[:40, 4:], truth[:40, 4:]), rel=1e-12)


def test_a_part_of_the_grid_is_compared_where_it_lies(tmp_path, fields):
    prediction, truth = fields
    write(tmp_path / "truth.tif", truth, grid(500000, 5000000, 1))
    write(tmp_path / "part.tif", prediction[10:40, 20:], grid(500020, 4999990, 1))
    found = evaluate(tmp_path / "part.tif", tmp_path / "truth.tif")
    assert found.scores.pixels == 30 * 40
    assert found.scores.rmse == pytest.approx(rmse(prediction[10:40, 20:], truth[10:40, 20:]), rel=1e-12)


def test_another_crs_pixel_size_and_rotation_are_aligned(tmp_path):
    """Both hold one function of the place: what differs is the alignment, and it must not."""
    to_other = Transformer.from_crs(UTM, "EPSG:32633", always_xy=True)

    def heights(x, y):
        return 200 + 30 * np.sin(x / 60) + 20 * np.cos(y / 45)

    ours = grid(700000, 5000000, 2)
    truth = heights(*pixel_centres(ours, (120, 130)))
    x, y = to_other.transform(700130, 4999880)
    theirs = grid(x - 100, y + 100, 1.5, rotation=17)
    back = Transformer.from_crs("EPSG:32633", UTM, always_xy=True)
    prediction = heights(*back.transform(*pixel_centres(theirs, (150, 150))))
    write(tmp_path / "truth.tif", truth, ours)
    write(tmp_path / "pred.tif", prediction, theirs, "EPSG:32633")
    found = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", elevation=True)
    assert found.scores.pixels > 5000
    assert found.scores.rmse < 0.05  # half a pixel off would be 0.4
    assert found.scores.slope_rmse < 0.6


def test_windows_change_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(150, 170)).cumsum(axis=0)
    prediction = truth + rng.normal(size=truth.shape)
    prediction[30:40, 90:160] = np.nan
    write(tmp_path / "truth.tif", truth)
    write(tmp_path / "pred.tif", prediction)
    write(tmp_path / "guide.tif", rng.integers(1, 255, (3, 300, 340), "uint8"), grid(500000, 5000000, 0.5))
    monkeypatch.setattr(evaluation, "WINDOW", 64)
    found = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", guide=tmp_path / "guide.tif", elevation=True)
    expected = score_heights(prediction, truth, (1, 1))
    for name, value in vars(expected).items():
        if value is not None:
            assert vars(found.scores)[name] == pytest.approx(value, rel=1e-3 if name in ("nmad", "le90") else 1e-9), (
                name
            )
    assert abs(found.scores.guide_copied) < 0.05


@pytest.mark.parametrize("scale", [4, 5])
def test_source_consistency_of_a_run_and_of_one_without(tmp_path, scale):
    source, _ = make_pair(tmp_path, scale=scale)
    for mode in ("exact", "off"):
        done = upscale(tmp_path, "--scale", scale, "--consistency", mode, output=f"{mode}.tif")
        assert done.code == 0, done.err
    exact, off = (
        evaluate(tmp_path / f"{mode}.tif", tmp_path / "exact.tif", source=source).scores for mode in ("exact", "off")
    )
    assert exact.consistency_max < 1e-5
    residual = block_means(physical(tmp_path / "off.tif"), scale) - physical(source)
    assert off.consistency_max == pytest.approx(np.abs(residual).max(), rel=1e-9)
    assert off.consistency_rms == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-9)


def test_rasters_without_any_georeference(tmp_path, fields):
    prediction, truth = fields
    write(tmp_path / "pred.tif", prediction, Affine.identity(), None)
    write(tmp_path / "low.tif", block_means(truth, 4), Affine.identity(), None)
    for order in (("pred.tif", "low.tif"), ("low.tif", "pred.tif")):
        found = evaluate(*(tmp_path / name for name in order))
        assert found.scores.rmse == pytest.approx(rmse(block_means(prediction, 4), block_means(truth, 4)), rel=1e-9)
        assert "share their corners" in found.notes[0]


def test_the_command_writes_what_it_prints(tmp_path, fields):
    write(tmp_path / "pred.tif", fields[0])
    write(tmp_path / "truth.tif", fields[1])
    with rasterio.open(tmp_path / "truth.tif", "r+") as file:
        file.units = ["m"]
    files = [part for kind, end in (("json", "json"), ("csv", "csv"), ("markdown", "md"))
             for part in (f"--{kind}", tmp_path / f"out.{end}")]  # fmt: skip
    done = geosr("evaluate", tmp_path / "pred.tif", tmp_path / "truth.tif", "--elevation", *files)
    assert done.code == 0, done.err
    assert "compared as they are" in done.err
    expected = rmse(*fields)
    line = next(line for line in done.out.splitlines() if line.startswith("rmse"))
    assert line.split() == ["rmse", f"{expected:.4g}", "RMSE,", "m"]
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["rmse"] == pytest.approx(expected)
    assert content["units"] == "m"
    assert content["slope_rmse"] > 0
    assert content["consistency_rms"] is None
    table = [*csv.DictReader((tmp_path / "out.csv").read_text().splitlines())]
    rows = {row["metric"]: row["value"] for row in table}
    assert float(rows["nmad"]) == content["nmad"]
    assert f"| rmse | {expected:.4g} |" in (tmp_path / "out.md").read_text()
    names = str(tmp_path / "pred.tif"), str(tmp_path / "truth.tif")
    assert {(row["prediction"], row["truth"]) for row in table} == {names}
    assert (content["prediction"], content["truth"]) == names
    assert str(tmp_path) not in done.out


def write_bands(path, *fields, wavelengths):
    write(path, np.stack(fields))
    with rasterio.open(path, "r+") as file:
        for band, centre in enumerate(wavelengths, 1):
            file.update_tags(band, wavelength=centre, wavelength_units="Micrometers")


def test_a_band_is_chosen_in_every_raster_that_has_several(tmp_path, fields):
    prediction, truth = fields
    write_bands(tmp_path / "pred.tif", prediction + 9, prediction, wavelengths=(7.8, 8.2))
    write_bands(tmp_path / "truth.tif", truth, truth * 2, truth, wavelengths=(7, 7.8, 8.2))
    write(tmp_path / "alone.tif", truth)
    for band, names in (("8.2um", ("pred.tif", "truth.tif")), ("2", ("pred.tif", "alone.tif"))):
        done = geosr("evaluate", *(tmp_path / name for name in names), "--band", band, "--json", tmp_path / "out.json")
        assert done.code == 0, done.err
        assert json.loads((tmp_path / "out.json").read_text())["rmse"] == pytest.approx(rmse(prediction, truth))
    other = evaluate(tmp_path / "pred.tif", tmp_path / "truth.tif", band=2)
    assert "the prediction's band is at 8.2 um, the truth's at 7.8 um" in other.notes
    for arguments, words in (
        ([], "--band"),
        (["--band", "4"], "4"),
        (["--band", "11um"], "none of 11 um"),
        (["--band", "all"], "pred.tif has 2 bands, truth.tif 3: choose one with --band"),
    ):
        refused = geosr("evaluate", tmp_path / "pred.tif", tmp_path / "truth.tif", *arguments)
        assert refused.code in (2, 3)
        assert words in refused.err
    alone = ("evaluate", tmp_path / "alone.tif", tmp_path / "alone.tif", "--band")
    assert [geosr(*alone, band).code for band in (1, 2, "8.2um")] == [0, 2, 3]


def test_all_bands_are_a_row_each(tmp_path):
    make_pair(tmp_path)
    plane = physical(tmp_path / "source.tif")
    write_bands(tmp_path / "cube.tif", plane, plane[::-1] * 2, wavelengths=(7.8, 8.2))
    with rasterio.open(tmp_path / "cube.tif", "r+") as cube, rasterio.open(tmp_path / "source.tif") as source:
        cube.transform, cube.crs = source.transform, source.crs
    assert upscale(tmp_path, "--band", "all", "--consistency", "off", source="cube.tif").code == 0
    result, cube = tmp_path / "out.tif", tmp_path / "cube.tif"
    done = geosr("evaluate", result, cube, "--source", cube, "--band", "all", "--csv", tmp_path / "all.csv")
    assert done.code == 0, done.err
    with rasterio.open(result) as made, rasterio.open(cube) as given:
        residuals = [
            block_means(one.astype(float), 4) - low for one, low in zip(made.read(), given.read(), strict=True)
        ]
    rows = [*csv.DictReader((tmp_path / "all.csv").read_text().splitlines())]
    assert [row["band"] for row in rows] == ["1", "2"]
    assert {(row["prediction"], row["truth"]) for row in rows} == {(str(result), str(cube))}
    for row, residual in zip(rows, residuals, strict=True):
        assert float(row["rmse"]) == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-6)
        assert float(row["consistency_max"]) == pytest.approx(np.abs(residual).max(), rel=1e-6)
    assert done.err.count("is averaged onto the truth's grid") == 1
    assert geosr("evaluate", result, cube, "--source", tmp_path / "source.tif", "--band", "all").code == 0


def test_of_all_bands_a_file_is_described_once_a_band_and_once_for_their_number(tmp_path, fields, monkeypatch):
    for name in ("pred.tif", "truth.tif", "guide.tif"):
        write(tmp_path / name, np.stack([fields[0]] * 5))
    seen = []

    def counting(describe):
        def counted(path, **how):
            seen.append(path.name)
            return describe(path, **how)

        return counted

    for name in ("describe_source", "describe_guide"):
        monkeypatch.setattr(evaluation, name, counting(getattr(evaluation, name)))
    paths = [tmp_path / name for name in ("pred.tif", "truth.tif")]
    found = evaluation.evaluate_bands(*paths, guide=tmp_path / "guide.tif")
    assert [*found] == [1, 2, 3, 4, 5]
    assert {name: seen.count(name) for name in seen} == {"pred.tif": 6, "truth.tif": 6, "guide.tif": 1}


def test_refusals(tmp_path, fields):
    write(tmp_path / "pred.tif", fields[0])
    write(tmp_path / "far.tif", fields[1], grid(900000, 5000000, 1))
    write(tmp_path / "bare.tif", fields[1], grid(500000, 5000000, 1), None)

    def refused(code, words, *arguments):
        done = geosr("evaluate", *arguments)
        assert done.code == code
        assert words in done.err
        assert "Traceback" not in done.err

    pred = tmp_path / "pred.tif"
    refused(3, "no pixel is valid in both", pred, tmp_path / "far.tif")
    refused(3, "the truth has no CRS", pred, tmp_path / "bare.tif")
    refused(3, "covers no valid pixel", pred, pred, "--source", tmp_path / "far.tif")
    refused(2, "wants PRED and TRUTH", pred)
    refused(2, "wants one ROOT", pred, pred, "--protocol", "middlebury")
    refused(2, "--scale has no effect without", pred, pred, "--scale", "8")
    refused(2, "--source has no effect with", tmp_path, "--protocol", "middlebury", "--source", pred)
    refused(2, "ends in .json", pred, pred, "--json", tmp_path / "out.txt")
    refused(6, "does not exist", pred, pred, "--csv", tmp_path / "nowhere" / "out.csv")


def test_a_real_result_is_as_true_to_its_source_as_its_tags_say(tmp_path):
    folder = shared_data() / "neon_bart"
    (source,), (guide,) = folder.glob("NEON*.tif"), folder.glob("2019*.tif")
    done = geosr("upscale", "--source", source, "--guide", guide, "-o", tmp_path / "x4.tif", "--method", "diffusion")
    assert done.code == 0, done.err
    found = evaluate(tmp_path / "x4.tif", source, source=source, guide=guide)
    assert found.scores.rmse < 1e-6
    assert found.scores.consistency_max < 1e-5

"""Physical values in, physical values out; what is invalid stays invalid and touches nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import rasterio
from affine import Affine
from outputs import SMALL_NETWORK, block_means, check_means, physical, run
from pairs import geosr, make_pair
from rasters import grid, plain_read, shared_data, write

from geosr.describe import describe_source
from geosr.encoding import Encoding
from geosr.errors import InputError, UsageError
from geosr.events import Note
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file

AFFINE = grid(461_200, 5_211_400, 2)


def heights(shape=(60, 70), seed=0):
    """Hills with steps: nothing smooth enough for errors to hide."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    noise = np.random.default_rng(seed).normal(0, 0.3, shape)
    return 20 + 6 * np.sin(row / 7) + 5 * np.cos(col / 5) + 8 * ((row // 13 + col // 17) % 2) + noise


def holes(shape, seed=1):
    """Where a source is valid: single pixels, a disc, an edge and a corner are missing."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    valid = np.random.default_rng(seed).random(shape) > 0.03
    return valid & (np.hypot(row - 30, col - 40) > 8) & (col > 2) & (row + col < sum(shape) - 20)


def make_guide(path, shape=(60, 70), seed=3, margin=2, **options):
    """A textured uint8 RGB guide at 0.4 source pixels that covers the source with `margin` of them to spare."""
    size = tuple(int((n + 2 * margin) / 0.4) for n in shape)
    row, col = np.mgrid[: size[0], : size[1]]
    steps = 90 * ((row // 32 + col // 41) % 2)
    texture = np.random.default_rng(seed).integers(0, 60, (3, *size))
    affine = AFFINE * Affine.translation(-margin, -margin) * Affine.scale(0.4)
    return write(path, (steps + texture).astype("uint8"), affine, "EPSG:32632", **options)


def make_source(path, values, valid, dtype, nodata, *, declare=True, **options):
    stored = np.where(valid, values, 0 if nodata is None else nodata)
    stored = np.rint(stored) if np.dtype(dtype).kind != "f" else stored
    return write(path, stored.astype(dtype), AFFINE, nodata=nodata if declare else None, **options)


@pytest.mark.parametrize(
    ("dtype", "nodata", "kept", "options"),
    [
        ("float32", -9999.0, -9999.0, {}),
        ("float32", float("nan"), float("nan"), {}),
        ("float32", 0.0, 0.0, {}),
        ("float32", -3.4028234663852886e38, -3.4028234663852886e38, {}),
        ("float64", -1.797e308, float("nan"), {}),
        ("float64", -9999.0, -9999.0, {}),
        ("int16", -9999, -9999.0, {}),
        ("int16", -32768, float("nan"), {"scale": 0.1, "offset": -40.0}),
        ("uint16", 0, 0.0, {}),
        ("uint16", 65535, float("nan"), {"scale": 0.01, "offset": 5.0}),
    ],
)
def test_types_and_nodata(tmp_path, dtype, nodata, kept, options):
    values, valid = heights(), holes((60, 70))
    stored = (values - options.get("offset", 0)) / options.get("scale", 1)
    source = make_source(tmp_path / "source.tif", stored, valid, dtype, nodata, **options)
    guide = make_guide(tmp_path / "guide.tif")
    report = run(source, guide, tmp_path / "out.tif", 4, tile=96)
    assert report.tiles > 4
    check_means(source, tmp_path / "out.tif", 4)
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.dtypes == ("float32",)
        assert made.nodata == kept or (np.isnan(made.nodata) and np.isnan(kept))
        assert (made.scales, made.offsets) == ((1.0,), (0.0,))
    check_deviation_tags(source, tmp_path / "out.tif", 4)


def check_deviation_tags(source, output, scale, **reading):
    made = physical(output)
    with rasterio.open(output) as dataset:
        tags = dataset.tags()
    difference = (block_means(made, scale) - physical(source, **reading)).ravel()
    difference = difference[np.isfinite(difference)]
    limit = 1e-9 + 1e-5 * np.abs(difference).max()
    assert float(tags["GEOSR_CONSISTENCY_MAX_DEVIATION"]) == pytest.approx(np.abs(difference).max(), abs=limit)
    assert float(tags["GEOSR_CONSISTENCY_RMS_DEVIATION"]) == pytest.approx(np.sqrt((difference**2).mean()), abs=limit)


@pytest.mark.parametrize("nodata", [-9999.0, 0.0])
def test_nodata_that_the_file_forgot(tmp_path, nodata):
    source = make_source(tmp_path / "source.tif", heights(), holes((60, 70)), "float32", nodata, declare=False)
    guide = make_guide(tmp_path / "guide.tif")
    run(source, guide, tmp_path / "out.tif", 4, tile=96, source_nodata=nodata)
    check_means(source, tmp_path / "out.tif", 4, nodata=nodata)
    assert np.nanmin(physical(tmp_path / "out.tif")) > 0


def test_infinite_and_masked_pixels_are_invalid(tmp_path):
    values, valid = heights().astype("float32"), holes((60, 70))
    values[5, 6:9] = np.inf, -np.inf, np.nan
    source = write(tmp_path / "source.tif", values, AFFINE, mask=valid)
    run(source, make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", 4, tile=96)
    check_means(source, tmp_path / "out.tif", 4)
    assert np.isnan(physical(tmp_path / "out.tif")[20:24, 24:36]).all()


@pytest.mark.parametrize(
    ("offset", "spread"), [(4.5e6, 1.0), (0.0, 1e-6), (4.5e6, 1e-6), (-40.0, 10.0), (0.0, 1e29), (1e-30, 1e-31)]
)
def test_values_of_any_size(tmp_path, offset, spread):
    source = write(tmp_path / "source.tif", offset + spread * (heights() - 20), AFFINE, nodata=-9999)
    guide = make_guide(tmp_path / "guide.tif")
    run(source, guide, tmp_path / "out.tif", 4, tile=96)
    check_means(source, tmp_path / "out.tif", 4)


def test_float64_output_keeps_what_float32_cannot(tmp_path):
    source = write(tmp_path / "source.tif", 4.5e6 + 1e-3 * heights(), AFFINE, nodata=-9999)
    run(source, make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", 4, tile=96, dtype="float64")
    check_means(source, tmp_path / "out.tif", 4, tolerance=2e-9)


@pytest.mark.parametrize(
    ("dtype", "nodata", "written"), [("int16", -9999, -9999), ("int16", 0.5, -32768), ("uint16", 0, 0),
                                     ("int32", None, -(2**31)), ("uint8", 255, 255)]
)  # fmt: skip
def test_integer_output_keeps_scale_offset_and_nodata(tmp_path, dtype, nodata, written):
    stored, valid = heights() * 4, holes((60, 70))
    if nodata == 0.5:
        source = make_source(tmp_path / "source.tif", stored, valid, "float32", nodata, scale=0.25, offset=-7.0)
    else:
        source = make_source(tmp_path / "source.tif", stored, valid, dtype, nodata, scale=0.25, offset=-7.0)
    run(source, make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", 4, tile=96, dtype=dtype)
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.dtypes == (dtype,)
        assert made.nodata == written
        assert (made.scales, made.offsets) == ((0.25,), (-7.0,))
    check_means(source, tmp_path / "out.tif", 4, tolerance=0.25)
    check_deviation_tags(source, tmp_path / "out.tif", 4)


@pytest.mark.parametrize(
    ("stored", "scale", "step", "told"), [("float32", None, 1, True), ("int16", None, 1, False), ("int16", 8, 8, False)]
)
def test_rounding_to_integers_is_told_and_expected(tmp_path, stored, scale, step, told):
    """Uniform within a step: its variance is a twelfth of the step squared."""
    source = write(tmp_path / "source.tif", (100 + 10 * heights()).astype(stored), AFFINE, scale=scale)
    guide, heard, reports = make_guide(tmp_path / "guide.tif"), {}, {}
    for dtype in ("float64", "int16"):
        events = heard[dtype] = []
        std, out = tmp_path / f"{dtype}_std.tif", tmp_path / f"{dtype}.tif"
        execution = Execution("cpu", 1, uncertainty=std, on_event=events.append)
        reports[dtype] = upscale_file(Inputs(source, guide), Recipe("bicubic", dtype=dtype), execution, out)
    said = {dtype: any("rounded to whole units" in str(event) for event in events) for dtype, events in heard.items()}
    assert said == {"float64": False, "int16": told}
    rounding = step**2 / 12
    assert ((physical(tmp_path / "int16.tif") - physical(tmp_path / "float64.tif")) ** 2).mean() == pytest.approx(
        rounding, rel=0.05
    )
    exact, rounded = (physical(tmp_path / f"{dtype}_std.tif") for dtype in reports)
    np.testing.assert_allclose(rounded**2, exact**2 + rounding, rtol=1e-5)
    expected = reports["int16"].expected
    assert expected**2 == pytest.approx(reports["float64"].expected ** 2 + rounding)
    with rasterio.open(tmp_path / "int16.tif") as made:
        assert float(made.tags()["GEOSR_EXPECTED_ERROR"]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("dtype", "consistency", "told"),
    [("float32", "exact", True), ("float64", "exact", False), ("float32", "off", False), ("int32", "exact", False)],
)
def test_seconds_since_1970_are_too_large_for_float32(tmp_path, dtype, consistency, told):
    seconds = 1.7e9 + 40 * heights()
    source = make_source(tmp_path / "source.tif", seconds, np.ones(seconds.shape, bool), "int32", None)
    guide, out, heard = make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", []
    run(source, guide, out, dtype=dtype, consistency=consistency, on_event=heard.append)
    off = np.abs(block_means(physical(out), 4) - physical(source)).max()
    said = [event.text for event in heard if isinstance(event, Note) and "float32 rounds" in event.text]
    words = f"by up to {off:.3g}; use --dtype float64"
    assert (len(said), all(words in text for text in said)) == (told, True)
    assert off > 10 or not told


def test_values_that_an_integer_type_would_cut_off_are_refused(tmp_path):
    source = write(tmp_path / "source.tif", heights() + 240, AFFINE)
    with pytest.raises(UsageError, match="do not fit --dtype uint8"):
        run(source, make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", 4, dtype="uint8")
    assert not (tmp_path / "out.tif").exists()


def test_a_valid_value_equal_to_nodata_is_moved_beside_it(tmp_path):
    """Heights on both sides of the nodata value 20: integers in between would turn into holes."""
    source = make_source(tmp_path / "source.tif", np.where(heights() > 20, 23, 17), True, "int16", 20)
    guide, heard = make_guide(tmp_path / "guide.tif"), []
    run(source, guide, tmp_path / "out.tif", 4, dtype="int16", on_event=heard.append)
    run(source, guide, tmp_path / "real.tif", 4, dtype="float64", on_event=heard.append)
    between = int((np.rint(physical(tmp_path / "real.tif")) == 20).sum())
    said = [event.text for event in heard if isinstance(event, Note) and "nodata value" in event.text]
    assert [text.partition(" and were")[0] for text in said] == [f"{between} output pixels fell on the nodata value"]
    stored = plain_read(tmp_path / "out.tif")
    assert ((stored == 19) | (stored == 21)).any()
    assert not (stored == 20).any()
    assert np.isfinite(physical(tmp_path / "out.tif")).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nodata", [-9999.0, 0.0, 1e-5, -1e30])
def test_floats_that_gdal_takes_for_nodata_are_moved(tmp_path, dtype, nodata):
    source = write(tmp_path / "source.tif", np.ones((4, 4), "float32"), AFFINE, nodata=nodata)
    encoding = Encoding.choose(describe_source(source), dtype)
    near = float(np.float32(nodata)) * (1 + np.arange(-8, 8) * 1e-7).reshape(4, 4)
    stored = encoding.encode(near, np.ones((4, 4), bool))
    made = write(tmp_path / "made.tif", stored, AFFINE, nodata=encoding.nodata)
    with rasterio.open(made) as dataset:
        assert (dataset.read_masks(1) > 0).all()
    np.testing.assert_allclose(encoding.decode(stored), nodata, rtol=3e-6, atol=2e-38)


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_soft_consistency_stays_within_sigma(tmp_path, sigma):
    source = make_source(tmp_path / "source.tif", heights(), holes((60, 70)), "float32", -9999)
    run(source, make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", 4, tile=96, consistency=f"soft:{sigma}")
    check_means(source, tmp_path / "out.tif", 4, tolerance=sigma + 1e-5)
    check_deviation_tags(source, tmp_path / "out.tif", 4)
    with rasterio.open(tmp_path / "out.tif") as made:
        assert float(made.tags()["GEOSR_CONSISTENCY_MAX_DEVIATION"]) > 0.9 * sigma
        assert made.tags()["GEOSR_CONSISTENCY"] == f"soft:{sigma}"


def test_no_consistency_is_the_method_as_it_is(tmp_path):
    source = make_source(tmp_path / "source.tif", heights(), True, "float32", -9999)
    run(source, make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", 4, tile=96, consistency="off")
    deviation = np.abs(block_means(physical(tmp_path / "out.tif"), 4) - physical(source)).max()
    assert deviation > 0.5
    check_deviation_tags(source, tmp_path / "out.tif", 4)


@pytest.mark.parametrize("consistency", ["exact", "soft:0.5"])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_limits_hold_and_the_means_stay(tmp_path, dtype, consistency):
    canopy = np.random.default_rng(5).exponential(6, (40, 44)).round(1)
    canopy[canopy < 4] = 0  # bare ground between crowns
    canopy[7, 8] = -2
    scaled = {"scale": 0.1} if dtype == "int16" else {}
    stored = canopy / 0.1 if scaled else canopy
    source = make_source(tmp_path / "s.tif", stored, np.ones(canopy.shape, bool), dtype, None, **scaled)
    guide, free, kept = make_guide(tmp_path / "g.tif", canopy.shape), tmp_path / "free.tif", tmp_path / "kept.tif"
    run(source, guide, free, tile=96, dtype=dtype, consistency=consistency)
    run(source, guide, kept, tile=96, dtype=dtype, consistency=consistency, minimum=0.0, maximum=20.0)
    assert physical(free).min() < -0.5
    found, read = physical(kept), physical(source)
    assert ((found >= 0) & (found <= 20)).all()
    near = (0.5 if consistency != "exact" else 0) + (0.05 if scaled else 1e-5)
    np.testing.assert_allclose(block_means(found, 4), np.clip(read, 0, 20), rtol=0, atol=near)
    with rasterio.open(kept) as dataset:
        assert dataset.tags()["GEOSR_LIMITS"] == "0.0 20.0"


def test_source_pixels_beyond_the_limits_are_counted(tmp_path):
    source, guide = make_pair(tmp_path)
    middle = float(np.median(plain_read(source)))
    beyond = int((plain_read(source) > middle).sum())
    events = []
    run(source, guide, tmp_path / "out.tif", maximum=middle, on_event=events.append)
    assert beyond > 0
    assert any(f"text='{beyond} source pixels lie beyond --min or --max" in str(event) for event in events)
    events.clear()
    run(source, guide, tmp_path / "out.tif", maximum=1e6, overwrite=True, on_event=events.append)
    limit = round(middle, 1)  # which float32 has not quite
    with rasterio.open(source) as given:
        clipped = write(tmp_path / "clipped.tif", plain_read(source).clip(None, np.float32(limit)), given.transform)
    for maximum in (limit, float(np.float32(limit))):
        run(clipped, guide, tmp_path / "out.tif", maximum=maximum, overwrite=True, on_event=events.append)
    assert not any("beyond --min" in str(event) for event in events)


@pytest.mark.parametrize(("least", "options", "said"), [(0, (), True), (0, ("--min", 0), False), (0.1, (), False)])
def test_an_output_below_a_source_that_ends_at_0_is_pointed_out(least, options, said, tmp_path):
    heights = shared_data() / "neon_bart" / "NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif"
    photo = shared_data() / "neon_bart" / "2019_BART_5_320000_4881000_image_crop.tif"
    with rasterio.open(heights) as dataset:
        source = write(tmp_path / "s.tif", plain_read(heights) + np.float32(least), dataset.transform, dataset.crs)
    paths = ("--source", source, "--guide", photo, "-o", tmp_path / "out.tif")
    done = geosr("upscale", *paths, "--method", "bicubic", *options)
    assert done.code == 0, done.err
    lowest = plain_read(tmp_path / "out.tif").min()
    assert (lowest < -1) == (not options)
    note = f"the output goes down to {lowest:.3g} where the source is never below 0: --min 0 keeps it there"
    assert (note in done.err) == said


def test_what_an_integer_type_cuts_off_is_counted_and_limits_leave_nothing_to_cut(tmp_path):
    canopy = np.random.default_rng(5).exponential(60, (40, 44)).clip(0, 250).round()
    source = make_source(tmp_path / "s.tif", canopy, np.ones(canopy.shape, bool), "uint8", None)
    guide, out = make_guide(tmp_path / "g.tif", canopy.shape), tmp_path / "out.tif"
    run(source, guide, out, dtype="float64")
    expected = int(((np.rint(physical(out)) < 0) | (np.rint(physical(out)) > 255)).sum())
    for more, notes in (
        ({}, [f"{expected} output pixels lie beyond what uint8 holds"]),
        ({"minimum": 0, "maximum": 254}, []),
    ):
        heard = []
        run(source, guide, out, dtype="uint8", overwrite=True, on_event=heard.append, **more)
        said = [event.text for event in heard if isinstance(event, Note) and "beyond what" in event.text]
        assert [text.partition(" and were")[0] for text in said] == notes
    np.testing.assert_allclose(block_means(physical(out), 4), canopy, rtol=0, atol=0.51)


@pytest.mark.parametrize("limits", [(3, 3), (5, 1), (float("nan"), 2)])
def test_limits_that_leave_nothing_are_refused(limits):
    with pytest.raises(UsageError, match="the first must be smaller"):
        Recipe(minimum=limits[0], maximum=limits[1])


def test_where_the_guide_is_missing_the_source_is_interpolated(tmp_path):
    """The guide ends at source column 20; what lies beyond is the interpolation, and the run says how much."""
    source = make_source(tmp_path / "source.tif", heights((32, 40)), True, "float32", -9999)
    guide = make_guide(tmp_path / "guide.tif", (32, 40))
    with rasterio.open(guide, "r+") as dataset:
        stored = dataset.read()
        stored[:, :, 55:] = 0
        dataset.write(stored)
        dataset.nodata = 0
    notes = []
    report = run(source, guide, tmp_path / "out.tif", 4, on_event=notes.append, **SMALL_NETWORK)
    run(source, guide, tmp_path / "plain.tif", 4)
    made, plain = physical(tmp_path / "out.tif"), physical(tmp_path / "plain.tif")
    assert report.guided == pytest.approx(0.5, abs=0.02)
    assert any(isinstance(note, Note) and f"no guide on {1 - report.guided:.1%}" in note.text for note in notes)
    np.testing.assert_allclose(made[:, 84:], plain[:, 84:], atol=2e-5)
    assert np.abs(made[:, :70] - plain[:, :70]).max() > 0.01
    check_means(source, tmp_path / "out.tif", 4)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert float(dataset.tags()["GEOSR_GUIDED_PERCENT"]) == pytest.approx(100 * report.guided, abs=0.01)


@pytest.mark.usefixtures("guided_bicubic")
def test_a_guide_without_a_valid_pixel_leaves_the_interpolation_or_is_refused(tmp_path):
    source = make_source(tmp_path / "source.tif", heights((16, 20)), True, "float32", -9999)
    guide = write(tmp_path / "guide.tif", np.zeros((3, 100, 100), "uint8"), AFFINE * Affine.scale(0.4), nodata=0)
    with pytest.raises(InputError, match=r"guide"):
        run(source, guide, tmp_path / "out.tif", 4)


def test_values_under_masks_have_no_influence(tmp_path):
    """1 or 1e30 under the source's mask, 1 or 1e30 (and 200) under the guides': no bit of a pixel or a tag differs.

    But for the tags that tell the files apart, which differ.
    """
    valid, seen = holes((32, 40)), np.ones((90, 110), bool)
    seen[:40, 60:] = False
    digests = set()
    for hidden in (1.0, 1e30, np.nan):
        folder = tmp_path / str(hidden)
        folder.mkdir()
        source = write(folder / "source.tif", np.where(valid, heights((32, 40)), hidden).astype("float32"), AFFINE,
                       mask=valid)  # fmt: skip
        image = np.random.default_rng(4).normal(10, 3, (2, 90, 110))
        affine = AFFINE * Affine.translation(-2, -2) * Affine.scale(0.4)
        guide = write(folder / "guide.tif", np.where(seen, image, hidden).astype("float32"), affine, mask=seen)
        run(source, guide, folder / "out.tif", 4, tile=96, **SMALL_NETWORK)
        with rasterio.open(folder / "out.tif") as made:
            tags = {name: value for name, value in made.tags().items() if not name.endswith("_DIGEST")}
            digests.add((hashlib.sha256(made.read().tobytes()).hexdigest(), *sorted(tags.items())))
    assert len(digests) == 1


@pytest.mark.parametrize("recipe", [{}, SMALL_NETWORK], ids=["bicubic", "mmsr"])
@pytest.mark.parametrize("constant", ["source", "guide", "guide band"])
def test_constants(tmp_path, constant, recipe):
    values = np.full((20, 24), 431.25) if constant == "source" else heights((20, 24))
    source = make_source(tmp_path / "source.tif", values, holes((20, 24)), "float32", -9999)
    guide = make_guide(tmp_path / "guide.tif", (20, 24))
    if constant != "source":
        with rasterio.open(guide, "r+") as dataset:
            for band in (1, 2, 3) if constant == "guide" else (2,):
                dataset.write(np.full(dataset.shape, 77, "uint8"), band)
    run(source, guide, tmp_path / "out.tif", 4, **recipe)
    check_means(source, tmp_path / "out.tif", 4)
    if constant == "source":
        made = physical(tmp_path / "out.tif")
        np.testing.assert_allclose(made[np.isfinite(made)], 431.25, rtol=1e-7)


def test_tiles_without_data_are_skipped(tmp_path):
    valid = np.zeros((60, 70), bool)
    valid[5:12, 8:20] = True
    source = make_source(tmp_path / "source.tif", heights(), valid, "float32", -9999)
    report = run(source, make_guide(tmp_path / "guide.tif"), tmp_path / "out.tif", 4, tile=96)
    assert 0 < report.tiles - report.skipped <= 4
    check_means(source, tmp_path / "out.tif", 4)


def test_a_single_valid_pixel(tmp_path):
    valid = np.zeros((20, 24), bool)
    valid[7, 9] = True
    source = make_source(tmp_path / "source.tif", heights((20, 24)), valid, "float32", -9999)
    run(source, make_guide(tmp_path / "guide.tif", (20, 24)), tmp_path / "out.tif", 4, **SMALL_NETWORK)
    check_means(source, tmp_path / "out.tif", 4)

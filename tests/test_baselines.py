"""Baselines against other implementations: GDAL's warp, formulas in float64, scikit-learn itself."""

import numpy as np
import pytest
import rasterio
from outputs import physical
from pairs import contents, make_pair, upscale
from rasterio.warp import Resampling, reproject
from rasters import UTM, grid, write

from geosr.errors import UsageError
from geosr.methods import create
from geosr.methods.base import Patch
from geosr.methods.filters import guided_filter
from geosr.methods.solve import interpolate


def make_patch(rows=7, cols=6, scale=3, bands=2, seed=0, gaps=True):
    rng, shape = np.random.default_rng(seed), (rows * scale, cols * scale)
    guide, source = rng.normal(size=(bands, *shape)), rng.normal(size=(rows, cols))
    valid, known = np.ones(shape, bool), np.ones((rows, cols), bool)
    if gaps:
        valid, known = rng.random(shape) > 0.2, rng.random((rows, cols)) > 0.2
        valid[:scale, :scale] = False
    return Patch(guide.astype(np.float32), valid, source.astype(np.float32), known)


def answer(method, patch):
    return method.predict(patch, method.fit([patch], 0, "cpu"), "cpu").values


@pytest.mark.parametrize("name", ["nearest", "bilinear", "lanczos"])
@pytest.mark.parametrize("scale", [2, 4])
def test_without_consistency_interpolation_is_gdals(name, scale, tmp_path):
    source = (100 + np.random.default_rng(1).normal(0, 5, (20, 24))).astype("float32")
    write(tmp_path / "source.tif", source, grid(500000, 5000000, 4), UTM)
    guide = np.zeros((1, 20 * scale, 24 * scale), "uint8") + np.arange(24 * scale, dtype="uint8")
    write(tmp_path / "guide.tif", guide, grid(500000, 5000000, 4 / scale), UTM)
    options = ("--scale", scale, "--tile", 64, "--consistency", "off")
    assert upscale(tmp_path, *options, method=name).code == 0
    with rasterio.open(tmp_path / "out.tif") as made:
        values, transform = made.read(1), made.transform
    expected = np.empty_like(values)
    kernel = getattr(Resampling, name)
    reproject(
        source,
        expected,
        src_transform=grid(500000, 5000000, 4),
        dst_transform=transform,
        src_crs=UTM,
        dst_crs=UTM,
        resampling=kernel,
    )
    rim = 3 * scale
    inside = slice(rim, -rim), slice(rim, -rim)
    np.testing.assert_allclose(values[inside], expected[inside], atol=2e-3)


def test_bicubic_is_keys_formula():
    source = np.random.default_rng(2).normal(size=(9, 9)).astype(np.float32)
    patch = Patch(np.zeros((1, 36, 36), np.float32), np.ones((36, 36), bool), source, np.ones((9, 9), bool))
    values, a = answer(create("bicubic"), patch), -0.75

    def kernel(x):
        x = abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        return near if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    for row, col in ((17, 20), (14, 15), (22, 19)):
        at = [(place + 0.5) / 4 - 0.5 for place in (row, col)]
        weights = np.array([[kernel(at[0] - i) * kernel(at[1] - j) for j in range(9)] for i in range(9)])
        assert values[row, col] == pytest.approx(float((weights * source).sum()), abs=1e-5)


@pytest.mark.parametrize("bands", [1, 3])
def test_the_guided_filter_is_its_formula_on_valid_pixels(bands):
    patch, radius, epsilon = make_patch(bands=bands, scale=2, gaps=True), 2, 0.05
    values = np.random.default_rng(3).normal(size=patch.guide_valid.shape).astype(np.float32)
    valid = patch.guide_valid
    found = guided_filter(values, patch.guide, valid, radius, epsilon)
    rows, cols = valid.shape
    models = {}

    def window(row, col):
        return slice(max(row - radius, 0), row + radius + 1), slice(max(col - radius, 0), col + radius + 1)

    for row in range(rows):
        for col in range(cols):
            inside = window(row, col)
            known = valid[inside]
            if known.any():
                image, target = patch.guide[:, *inside][:, known].astype(float), values[inside][known].astype(float)
                centred = image - image.mean(1, keepdims=True)
                covariance = centred @ centred.T / known.sum() + epsilon * np.eye(bands)
                slope = np.linalg.solve(covariance, centred @ (target - target.mean()) / known.sum())
                models[row, col] = np.append(slope, target.mean() - slope @ image.mean(1))
    for row in range(rows):
        for col in range(cols):
            seen = [models[r, c] for r, c in models if abs(r - row) <= radius and abs(c - col) <= radius]
            expected = np.mean(seen, 0) @ np.append(patch.guide[:, row, col], 1)
            if (row, col) in models:
                assert found[row, col] == pytest.approx(expected, abs=1e-5)


def test_joint_bilateral_upsampling_is_its_formula_on_valid_pixels():
    patch = make_patch(scale=3)
    settings = {"radius": 2, "distance": 0.8, "contrast": 0.5}
    found = answer(create("joint-bilateral", settings=settings), patch)
    plain, scale = interpolate(patch.source, 3), 3
    for row, col in np.ndindex(found.shape):
        total = weights = 0.0
        for low_row, low_col in np.ndindex(patch.source.shape):
            block = slice(low_row * scale, (low_row + 1) * scale), slice(low_col * scale, (low_col + 1) * scale)
            near = abs(low_row - row // scale) <= 2 and abs(low_col - col // scale) <= 2
            inside = patch.guide_valid[block]
            if not near or not patch.source_valid[low_row, low_col] or not inside.any():
                continue
            colour = patch.guide[:, *block][:, inside].astype(float).mean(1)
            apart = ((patch.guide[:, row, col] - colour) ** 2).mean()
            far = ((row + 0.5) / scale - low_row - 0.5) ** 2 + ((col + 0.5) / scale - low_col - 0.5) ** 2
            weight = np.exp(-far / (2 * 0.8**2)) * (np.exp(-apart / (2 * 0.5**2)) + 1e-6)
            total, weights = total + weight * patch.source[low_row, low_col], weights + weight
        expected = total / weights if weights else plain[row, col]
        assert found[row, col] == pytest.approx(expected, abs=1e-5)


def test_ridge_regression_is_the_normal_equations_with_the_residual_added():
    patch = make_patch(10, 9, 4, gaps=False)
    values = answer(create("regression", settings={"model": "ridge", "homogeneous": 1.0, "penalty": 2.0}), patch)
    means = patch.guide.reshape(2, 10, 4, 9, 4).mean(axis=(2, 4)).reshape(2, -1).astype(float)
    centre, level = means.mean(1, keepdims=True), float(patch.source.mean())
    centred = means - centre
    slope = np.linalg.solve(centred @ centred.T + 2 * np.eye(2), centred @ (patch.source.ravel() - level))
    expected = level + np.tensordot(slope, patch.guide - centre[..., None], 1)
    residual = patch.source - expected.reshape(10, 4, 9, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(values, expected + interpolate(residual.astype(np.float32), 4), atol=1e-4)


def test_trees_find_what_a_line_cannot_and_learn_from_the_scene():
    rng = np.random.default_rng(6)
    guide = np.kron(rng.uniform(-2, 2, (2, 24, 24)), np.ones((1, 6, 6))).astype(np.float32)
    truth = np.where(guide[0] > 0, np.abs(guide[1]), -1)

    def patch_of(rows):
        part = truth[rows].reshape(-1, 4, 36, 4).mean(axis=(1, 3)).astype(np.float32)
        return Patch(guide[:, rows], np.ones(truth[rows].shape, bool), part, np.ones(part.shape, bool))

    seen, other = patch_of(slice(0, 72)), patch_of(slice(72, 144))
    errors = {}
    for model in ("forest", "ridge"):
        method = create("regression", settings={"model": model, "leaf": 3})
        values = method.predict(other, method.fit([seen], 0, "cpu"), "cpu").values
        errors[model] = np.sqrt(((values - truth[72:]) ** 2).mean())
    plain = np.sqrt(((interpolate(other.source, 4) - truth[72:]) ** 2).mean())
    assert errors["forest"] < 0.7 * plain
    assert errors["forest"] < 0.7 * errors["ridge"]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("regression", {"model": "deep"}),
        ("regression", {"trees": 0}),
        ("regression", {"homogeneous": 0.0}),
        ("guided-filter", {"epsilon": 0.0}),
        ("guided-filter", {"radius": 99.0}),
        ("joint-bilateral", {"contrast": -1.0}),
        ("joint-bilateral", {"colour": 1}),
        ("lanczos", {"taps": 3}),
    ],
)
def test_settings_out_of_range_are_refused(name, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        create(name, settings=wrong)


@pytest.mark.parametrize("name", ["lanczos", "guided-filter", "joint-bilateral", "regression"])
def test_on_a_scene_with_gaps_any_number_of_workers_gives_the_same_bytes(name, tmp_path):
    make_pair(tmp_path, size=40, nodata=-1)
    with rasterio.open(tmp_path / "source.tif", "r+") as source:
        values = source.read(1)
        values[10:14, 3:9] = -1
        source.write(values, 1)
    assert upscale(tmp_path, "--tile", 96, "--workers", 1, method=name).code == 0
    assert upscale(tmp_path, "--tile", 96, "--workers", 3, method=name, output="again.tif").code == 0
    made = contents(tmp_path)
    assert made["out.tif"] == made["again.tif"]
    high = physical(tmp_path / "out.tif")
    means = np.asarray(high).reshape(40, 4, 40, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(means[values != -1], values[values != -1], atol=1e-3)
    assert np.isnan(means[values == -1]).all()


def test_what_does_not_use_the_guide_shows_no_influence_of_it(tmp_path):
    make_pair(tmp_path)
    assert upscale(tmp_path, "--guide-influence", tmp_path / "influence.tif", method="lanczos").code == 0
    assert not np.nan_to_num(physical(tmp_path / "influence.tif")).any()

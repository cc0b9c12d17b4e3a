"""Every metric against scipy, scikit-image or a number worked out by hand; any cut into blocks gives the same."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import score_heights
from scipy import ndimage, stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from geosr.grid import Window
from geosr.metrics import HALO, Block, Scores, near_steps, score, score_arrays, slope_and_aspect


def scene(shape=(60, 70), seed=0, holes=0.0):
    """A smooth truth with a step, and a prediction with bias, noise and some outliers."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=shape), 4) * 20 + 300
    truth[:, shape[1] // 2 :] += 25
    prediction = truth + rng.standard_t(2, shape) * 0.4 + 0.3
    prediction[rng.random(shape) < holes] = np.nan
    truth[rng.random(shape) < holes] = np.nan
    return prediction, truth


def test_errors_by_hand():
    truth = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, np.nan]])
    prediction = truth + np.array([[0.0, 1, -1], [2, np.nan, 0.5], [-3, 4, 100]])
    found = score_arrays(prediction, truth)
    assert found.pixels == 7
    assert found.rmse == pytest.approx(np.sqrt((0 + 1 + 1 + 4 + 0.25 + 9 + 16) / 7))
    assert found.mae == pytest.approx(11.5 / 7)
    assert found.bias == pytest.approx(3.5 / 7)
    # errors -3 -1 0 0.5 1 2 4: median 0.5, deviations 3.5 1.5 0.5 0 0.5 1.5 3.5
    assert found.nmad == pytest.approx(1.4826 * 1.5, rel=5e-4)
    assert found.le90 == pytest.approx(3.4, rel=5e-4)  # 0.4 of the way from 3 to 4
    assert found.psnr == pytest.approx(20 * np.log10(7 / found.rmse))
    assert found.ssim is None


def test_quantiles_against_scipy_and_numpy():
    prediction, truth = scene()
    errors = prediction - truth
    found = score_arrays(prediction, truth)
    assert found.nmad == pytest.approx(stats.median_abs_deviation(errors, axis=None, scale="normal"), rel=5e-4)
    assert found.le90 == pytest.approx(np.quantile(np.abs(errors), 0.9), rel=5e-4)


def test_a_large_bias_does_not_blur_the_nmad():
    prediction, truth = scene()
    errors = 0.01 * (prediction - truth) + 2000
    found = score_arrays(truth + errors, truth)
    assert found.nmad == pytest.approx(stats.median_abs_deviation(errors, axis=None, scale="normal"), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    bias=st.sampled_from([0.0, 0.3, -45.0, 273.15]),
    blunder=st.sampled_from([-9999.0, -3.4e38, 1e5, 40.0]),
    blunders=st.floats(0, 0.4),
    order=st.permutations(range(4)),
)
def test_blunders_do_not_blur_the_quantiles_whichever_block_comes_first(seed, bias, blunder, blunders, order):
    """All of them are in one block, which may hold nothing else."""
    rng = np.random.default_rng(seed)
    errors = bias + 10.0 ** rng.uniform(-3, 1) * rng.standard_t(rng.choice([1, 2, 30]), (40, 25))
    errors[: round(40 * blunders)] = blunder
    blocks = [Block.whole(part, np.zeros_like(part)) for part in np.array_split(errors, [2, 7, 20])]
    found = score(lambda: [blocks[place] for place in order])
    nmad, median = stats.median_abs_deviation(errors, axis=None, scale="normal"), abs(np.median(errors))
    assert found.nmad == pytest.approx(nmad, rel=5e-4, abs=2e-7 * median)
    assert found.le90 == pytest.approx(np.quantile(np.abs(errors), 0.9), rel=2.5e-4)


def test_psnr_and_ssim_against_scikit_image():
    prediction, truth = scene()
    span, found = np.ptp(truth), score_arrays(prediction, truth)
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(truth, prediction, data_range=span))
    expected = structural_similarity(
        truth, prediction, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert found.ssim == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("level", [0, 300, 5000, 4.5e6, 1.7e9])
@pytest.mark.parametrize("bias", [0, 40])
def test_ssim_of_small_relief_far_from_zero(level, bias):
    """Variances are those of the differences from the mean, whatever number the values lie around."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-40, 40, (2, 30, 30)) / 4096  # exact in float64 at every level
    prediction, truth = level + bias + steps[0] + steps[1], level + steps[1]
    span, weights = np.ptp(truth), np.exp(-0.5 * (np.arange(-HALO, HALO + 1) / 1.5) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    a, b = (np.lib.stride_tricks.sliding_window_view(image, weights.shape) for image in (prediction, truth))

    def mean(of):
        return (of * weights).sum(axis=(2, 3))

    mean_a, mean_b = (level + mean(image - level) for image in (a, b))
    off_a, off_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    expected = (2 * mean_a * mean_b + c1) * (2 * mean(off_a * off_b) + c2)
    expected /= (mean_a**2 + mean_b**2 + c1) * (mean(off_a**2) + mean(off_b**2) + c2)
    assert score_arrays(prediction, truth).ssim == pytest.approx(expected.mean(), rel=1e-6)


def test_ssim_leaves_out_windows_with_an_invalid_pixel():
    prediction, truth = scene()
    _, full = structural_similarity(
        truth, prediction, data_range=np.ptp(truth), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    prediction[20, 30] = np.nan
    near = ndimage.maximum_filter(np.isnan(prediction), 2 * HALO + 1)
    inside = np.zeros(truth.shape, bool)
    inside[HALO:-HALO, HALO:-HALO] = True
    assert score_arrays(prediction, truth).ssim == pytest.approx(full[inside & ~near].mean(), rel=1e-9)


def test_edges_are_steps_and_not_slopes():
    row, col = np.mgrid[:40, :60]
    plane = 0.5 * row + 0.25 * col
    assert score_arrays(plane, plane).edge_share == 0
    stepped = plane + 10 * (col >= 30)
    errors = np.where(np.abs(col - 29.5) < 2, 3.0, 1.0)
    found = score_arrays(stepped + errors, stepped)
    assert 1 < found.step < 10
    assert found.edge_share == pytest.approx(6 / 60)  # three columns on each side of the step
    assert found.edge_rmse == pytest.approx(np.sqrt((4 * 9 + 2 * 1) / 6))
    assert found.flat_rmse == pytest.approx(1)
    assert score_arrays(stepped, stepped).edge_share == found.edge_share
    block = Block.whole(stepped, stepped)
    assert score(lambda: [block], step=11).edge_share == 0
    assert score(lambda: [block], step=0.4).edge_share == 1


def test_edges_against_scipys_dilation():
    _, truth = scene(holes=0.02)
    valid = np.isfinite(truth)
    tall = np.zeros(truth.shape, bool)
    for axis in (0, 1):
        jump = np.abs(np.diff(truth, axis=axis)) > 5  # NaN never is
        low, high = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        low[axis], high[axis] = (0, 1), (1, 0)
        tall |= np.pad(jump, low) | np.pad(jump, high)
    expected = ndimage.maximum_filter(tall, 5, mode="constant")
    np.testing.assert_array_equal(near_steps(np.where(valid, truth, 0.0), valid, 5), expected)


def test_slope_and_aspect_against_sobel():
    _, heights = scene()
    slope, aspect = slope_and_aspect(heights, (2.0, 3.0))
    x, y = (ndimage.sobel(heights, axis=axis) / (8 * step) for axis, step in ((1, 2.0), (0, 3.0)))
    inner = slice(1, -1), slice(1, -1)
    np.testing.assert_allclose(slope, np.degrees(np.arctan(np.hypot(x, y)))[inner], atol=1e-9)
    np.testing.assert_allclose(aspect, np.degrees(np.arctan2(y, x))[inner], atol=1e-9)


def test_errors_of_slope_and_aspect_by_hand():
    row, col = np.mgrid[:20, :20] * 2.0  # metres
    truth = np.tan(np.radians(20)) * col
    steeper, turned = np.tan(np.radians(23)) * col, np.tan(np.radians(20)) * -row
    found = score_heights(steeper, truth, (2, 2))
    assert found.slope_rmse == pytest.approx(3)
    assert found.aspect_rmse == pytest.approx(0, abs=1e-6)
    found = score_heights(turned, truth, (2, 2))
    assert found.slope_rmse == pytest.approx(0, abs=1e-6)
    assert found.aspect_rmse == pytest.approx(90)
    gentle = score_heights(turned / 10, truth / 10, (2, 2))
    assert gentle.aspect_rmse is None
    assert score_arrays(truth, truth).slope_rmse is None


def test_the_guides_texture_in_the_errors_is_found():
    rng = np.random.default_rng(1)
    _, truth = scene()
    guide, valid = rng.normal(size=(2, *truth.shape)), np.ones(truth.shape, bool)

    def copied(errors):
        core = Window(0, 0, *truth.shape)
        return score(lambda: [Block(truth + errors, truth, valid, core, guide, valid)]).guide_copied

    assert copied(-0.2 * guide[1]) == pytest.approx(-1)
    assert abs(copied(rng.normal(size=truth.shape))) < 0.06
    mixed = guide[0] + rng.normal(size=truth.shape)
    details = [image - ndimage.uniform_filter(image, 3) for image in (mixed, guide[0])]
    away = ~near_steps(truth, valid, score_arrays(truth, truth).step)[1:-1, 1:-1]
    expected = np.corrcoef(*(image[1:-1, 1:-1][away] for image in details))[0, 1]
    assert copied(mixed) == pytest.approx(expected, abs=1e-3)


def cut(block, edges):
    """The same in parts, each with its rim."""
    rows, cols = block.truth.shape
    row_edges, col_edges = sorted({0, rows, *edges[0]}), sorted({0, cols, *edges[1]})
    for top, bottom in pairwise(row_edges):
        for left, right in pairwise(col_edges):
            y, x = max(top - HALO, 0), max(left - HALO, 0)
            part = slice(y, min(bottom + HALO, rows)), slice(x, min(right + HALO, cols))
            core = Window(top - y, left - x, bottom - top, right - left)
            yield Block(
                block.prediction[part],
                block.truth[part],
                block.valid[part],
                core,
                block.guide[:, *part],
                block.guide_valid[part],
            )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    holes=st.sampled_from([0.0, 0.01, 0.3]),
    rows=st.lists(st.integers(1, 39), max_size=3),
    cols=st.lists(st.integers(1, 29), max_size=3),
)
def test_any_cut_into_blocks_gives_the_same_and_hidden_values_have_no_say(seed, holes, rows, cols):
    prediction, truth = scene((40, 30), seed, holes)
    whole = Block.whole(prediction, truth)
    rng = np.random.default_rng(seed)
    guide, seen = rng.normal(size=(2, 40, 30)), rng.random((40, 30)) > holes
    rubbish = np.where(whole.valid, 0, 1e6)
    core = Window(0, 0, 40, 30)
    expected = score(lambda: [Block(whole.prediction, whole.truth, whole.valid, core, guide, seen)], spacing=(1.0, 2.0))
    other = Block(
        whole.prediction + rubbish, whole.truth - rubbish, whole.valid, core, np.where(seen, guide, 1e6), seen
    )
    found = score(lambda: cut(other, (rows, cols)), spacing=(1.0, 2.0))
    for name, value in vars(expected).items():
        rounding = 1e-3 if name in ("nmad", "le90") else 1e-9
        assert vars(found)[name] == (None if value is None else pytest.approx(value, rel=rounding, abs=1e-12)), name


def test_what_is_not_defined_is_none():
    flat = np.full((20, 20), 7.0)
    assert score_arrays(np.full((20, 20), np.nan), flat) == Scores(0)
    found = score_arrays(flat + 1, flat)
    assert (found.rmse, found.bias, found.psnr, found.ssim, found.edge_share) == (1, 1, None, None, 0)
    assert score_arrays(flat, flat).le90 == 0

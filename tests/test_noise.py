"""Noise in the guide: measured where there is some, removed as the formula says, and nothing else touched."""

import numpy as np
import pytest
import rasters
from outputs import block_means, physical
from pairs import upscale

from geosr.denoise import remove_noise
from geosr.noise import LEAST, white_noise
from geosr.pair import Pair, Stats, normalise


def steps(shape=(64, 80)):
    """Ground with edges, no noise."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return (np.where((rows // 17 + cols // 23) % 2, 1.0, -1.0) + 0.01 * rows).astype("float32")


@pytest.mark.parametrize("level", [0.05, 0.5, 2.0])
def test_white_noise_is_found_to_a_tenth(level):
    noisy = steps() + np.random.default_rng(0).normal(0, level, (64, 80)).astype("float32")
    assert white_noise(noisy, np.ones(noisy.shape, bool)) == pytest.approx(level, rel=0.1)


def test_edges_and_texture_are_no_noise_and_invalid_pixels_have_no_say():
    texture = np.random.default_rng(1).normal(0, 1, (32, 40)).repeat(2, 0).repeat(2, 1).astype("float32")
    valid = np.ones(texture.shape, bool)
    assert white_noise(steps(), valid) < 0.01
    assert white_noise(texture, valid) == 0
    noisy = np.random.default_rng(2).normal(0, 1, texture.shape).astype("float32")
    valid[20:30] = False
    hidden = np.where(valid, noisy, 1e6).astype("float32")
    assert white_noise(hidden, valid) == white_noise(noisy, valid)
    assert white_noise(noisy[:2, :2], valid[:2, :2]) == 0


def squares_alike(image, row, col, count):
    """First pixels of the 6 x 6 squares within ten pixels that differ least from one in the mean square."""
    height, width = image.shape[1] - 5, image.shape[2] - 5
    near = [
        (r, c)
        for r in range(max(row - 10, 0), min(row + 11, height))
        for c in range(max(col - 10, 0), min(col + 11, width))
    ]
    own = image[:, row : row + 6, col : col + 6]
    return sorted(near, key=lambda at: ((image[:, at[0] : at[0] + 6, at[1] : at[1] + 6] - own) ** 2).sum())[:count]


def one_square_at_a_time(image, pilot, count, origin):
    """The non-local Bayes estimate of an image with noise of variance 1, by the paper's formulas in plain float64."""
    total, weights = np.zeros(image.shape), np.zeros(image.shape)
    steps = {round(3.975 * step) for step in range(99)}
    starts = [  # every fourth pixel of the scene, about, and the first and the last square
        [at for at in range(side - 5) if at + first in steps or at in (0, side - 6)]
        for side, first in zip(image.shape[1:], origin, strict=True)
    ]
    for row in starts[0]:
        for col in starts[1]:
            alike = squares_alike(image[:1] if pilot is None else pilot, row, col, count)
            for part in range(len(image)):
                cut = [np.s_[part, r : r + 6, c : c + 6] for r, c in alike]
                noisy = np.array([image[place].ravel() for place in cut])
                known = noisy if pilot is None else np.array([pilot[place].ravel() for place in cut])
                mean, spread = known.mean(0), np.cov(known.T)
                if pilot is not None:
                    found = mean + (noisy - mean) @ np.linalg.inv(spread + np.eye(36)) @ spread
                elif noisy.var() <= 1.1:
                    found = np.full(noisy.shape, noisy.mean())
                else:
                    least = (1 - np.sqrt(36 / count)) ** 2
                    values, vectors = np.linalg.eigh(spread)
                    found = mean + (noisy - mean) @ vectors @ np.diag(1 - 1 / values.clip(least)) @ vectors.T
                for place, square in zip(cut, found, strict=True):
                    total[place] += square.reshape(6, 6)
                    weights[place] += 1
    return total / weights


@pytest.mark.parametrize("origin", [(0, 0), (5, 18)])
def test_it_is_the_estimate_of_the_paper(origin):
    rng = np.random.default_rng(3)
    noise = np.array([0.4, 0.8])
    clean = np.stack([steps((30, 26)), -2 * steps((30, 26)) + 0.3 * np.cos(np.arange(26) / 3)])
    bands = (clean + rng.normal(0, 1, clean.shape) * noise[:, None, None]).astype("float32")
    image = bands.astype(float) / noise[:, None, None]
    covariance = np.cov(bands.reshape(2, -1))
    axes = np.linalg.eigh(covariance / np.outer(noise, noise))[1][:, ::-1]
    parts = np.einsum("bp,bhw->phw", axes, image)
    second = one_square_at_a_time(parts, one_square_at_a_time(parts, None, 90, origin), 60, origin)
    expected = np.einsum("bp,phw->bhw", axes, second) * noise[:, None, None]
    np.testing.assert_allclose(remove_noise(bands, noise, covariance, origin), expected, atol=1e-3)


def test_a_pixel_is_the_same_in_every_tile_that_holds_it_far_from_its_edges():
    rng = np.random.default_rng(5)
    clean = np.stack([steps((150, 170)), np.roll(steps((150, 170)), 7, 1), 0.5 * steps((150, 170))])
    bands, noise = (clean + rng.normal(0, 0.6, clean.shape)).astype("float32"), np.full(3, 0.6)
    covariance = np.cov(bands.reshape(3, -1))
    whole = remove_noise(bands, noise, covariance)
    part = remove_noise(bands[:, 18:, 27:], noise, covariance, (18, 27))
    np.testing.assert_allclose(part[:, 48:, 48:], whole[:, 66:, 75:], atol=1e-5)
    assert np.abs(part[:, :24] - whole[:, 18:42, 27:]).max() > 1e-3


def test_the_scenes_components_are_those_of_its_pixels():
    rng = np.random.default_rng(8)
    bands = np.stack([steps(), -2 * steps(), steps()]) + rng.normal(0, 1, (3, 64, 80))
    pair = Pair(bands.astype("float32"), np.ones((64, 80), bool), np.ones((16, 20)), np.ones((16, 20), bool))
    stats = Stats.robust([pair, pair])
    expected = np.corrcoef(bands.reshape(3, -1))
    np.testing.assert_allclose(stats.guide_covariance, expected, atol=0.08)  # from a fifth of the pixels


def test_saturated_and_constant_pixels_stay_near_what_they_are():
    rng = np.random.default_rng(6)
    bands = (steps((40, 48)) + rng.normal(0, 0.7, (3, 40, 48))).astype("float32").clip(-0.9, 0.9)
    bands[:, 12:30, 20:40] = 0
    found = remove_noise(bands, np.full(3, 0.7), np.cov(bands.reshape(3, -1)))
    assert np.abs(found).max() < 1.2
    assert np.abs(found[:, 16:26, 24:36]).max() < 0.1


def test_what_is_too_small_to_find_squares_alike_is_kept():
    bands = np.random.default_rng(7).normal(size=(2, 15, 60)).astype("float32")
    np.testing.assert_array_equal(remove_noise(bands, np.ones(2), np.eye(2)), bands)
    np.testing.assert_array_equal(remove_noise(bands, np.zeros(2), np.eye(2)), bands)


def test_only_noisy_bands_of_noisy_guides_change():
    rng = np.random.default_rng(4)
    clean, valid = steps(), np.ones((64, 80), bool)
    noisy = clean + rng.normal(0, 1, clean.shape).astype("float32")
    source = block_means(clean.astype(float), 4)

    def guide_of(*bands):
        pair = Pair(np.stack(bands), valid, source, np.ones(source.shape, bool))
        stats = Stats.robust([pair])
        patch = normalise(pair, stats)
        assert patch.noise == max(stats.guide_noise)
        return stats.guide_noise, patch.guide

    (none, some), smoothed = guide_of(clean, noisy)
    assert none == 0
    assert some > LEAST
    np.testing.assert_array_equal(smoothed[0], guide_of(clean, clean)[1][0])
    before, after = (np.corrcoef(band.ravel(), clean.ravel())[0, 1] for band in (noisy, smoothed[1]))
    assert before < 0.75
    assert after > 0.95


def test_a_noisy_guide_helps_still_and_the_run_says_so(tmp_path):
    truth = 10 * steps((160, 160)).astype(float)
    rng = np.random.default_rng(5)
    noisy = np.stack([steps((160, 160)) * 60 + 120 + rng.normal(0, 50, (160, 160)) for _ in range(3)])
    rasters.write(tmp_path / "source.tif", block_means(truth, 4).astype("float32"), rasters.grid(0, 0, 4), rasters.UTM)
    guide = noisy.clip(0, 255).astype("uint8")
    rasters.write(tmp_path / "guide.tif", guide, rasters.grid(0, 0, 1), rasters.UTM)
    for method in ("diffusion", "bicubic"):
        done = upscale(tmp_path, method=method, output=f"{method}.tif")
        assert done.code == 0, done.err
        assert ("the guide is noisy" in done.err) == (method == "diffusion")  # bicubic does not look at it
    errors = [np.sqrt(np.mean((physical(tmp_path / f"{name}.tif") - truth) ** 2)) for name in ("diffusion", "bicubic")]
    assert errors[0] < 0.6 * errors[1]

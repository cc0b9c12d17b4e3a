"""Noise in the guide: measured where there is some, removed as the formula says, and nothing else touched."""

import numpy as np
import pytest
import rasters
from outputs import block_means, physical
from pairs import upscale

from geosr.noise import LEAST, remove_noise, white_noise
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


def one_pixel_at_a_time(bands, valid, noise, row, col):
    """The mean over all pixels within reach, weighted by their squares' likeness, in plain float64."""
    total, weights = np.zeros(len(bands)), 0.0
    for other_row in range(max(row - 11, 0), min(row + 12, valid.shape[0])):
        for other_col in range(max(col - 11, 0), min(col + 12, valid.shape[1])):
            if not valid[other_row, other_col]:
                continue
            distances = []
            for down in range(-3, 4):
                for right in range(-3, 4):
                    places = [(r + down, c + right) for r, c in ((row, col), (other_row, other_col))]
                    if all(0 <= r < valid.shape[0] and 0 <= c < valid.shape[1] for r, c in places):
                        first, second = ((bands[:, r, c] * valid[r, c] / noise) for r, c in places)
                        distances.append(np.mean((first - second) ** 2))
            weight = np.exp(-max(np.mean(distances) - 2, 0) / 0.25)
            total, weights = total + weight * bands[:, other_row, other_col], weights + weight
    return total / weights


def test_it_is_the_mean_of_what_looks_alike():
    rng = np.random.default_rng(3)
    noise = np.array([0.4, 0.8])
    bands = np.stack([steps((30, 26)), -steps((30, 26))]) + rng.normal(0, 1, (2, 30, 26)) * noise[:, None, None]
    bands, valid = bands.astype("float32"), rng.random((30, 26)) > 0.1
    found = remove_noise(bands, valid, noise)
    for row, col in [(0, 0), (29, 25), (12, 13), (5, 20), (17, 8)]:
        expected = one_pixel_at_a_time(bands.astype(float), valid, noise, row, col) if valid[row, col] else None
        np.testing.assert_allclose(found[:, row, col], bands[:, row, col] if expected is None else expected, atol=1e-4)
    np.testing.assert_array_equal(found[:, ~valid], bands[:, ~valid])


def test_only_noisy_bands_of_noisy_guides_change():
    rng = np.random.default_rng(4)
    clean, valid = steps(), np.ones((64, 80), bool)
    noisy = clean + rng.normal(0, 1, clean.shape).astype("float32")
    source = block_means(clean.astype(float), 4)

    def guide_of(*bands):
        pair = Pair(np.stack(bands), valid, source, np.ones(source.shape, bool))
        stats = Stats.measure([pair], noise=True)
        return stats.guide_noise, normalise(pair, stats).guide

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

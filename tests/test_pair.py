"""Statistics, normalisation and filling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosr.pair import Pair, Stats, fill, normalise


def random_pair(rng, *, scale=3, rows=6, cols=5, bands=2, offset=0.0, size=1.0):
    guide = rng.normal(offset, size, (bands, rows * scale, cols * scale)).astype(np.float32)
    source = rng.normal(offset, size, (rows, cols))
    return Pair(guide, rng.random(guide.shape[1:]) > 0.2, source, rng.random(source.shape) > 0.2)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), offset=st.sampled_from([0.0, -300.0, 4.5e6]), size=st.sampled_from([1.0, 1e3]))
def test_statistics_over_several_pairs_are_those_of_all_valid_pixels_at_once(seed, offset, size):
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng, rows=rows, offset=offset, size=size) for rows in (2, 7, 4)]
    stats = Stats.measure(pairs)
    source = np.concatenate([p.source[p.source_valid] for p in pairs])
    assert stats.source_centre == pytest.approx(source.mean(), rel=1e-12, abs=1e-9)
    assert stats.source_spread == pytest.approx(max(source.std(), 1e-12 * abs(source.mean())), rel=1e-9)
    for band in range(2):
        values = np.concatenate([p.guide[band][p.guide_valid] for p in pairs]).astype(np.float64)
        assert stats.guide_centres[band] == pytest.approx(values.mean(), rel=1e-12, abs=1e-9)
        assert stats.guide_spreads[band] == pytest.approx(max(values.std(), 1e-6 * abs(values.mean())), rel=1e-6)


def test_a_patch_has_zero_mean_and_unit_deviation_where_valid():
    pair = random_pair(np.random.default_rng(0), rows=40, cols=40, offset=4.5e6, size=50.0)
    patch = normalise(pair, Stats.measure([pair]))
    known = patch.source[patch.source_valid]
    assert known.mean() == pytest.approx(0, abs=1e-5)
    assert known.std() == pytest.approx(1, abs=1e-5)
    for band in patch.guide:
        assert band[patch.guide_valid].mean() == pytest.approx(0, abs=1e-4)
        assert band[patch.guide_valid].std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("centre", "size"), [(5000.0, 1e-3), (4.5e6, 0.1), (1.7e9, 60.0), (0.0, 1e-15), (1.7e18, 1e9)])
def test_the_source_keeps_its_relief_far_from_zero_and_in_any_unit(centre, size):
    """Millimetres in the mountains, national grids, UNIX seconds, fluxes in SI units: float64 holds them all."""
    relief = np.random.default_rng(0).normal(size=(12, 9))
    guide, known = np.ones((1, 36, 27), np.float32), np.ones((12, 9), bool)
    pair = Pair(guide, np.ones((36, 27), bool), centre + size * relief, known)
    patch = normalise(pair, Stats.measure([pair]))
    expected = (relief - relief.mean()) / relief.std()
    np.testing.assert_allclose(patch.source, expected, atol=2e-6 + 4 * np.spacing(centre) / size)


def test_constant_bands_become_zeros():
    pair = Pair(
        np.full((1, 8, 8), 255, np.float32), np.ones((8, 8), bool), np.full((2, 2), 4.5e6), np.ones((2, 2), bool)
    )
    patch = normalise(pair, Stats.measure([pair]))
    assert not patch.guide.any()
    assert not patch.source.any()


def plain_fill(band, valid):
    """Ring by ring, pixel by pixel."""
    filled, known = np.where(valid, band, 0.0).astype(np.float64), valid.copy()
    for _ in range(16):
        if known.all() or not known.any():
            break
        ring = []
        for i, j in np.argwhere(~known):
            near = np.s_[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            if known[near].any():
                ring.append((i, j, filled[near][known[near]].mean()))
        for i, j, value in ring:
            filled[i, j], known[i, j] = value, True
    return filled


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_fill_is_the_ring_by_ring_mean(seed, share):
    rng = np.random.default_rng(seed)
    bands = rng.normal(size=(2, 9, 13)).astype(np.float32)
    valid = rng.random((9, 13)) > share
    filled = fill(bands, valid)
    for band, expected in zip(filled, bands, strict=True):
        np.testing.assert_allclose(band, plain_fill(expected, valid), atol=1e-5)
    np.testing.assert_array_equal(fill(np.where(valid, bands, np.nan).astype(np.float32), valid), filled)

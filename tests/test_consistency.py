"""The projection, over random shapes, scales and holes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosr.consistency import Consistency, confine, pool, project, spread
from geosr.errors import UsageError


@st.composite
def cases(draw):
    rows, cols, scale = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([1e-6, 1.0, 4.5e6]))
    values = rng.normal(size, size, (rows * scale, cols * scale))
    valid = rng.random(values.shape) > draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    source, source_valid = rng.normal(size, size, (rows, cols)), rng.random((rows, cols)) > 0.3
    return values, valid, source, source_valid, scale


def plain_pool(values, valid, scale):
    """The mean of each block's valid pixels, one block at a time."""
    rows, cols = values.shape[0] // scale, values.shape[1] // scale
    means = np.full((rows, cols), np.nan)
    for i in range(rows):
        for j in range(cols):
            block = np.s_[i * scale : (i + 1) * scale, j * scale : (j + 1) * scale]
            if valid[block].any():
                means[i, j] = values[block][valid[block]].mean()
    return means


@settings(max_examples=150, deadline=None)
@given(cases())
def test_pool_is_the_mean_of_the_valid_part(case):
    values, valid, _, _, scale = case
    means, known = pool(values, valid, scale)
    expected = plain_pool(values, valid, scale)
    np.testing.assert_array_equal(known, np.isfinite(expected))
    np.testing.assert_allclose(means[known], expected[known], rtol=1e-12, atol=1e-12 * np.abs(values).max())


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from(["exact", "off", "soft:0.1", "soft:3"]))
def test_projection_reaches_the_set_and_is_the_nearest_point_of_it(case, text):
    values, valid, source, source_valid, scale = case
    consistency = Consistency.parse(text)
    out = project(values, valid, source, source_valid, consistency)
    known = source_valid & np.isfinite(plain_pool(values, valid, scale))
    size = np.abs(values).max() + np.abs(source).max()
    left = (plain_pool(out, valid, scale) - source)[known]
    assert (np.abs(left) <= consistency.tolerance + 1e-12 * size).all()
    # The nearest point changes a block by one constant, and only as far as the border of the set.
    change = out - values
    steps = plain_pool(change, valid, scale)
    np.testing.assert_allclose(
        np.where(valid, change, 0), np.where(valid, spread(np.nan_to_num(steps), scale), 0), atol=1e-11 * size
    )
    before = np.abs((plain_pool(values, valid, scale) - source)[known])
    np.testing.assert_allclose(np.abs(steps[known]), np.maximum(before - consistency.tolerance, 0), atol=1e-11 * size)
    np.testing.assert_allclose(project(out, valid, source, source_valid, consistency), out, atol=1e-11 * size)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_what_lies_under_the_masks_has_no_influence(case):
    values, valid, source, source_valid, _ = case
    out = project(values, valid, source, source_valid)
    other = project(np.where(valid, values, 1e30), valid, np.where(source_valid, source, -9999), source_valid)
    np.testing.assert_array_equal(out[valid], other[valid])


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([(0.3, np.inf), (-np.inf, 1.2), (0.5, 1.5), (1.0, 1.000001), (-9, 9)]))
def test_confined_values_are_the_nearest_ones_within_the_limits(case, relative):
    values, valid, _, _, scale = case
    size = np.abs(values).max()
    low, high = sorted(limit * abs(np.median(values)) if np.isfinite(limit) else limit for limit in relative)
    found = confine(values, valid, scale, (low, high))
    assert (found[~valid] == values[~valid]).all()
    assert ((low <= found[valid]) & (found[valid] <= high)).all()
    before, after = (plain_pool(each, valid, scale) for each in (values, found))
    np.testing.assert_allclose(after, np.clip(before, low, high), rtol=0, atol=1e-12 * size, equal_nan=True)
    for i, j in np.ndindex(before.shape):  # Karush, Kuhn and Tucker: one constant, but for what would pass a limit
        block = np.s_[i * scale : (i + 1) * scale, j * scale : (j + 1) * scale]
        inside = valid[block]
        x, moved = found[block][inside], (found - values)[block][inside]
        free = moved[(x > low) & (x < high)]
        if len(free):
            assert np.ptp(free) <= 1e-9 * size
            assert (moved[x == low] >= free.max() - 1e-9 * size).all()
            assert (moved[x == high] <= free.min() + 1e-9 * size).all()


@pytest.mark.parametrize("text", ["", "soft", "soft:", "soft:-1", "soft:nan", "soft:0", "hard", "exact:1"])
def test_unknown_modes_are_refused(text):
    with pytest.raises(UsageError, match="use exact, off, or soft:SIGMA"):
        Consistency.parse(text)


@pytest.mark.parametrize("text", ["exact", "off", "soft:0.25"])
def test_modes_round_trip(text):
    assert str(Consistency.parse(text)) == text

"""Tiles cover everything and their weights sum to one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosr.errors import UsageError
from geosr.tiling import core_edges, cut


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 700),
    cols=st.integers(1, 700),
    scale=st.sampled_from([2, 3, 4, 5, 7, 8, 10, 16, 32]),
    halo=st.integers(0, 64),
)
def test_weights_sum_to_one_and_spare_the_halo(rows, cols, scale, halo):
    shape = (min(rows, 4 * 320 // scale + 3), min(cols, 4 * 320 // scale + 5))
    try:
        tiles = cut(shape, scale, size=320, halo=halo)
    except UsageError:
        assert 320 // scale < 2 * -(-halo // scale) + 6
        return
    margin = -(-halo // scale)
    total = np.zeros(shape)
    for tile in tiles:
        window, weights = tile.window, tile.weights()
        assert window.row >= 0
        assert window.row + window.height <= shape[0]
        assert window.col + window.width <= shape[1]
        assert max(window.shape) * scale <= 320
        assert weights.min() >= 0
        for axis, (start, length, full) in enumerate(
            [(window.row, window.height, shape[0]), (window.col, window.width, shape[1])]
        ):
            line = weights.max(axis=1 - axis)
            if start > 0:
                assert not line[:margin].any()
            if start + length < full:
                assert not line[length - margin :].any()
        total[window.slices] += weights
    np.testing.assert_allclose(total, 1.0, atol=1e-12)
    assert len({tile.window.shape for tile in tiles}) == 1


def test_a_raster_smaller_than_a_tile_is_one_tile():
    (tile,) = cut((5, 7), 4, size=320, halo=16)
    assert tile.window.shape == (5, 7)
    assert (tile.weights() == 1).all()
    assert core_edges([tile]) == ([], [])


def test_a_tile_smaller_than_its_halo_is_refused_with_a_size_that_works():
    with pytest.raises(UsageError, match="use at least --tile 64") as caught:
        cut((100, 100), 4, size=32, halo=20)
    assert cut((100, 100), 4, size=64, halo=20), caught

"""Windows, against the pixels that they stand for."""

from hypothesis import given
from hypothesis import strategies as st

from geosr.grid import Window

windows = st.builds(Window, st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9))


def pixels(window):
    rows = range(window.row, window.row + window.height)
    return {(row, col) for row in rows for col in range(window.col, window.col + window.width)}


@given(windows)
def test_a_window_has_as_many_pixels_as_it_says(window):
    assert window.pixels == len(pixels(window))


@given(windows, st.integers(-9, 9), st.integers(-9, 9))
def test_a_shifted_window_holds_the_same_pixels_elsewhere(window, rows, cols):
    assert pixels(window.shifted(rows, cols)) == {(row + rows, col + cols) for row, col in pixels(window)}


@given(windows, windows)
def test_relative_to_another_is_shifted_by_its_corner_and_back(one, other):
    assert one.relative_to(other).shifted(other.row, other.col) == one


@given(windows.filter(lambda window: window.pixels), st.integers(0, 4))
def test_a_grown_window_holds_what_is_so_near(window, margin):
    around = range(-margin, margin + 1)
    near = {(row + down, col + right) for row, col in pixels(window) for down in around for right in around}
    assert pixels(window.grown(margin)) == near


@given(windows, windows)
def test_an_intersection_holds_what_both_do(one, other):
    assert pixels(one.intersection(other)) == pixels(one) & pixels(other)
    assert min(one.intersection(other).shape) >= 0

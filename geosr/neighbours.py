"""Sums over each pixel's neighbours."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.float64)


def sums_3x3(values: NDArray[Number]) -> NDArray[Number]:
    """Sums over 3 x 3 pixels of the last two axes, which become a rim of 1 smaller on every side."""
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    return np.asarray(rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:])

"""Source consistency: the output, pooled back, is the source.

All functions work in numpy float64 on arrays (rows, columns) whose sides are multiples of the scale. A
pixel's block is the scale x scale square of high pixels over one source pixel; only its valid part counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geosr.errors import UsageError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Consistency:
    """How far the pooled output may lie from the source, in the source's units: 0 exact, inf off."""

    tolerance: float

    @classmethod
    def parse(cls, text: str) -> Consistency:
        """From `exact`, `off` or `soft:SIGMA`; `UsageError` for anything else."""
        if text in ("exact", "off"):
            return cls(0.0 if text == "exact" else np.inf)
        kind, _, number = text.partition(":")
        try:
            tolerance = float(number)
        except ValueError:
            tolerance = -1.0
        if kind != "soft" or not 0 < tolerance < np.inf:
            raise UsageError(
                f"consistency is {text!r}; use exact, off, or soft:SIGMA with the source's noise, e.g. soft:0.2"
            )
        return cls(tolerance)

    def __str__(self) -> str:
        if self.tolerance == 0:
            return "exact"
        return "off" if np.isinf(self.tolerance) else f"soft:{self.tolerance:g}"


EXACT = Consistency(0.0)


def blocks_of(values: NDArray[Number], scale: int) -> NDArray[Number]:
    """View of (h*s, w*s) as (h, s, w, s)."""
    rows, cols = values.shape
    return values.reshape(rows // scale, scale, cols // scale, scale)


def spread(low: NDArray[Number], scale: int) -> NDArray[Number]:
    """Every source pixel's value over its block (nearest neighbour)."""
    return np.repeat(np.repeat(low, scale, axis=0), scale, axis=1)


def pool(values: NDArray[np.floating], valid: Mask, scale: int) -> tuple[Array, Mask]:
    """Mean over the valid part of each block, and which blocks have one; 0 where a block has none."""
    counts = blocks_of(valid, scale).sum(axis=(1, 3))
    sums = blocks_of(np.where(valid, values, 0.0).astype(np.float64), scale).sum(axis=(1, 3))
    return sums / np.maximum(counts, 1), counts > 0


def pool_measured(values: NDArray[np.floating], valid: Mask, size: int) -> tuple[Array, Mask]:
    """What a detector as large as a block would have measured: means over the blocks of which half or more is valid.

    Elsewhere it is invalid and 0.
    """
    enough = 2 * blocks_of(valid, size).sum(axis=(1, 3)) >= size**2
    return np.where(enough, pool(values, valid, size)[0], 0.0), enough


def project(
    values: NDArray[np.floating],
    valid: Mask,
    source: Array,
    source_valid: Mask,
    consistency: Consistency = EXACT,
) -> Array:
    """The nearest values (in the mean square) whose blocks pool to the source within the tolerance.

    One constant is added to each block: `S - pool(Y)` when exact; when soft, what brings the difference
    back to the tolerance. Blocks of invalid source pixels and invalid high pixels are left as they are.
    """
    scale = values.shape[0] // source.shape[0]
    pooled, known = pool(values, valid, scale)
    residual = np.where(known & source_valid, source - pooled, 0.0)
    step = residual - np.clip(residual, -consistency.tolerance, consistency.tolerance)
    return np.where(valid, values + spread(step, scale), values)


def confine(values: Array, valid: Mask, scale: int, limits: tuple[float | Array, float | Array]) -> Array:
    """The nearest values (in the mean square) within limits whose block means are the same.

    In each block that goes beyond a limit a constant is added before what is still beyond is cut off: the projection
    onto a hyperplane and a box at once. A block whose mean lies beyond a limit is that limit all over. Invalid
    pixels are left as they are. Limits are numbers, or arrays (rows, cols) of one for each block.
    """
    blocks = blocks_of(values, scale)
    low, high = (np.broadcast_to(limit, blocks.shape[::2]) for limit in limits)
    beyond = (blocks < low[:, None, :, None]) | (blocks > high[:, None, :, None])
    rows, cols = np.nonzero((blocks_of(valid, scale) & beyond).any(axis=(1, 3)))
    if not len(rows):
        return values
    out = values.astype(np.float64)
    view = blocks_of(out, scale)
    block, inside = view[rows, :, cols, :], blocks_of(valid, scale)[rows, :, cols, :]
    ends = low[rows, cols, None, None], high[rows, cols, None, None]
    view[rows, :, cols, :] = np.where(inside, _shifted(block, inside, ends), block)
    return out


def _shifted(block: Array, inside: Mask, limits: tuple[Array, Array]) -> Array:
    """Blocks (n, s, s), each with its constant and cut off at its limits (n, 1, 1); it is found by halving."""

    def mean(of: Array) -> Array:
        return np.asarray(np.mean(of, axis=(1, 2), where=inside, keepdims=True))

    target = np.clip(mean(block), *limits)
    cut: Array = np.clip(block, *limits)
    reach = np.where(inside, np.abs(block - target), 0.0).max(axis=(1, 2), keepdims=True)
    below, above = -reach, reach  # by so much no pixel, or every one, is past the mean
    for _ in range(64):  # halvings: to the last bit
        middle = (below + above) / 2
        cut = np.clip(block + middle, *limits)
        small = mean(cut) < target
        below, above = np.where(small, middle, below), np.where(small, above, middle)
    return cut

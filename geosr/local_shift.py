"""A smooth field of shifts, fitted through what each window of a scene says of each shift.

No window is asked for a shift of its own: what it would cost is known for a lattice of shifts, and the field minimises
the sum over windows. So one without structure adds nothing, one with an edge has it across the edge alone, and one that
is undecided between two places goes with its neighbours. How far the field bends is settled by windows that were
left out (Stone 1974).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from geosr.displacement import bending, terms

Array = NDArray[np.float64]

FEWEST = 24  # windows: twice the unknowns of an affine field in each of four parts
_STIFFNESS = (np.inf, 0.1, 0.01, 0.001)  # of the bending, over what a pixel of shift costs all windows
_SURE = 2.0  # standard errors by which a field must do better than one shift
_PARTS = 5  # of the scene along a side: what is left out together, for neighbours are alike
_RIDGE = 1e-3  # of what a pixel of shift costs all windows: for terms that no window tells apart
_STEPS = 20  # of Newton's method; it takes 4 to 8

NEIGHBOURS = tuple(product((-1, 0, 1), repeat=2))
"""Of a shift, by steps down and along; itself among them."""


def paraboloid(around: Array) -> Array:
    """(6, n): 1, i, j, ii, jj and ij of the one that is nearest to values at the `NEIGHBOURS` i, j (9, n)."""
    i, j = np.array(NEIGHBOURS, dtype=float).T
    return np.asarray(np.linalg.pinv(np.stack([i**0, i, j, i**2, j**2, i * j], axis=1)) @ around)


@dataclass(frozen=True)
class Costs:
    """What windows say of shifts on a square lattice.

    Attributes:
        values: (shifts down, shifts along, windows), both counts odd: the middle is no shift.
        step: pixels between shifts.
        places: (windows, 2), the windows' centres from 0 to 1 over the scene's rows and columns.
    """

    values: Array
    step: int
    places: Array

    def of(self, windows: NDArray[np.bool_]) -> Costs:
        """Those of some windows."""
        return Costs(self.values[..., windows], self.step, self.places[windows])

    def along(self, shifts: Array) -> tuple[Array, Array, Array]:
        """(windows,) costs, (windows, 2) slopes and (windows, 2, 2) curvatures, none negative, at (windows, 2) pixels.

        Of the paraboloid through the nearest shift and its eight neighbours.
        """
        middle = self.values.shape[0] // 2
        at = np.clip(shifts / self.step, -middle, middle)
        nearest = np.clip(np.round(at).astype(int), 1 - middle, middle - 1)
        rows, cols = (nearest + middle).T
        around = np.stack([self.values[rows + i, cols + j, np.arange(len(rows))] for i, j in NEIGHBOURS])
        c, di, dj, dii, djj, dij = paraboloid(around)
        a, b = (at - nearest).T
        cost = c + di * a + dj * b + dii * a**2 + djj * b**2 + dij * a * b
        slope = np.stack([di + 2 * dii * a + dij * b, dj + 2 * djj * b + dij * a], axis=1)
        sizes, ways = np.linalg.eigh(np.array([[2 * dii, dij], [dij, 2 * djj]]).transpose(2, 0, 1))
        curvature = (ways * np.maximum(sizes, 0)[:, None]) @ ways.transpose(0, 2, 1)
        return cost, slope / self.step, curvature / self.step**2


def fit_field(costs: Costs) -> Array | None:
    """(terms, 2): the field, by `displacement.terms`, in pixels down and along; None where one shift does as well.

    Its mean over the windows is zero. From stiff to yielding: affine, then with ever less bending energy. Each is
    fitted without a quarter of the scene in turn and judged there; the best is taken if it beats one shift by two
    standard errors over windows. Windows that all lie in one quarter tell no field.
    """
    if costs.values.shape[-1] < FEWEST:
        return None
    blocks = np.minimum(costs.places * _PARTS, _PARTS - 1).astype(int)
    parts = blocks[:, 0] % 2 * 2 + blocks[:, 1] % 2
    if len(np.unique(parts)) == 1:  # all in one place: nothing would be left to fit
        return None
    held = np.zeros((1 + len(_STIFFNESS), len(parts)))
    for part in np.unique(parts):
        out = parts == part
        judged = costs.of(out)
        held[:, out] = [judged.along(_shapes(judged) @ field)[0] for field in _candidates(costs.of(~out))]
    best = int(held.sum(axis=1).argmin())
    gain = held[0] - held[best]
    if gain.sum() <= _SURE * gain.std() * np.sqrt(len(gain)):
        return None
    field = _candidates(costs)[best]
    field[0] -= (_shapes(costs) @ field).mean(axis=0)
    return field


def _shapes(costs: Costs) -> Array:
    return terms(*costs.places.T)


def _candidates(costs: Costs) -> list[Array]:
    """One shift, then the fields by stiffness, each found from the one before."""
    shapes, energy = _shapes(costs), bending()
    free = np.zeros(len(energy), bool)
    free[0] = True
    fields = [_descend(costs, shapes, free, 0 * energy, np.zeros((len(energy), 2)))]
    for stiffness in _STIFFNESS:
        free = np.isfinite(stiffness) | (energy == 0)
        weights = np.where(energy == 0, 0, energy * (stiffness if np.isfinite(stiffness) else 0))
        fields.append(_descend(costs, shapes, free, weights, fields[-1]))
    return fields


def _descend(costs: Costs, shapes: Array, free: NDArray[np.bool_], weights: Array, start: Array) -> Array:
    """The nearest minimum of cost and bending energy over the `free` terms, by Newton's method with halved steps."""
    field, shapes = start[free], shapes[:, free]
    cost, slope, curvature = costs.along(shapes @ field)
    unit = np.trace(curvature.sum(axis=0)) / 2
    stiff = np.diag(np.repeat(unit * weights[free], 2))

    def energy(field: Array, cost: Array) -> float:
        return float(cost.sum() + field.ravel() @ stiff @ field.ravel() / 2)

    lowest = energy(field, cost)
    for _ in range(_STEPS):
        bent = np.einsum("wi,wab,wj->iajb", shapes, curvature, shapes).reshape(stiff.shape) + stiff
        pull = np.einsum("wi,wa->ia", shapes, slope).ravel() + stiff @ field.ravel()
        step = -np.linalg.solve(bent + (_RIDGE * unit + 1e-12) * np.eye(len(pull)), pull).reshape(field.shape)
        step *= min(1.0, costs.step / max(float(np.abs(shapes @ step).max()), 1e-12))
        for part in (1.0, 0.5, 0.25, 0.125):
            cost, slope, curvature = costs.along(shapes @ (field + part * step))
            reached = energy(field + part * step, cost)
            if reached < lowest:
                break
        else:
            break
        field, gained, lowest = field + part * step, lowest - reached, reached
        if gained < 1e-6 * abs(lowest):
            break
    found = np.zeros_like(start)
    found[free] = field
    return found

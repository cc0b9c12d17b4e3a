"""A smooth deformation of the guide, whose few numbers are learnt: an affine one, then a thin-plate spline.

Places are (x, y), both from -1 to 1 between the outer edges of the patch, whatever its resolution.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Deformation(nn.Module):
    """Where in the guide to look for what lies at a place of the source; at first, at that place.

    Attributes:
        affine: (2, 3), displacement in source pixels along x and y as a linear function of x, y and 1.
        spline: (points * points, 2), displacements in source pixels at a regular grid of control points.
    """

    affine: nn.Parameter
    spline: nn.Parameter
    unit: Tensor
    control: Tensor
    solved: Tensor

    def __init__(self, shape: tuple[int, int], points: int) -> None:
        """For a patch of `shape` source pixels."""
        super().__init__()
        self.affine = nn.Parameter(torch.zeros(2, 3))
        self.spline = nn.Parameter(torch.zeros(points * points, 2))
        axis = np.linspace(-1, 1, points)
        control = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        for name, array in (
            ("unit", 2 / np.array(shape[::-1])),
            ("control", control),
            ("solved", _solve(control)),
        ):
            self.register_buffer(name, torch.from_numpy(array).float(), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """Places (..., 2) to places (..., 2)."""
        moved = places + self.unit * (places @ self.affine[:, :2].t() + self.affine[:, 2])
        return moved + self.unit * (self._basis(moved) @ self.spline)

    def _basis(self, places: Tensor) -> Tensor:
        """(..., points * points): what a displacement by one at each control point means at the places."""
        squares = (places[..., None, :] - self.control).square().sum(-1)
        return torch.cat((_bend(squares), torch.ones_like(places[..., :1]), places), -1) @ self.solved


def _bend(squares: Tensor) -> Tensor:
    """r^2 log r, of r^2."""
    return 0.5 * squares * torch.log(squares.clamp(min=1e-12))


def _solve(control: np.ndarray) -> np.ndarray:
    """(n + 3, n): coefficients of the thin-plate spline that is one at a control point and zero at the others.

    Bookstein, TPAMI 1989: the bent part is orthogonal to every linear one.
    """
    count = len(control)
    squares = ((control[:, None] - control) ** 2).sum(-1)
    linear = np.concatenate([np.ones((count, 1)), control], axis=1)
    bent = _bend(torch.from_numpy(squares)).numpy()
    system = np.block([[bent, linear], [linear.T, np.zeros((3, 3))]])
    return np.asarray(np.linalg.inv(system)[:, :count])


def grid(rows: int, cols: int, device: str) -> Tensor:
    """(rows, cols, 2): the places of pixel centres."""
    y, x = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (rows, cols))
    return torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), -1)


def look(image: Tensor, places: Tensor, outside: str = "border") -> Tensor:
    """An image (C, H, W) at places (h, w, 2), bilinearly; beyond its edges as `outside` says, `border` or `zeros`."""
    return F.grid_sample(image[None], places[None], mode="bilinear", padding_mode=outside, align_corners=False)[0]

"""Muon: momentum made orthogonal, an optimiser for the matrices between a network's hidden features.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the step's size of Liu et al. 2025 (arXiv 2502.16982).
torch has one since 2.9, for single matrices in bfloat16; here many small ones are treated at once, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_SIZE = 0.2
"""Root mean square of a step over the learning rate, as Adam's steps have it: one rate serves both."""

_POLYNOMIAL, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Jordan's: five times a s + b s^3 + c s^5 bring every singular value from 0.01 to 1 to between 0.68 and 1.13."""


class Muon(torch.optim.Optimizer):
    """Each step moves a matrix by its momentum with all singular values near one: no direction is left behind."""

    def __init__(self, groups: Sequence[Mapping[str, Any]], lr: float | Tensor, tiles: int) -> None:
        """An optimiser that treats each tile's part of a weight as a matrix of its own.

        Args:
            groups: of weights (tiles * outputs, inputs, ...), each group with `params` and maybe a `weight_decay`
                (L2 penalty).
            lr: learning rate; a group's `lr` may be set between steps, a tensor's value as well.
            tiles: networks whose weights follow each other on the first axis.
        """
        super().__init__([dict(group) for group in groups], {"lr": lr, "weight_decay": 0.0})
        self._tiles = tiles

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on all weights, those of one shape together."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                alike.setdefault(weight.shape, []).append(weight)
            for weights in alike.values():
                self._step(weights, group["lr"], group["weight_decay"])

    def _step(self, weights: list[nn.Parameter], lr: float | Tensor, decay: float) -> None:
        gradient = torch.stack([self._matrices(cast(Tensor, weight.grad)) for weight in weights])
        if decay:
            gradient += decay * torch.stack([self._matrices(weight) for weight in weights])
        momentum = self.state[weights[0]].get("momentum")
        if momentum is None:
            momentum = self.state[weights[0]]["momentum"] = torch.zeros_like(gradient)
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        moves = orthogonal(gradient.lerp_(momentum, _MOMENTUM))
        size = lr * _SIZE * max(moves.shape[-2:]) ** 0.5  # the root mean square of an orthogonal one is 1 / sqrt(max)
        for weight, move in zip(weights, moves, strict=True):
            if isinstance(size, Tensor):
                weight.sub_(move.reshape(weight.shape) * size)
            else:
                weight.sub_(move.reshape(weight.shape), alpha=size)

    def _matrices(self, weight: Tensor) -> Tensor:
        """(tiles, outputs, inputs * pixels)."""
        return weight.reshape(self._tiles, weight.shape[0] // self._tiles, -1)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (..., rows, columns) with their singular values brought near one, by Newton and Schulz's iteration.

    Those below a hundredth of the Frobenius norm come out smaller; zeros stay zeros.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT).mT
    a, b, c = _POLYNOMIAL
    found: Tensor = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = found @ found.mT
        found = a * found + (b * square + c * (square @ square)) @ found
    return found

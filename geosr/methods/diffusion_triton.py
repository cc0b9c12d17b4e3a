"""The GPU's half of `geosr.methods.diffusion_solver`: what is done for each link between pixels, as Triton kernels.

In torch that is some kernels a link; here one for all. A pixel gathers from both ends of its links, in a fixed order,
so the bits are the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@dataclass(frozen=True)
class Edges:
    """Conductivities (links, H, W), each at the first pixel of its pair; zero where there is no second.

    Attributes:
        steps: (links, 2) rows and columns from the first pixel to the second; rows are never negative.
        numbers: the conductivities.
    """

    steps: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, steps: Sequence[tuple[int, int]], numbers: Sequence[Tensor]) -> Edges:
        """From images that hold only the pixels with a second one."""
        padded = [
            F.pad(image, (max(-cols, 0), max(cols, 0), 0, rows))
            for (rows, cols), image in zip(steps, numbers, strict=True)
        ]
        return cls(torch.tensor(steps, dtype=torch.int32, device=numbers[0].device), torch.stack(padded))

    def moved(self, values: Tensor, contrast: float, power: float) -> Edges:
        """Each times `1 / (1 + (d / contrast)^2)^power`, d the difference of the (H, W) values."""
        found = torch.empty_like(self.numbers)
        height, width = values.shape
        grid = triton.cdiv(height * width, _BLOCK), len(self.steps)
        _move[grid](values.contiguous(), self.numbers, self.steps, found, height, width, contrast, power, BLOCK=_BLOCK)
        return replace(self, numbers=found)

    def flow(self, values: Tensor) -> Tensor:
        """Half the gradient of the sum of `conductivity * difference^2`."""
        return self._gather(values.contiguous(), differences=True)

    def degree(self, like: Tensor) -> Tensor:
        """Sum of the conductivities around each pixel of an image of that shape."""
        return self._gather(like.contiguous(), differences=False)

    def _gather(self, values: Tensor, *, differences: bool) -> Tensor:
        found, (height, width) = torch.empty_like(values), values.shape
        grid = (triton.cdiv(height * width, _BLOCK),)
        links = len(self.steps)
        _flow[grid](
            values, self.numbers, self.steps, found, height, width, LINKS=links, DIFFERENCES=differences, BLOCK=_BLOCK
        )
        return found


@triton.jit
def _move(values, numbers, steps, found, height, width, contrast, power, BLOCK: tl.constexpr):
    link = tl.program_id(1)
    down, right = tl.load(steps + 2 * link), tl.load(steps + 2 * link + 1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows, cols = pixel // width + down, pixel % width + right
    there = (rows < height) & (cols >= 0) & (cols < width)
    far = tl.load(values + pixel + down * width + right, mask=there, other=0.0)
    share = (far - tl.load(values + pixel, mask=there, other=0.0)) / contrast
    spots = link.to(tl.int64) * height * width + pixel
    fixed = tl.load(numbers + spots, mask=there, other=0.0)
    tl.store(found + spots, fixed * tl.exp(-power * tl.log(1 + share * share)), mask=pixel < height * width)


@triton.jit
def _flow(
    values,
    numbers,
    steps,
    found,
    height,
    width,
    LINKS: tl.constexpr,
    DIFFERENCES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exist = pixel < height * width
    here = tl.load(values + pixel, mask=exist, other=0.0)
    answer = tl.zeros((BLOCK,), tl.float32)
    for link in range(0, LINKS):
        down, right = tl.load(steps + 2 * link), tl.load(steps + 2 * link + 1)
        away = down * width + right
        ahead = tl.load(numbers + pixel, mask=exist, other=0.0)  # zero where the link leaves the image
        rows, cols = pixel // width - down, pixel % width - right
        back = exist & (rows >= 0) & (cols >= 0) & (cols < width)
        behind = tl.load(numbers + pixel - away, mask=back, other=0.0)
        if DIFFERENCES:
            far = tl.load(values + pixel + away, mask=exist & (ahead != 0), other=0.0)
            near = tl.load(values + pixel - away, mask=back, other=0.0)
            answer += ahead * (here - far) + behind * (here - near)
        else:
            answer += ahead + behind
        numbers += height * width
    tl.store(found + pixel, answer, mask=exist)

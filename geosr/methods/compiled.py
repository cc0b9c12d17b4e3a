"""The compiled half of `geosr.methods.neighbourhood`: `neighbourhood.c`, built at installation where a C compiler is.

Without it everything works, slower, through torch.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

_LARGEST = 31  # neighbourhood, as in the C file


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; None where they were not built."""
    spec = find_spec("geosr.methods._neighbourhood")
    return ctypes.CDLL(spec.origin) if spec and spec.origin else None


def fits(values: Tensor, size: int) -> bool:
    """Whether the kernels can treat such a tensor with such a neighbourhood."""
    plain = values.device.type == "cpu" and values.dtype == torch.float32
    return plain and size <= _LARGEST and library() is not None


def filter_forward(values: Tensor, target: Tensor, size: int) -> Tensor:
    """The filtered image; all (B, H, W, C) float32, contiguous, on the CPU."""
    out = torch.empty_like(values)
    _run("geosr_filter", (values, target, out), size, [_bands(values, size)])
    return out


def filter_backward(values: Tensor, target: Tensor, grad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Gradients in `values` and `target` where `grad` is that in the filtered image."""
    grad_values, grad_target = torch.zeros_like(values), torch.empty_like(target)
    bands = _bands(values, size)
    images = values, target, grad, grad_values, grad_target
    _run("geosr_filter_backward", images, size, [bands[::2], bands[1::2]])
    return grad_values, grad_target


def _bands(values: Tensor, size: int) -> list[tuple[int, int]]:
    """Rows to treat at a time; so many that a band adds to the gradient of its two neighbours at most."""
    rows = 16 if size <= 17 else 32
    height = values.shape[1]
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _run(name: str, images: tuple[Tensor, ...], size: int, passes: Iterable[list[tuple[int, int]]]) -> None:
    """One kernel over all bands on torch's threads; one pass after the other, so that sums have one order."""
    kernel = getattr(library(), name)
    batch, height, width, channels = images[0].shape
    pointers = [[ctypes.c_void_p(image[index].data_ptr()) for image in images] for index in range(batch)]

    def treat(part: tuple[int, tuple[int, int]]) -> int:
        index, (first, last) = part
        return int(kernel(*pointers[index], height, width, channels, size, first, last))

    pool = _helpers.pool(torch.get_num_threads())
    for bands in passes:
        work = [(index, band) for index in range(batch) for band in bands]
        if any(pool.map(treat, work) if pool else map(treat, work)):
            raise RuntimeError("can't allocate memory for the neighbourhood filter")


class _Helpers(threading.local):
    """The calling thread's own threads, which end with it.

    New ones for each call made a step on 64 x 64 pixels 1.06 to 1.13 times as long (one thread and two, in turns).
    """

    _pool: ThreadPoolExecutor | None = None
    _count = 1

    def pool(self, count: int) -> ThreadPoolExecutor | None:
        """So many threads; None where one is enough, the caller's."""
        if count != self._count:
            self._pool, self._count = ThreadPoolExecutor(count) if count > 1 else None, count
        return self._pool


_helpers = _Helpers()

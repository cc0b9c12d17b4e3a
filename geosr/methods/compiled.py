"""Kernels in C, built at installation where a C compiler is, on x86 once for each kind of processor.

`neighbourhood.c` is the compiled half of `geosr.methods.neighbourhood`, `pointwise.c` of `geosr.methods.pointwise` and
`diffusion.c` of `geosr.methods.diffusion_solver`. Without them everything works, slower, through torch.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

_LARGEST = 31  # neighbourhood, as in the C file

_BUILDS = {"AVX512": ("_avx512", "_avx2", ""), "AVX2": ("_avx2", "")}
"""What is built that runs on a processor of such a capability, as torch names it, the fastest first."""

_PIXELS = 2048
"""At a time in layers of one pixel; what they add to gradients is added in one order, whatever the threads."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels for this processor; None where they were not built."""
    return load(torch.backends.cpu.get_cpu_capability())


def load(capability: str) -> ctypes.CDLL | None:
    """The kernels for a processor that can do so much: `AVX512`, `AVX2` or anything."""
    builds = next((names for least, names in _BUILDS.items() if capability.startswith(least)), ("",))
    specs = (find_spec(f"geosr.methods._kernels{name}") for name in builds)
    return next((ctypes.CDLL(spec.origin) for spec in specs if spec and spec.origin), None)


def supports(values: Tensor, size: int) -> bool:
    """Whether the kernels can filter such a tensor with such a neighbourhood."""
    return _plain(values) and size <= _LARGEST and library() is not None


def supports_chain(images: Sequence[Tensor], chain: Chain) -> bool:
    """Whether the kernels can pass such images through such layers, faster than torch.

    With registers of fewer than 8 numbers they would not be. Widths are whole registers, the first and last may be 1;
    there is no gradient in an image of a single feature, and a single feature at the end is not rectified.
    """
    widths = chain.widths
    if widths[-1] == 1 and chain.kinds[-1] & Chain.RECTIFIED:
        return False
    kernels = library()
    lanes = kernels.geosr_lanes() if kernels else 0
    ends = (width for width in (widths[0], widths[-1]) if width != 1)
    whole = lanes >= 8 and all(width % lanes == 0 for width in (*ends, *widths[1:-1]))
    return whole and all(map(_plain, images)) and not (widths[0] == 1 and images[0].requires_grad)


def _plain(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32


def filter_forward(values: Tensor, target: Tensor, size: int) -> Tensor:
    """The filtered image; all (B, H, W, C) float32, contiguous, on the CPU."""
    out = torch.empty_like(values)
    _filter("geosr_filter", (values, target, out), size, [_bands(values, size)])
    return out


def filter_backward(values: Tensor, target: Tensor, grad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Gradients in `values` and `target` where `grad` is that in the filtered image."""
    grad_values, grad_target = torch.zeros_like(values), torch.empty_like(target)
    bands = _bands(values, size)
    images = values, target, grad, grad_values, grad_target
    _filter("geosr_filter_backward", images, size, [bands[::2], bands[1::2]])
    return grad_values, grad_target


def _bands(values: Tensor, size: int) -> list[tuple[int, int]]:
    """Rows to treat at a time; so many that a band adds to the gradient of its two neighbours at most."""
    rows = 16 if size <= 17 else 32
    height = values.shape[1]
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _filter(name: str, images: tuple[Tensor, ...], size: int, passes: Iterable[list[tuple[int, int]]]) -> None:
    """One kernel over all bands; one pass after the other, so that sums have one order."""
    batch, height, width, channels = images[0].shape
    kernel = _kernel(name)
    kernels = [partial(kernel, *_pointers(*(image[index] for image in images))) for index in range(batch)]
    for bands in passes:
        _share([partial(kernel, height, width, channels, size, *band) for kernel in kernels for band in bands])


@dataclass(frozen=True)
class Chain:
    """Layers of one pixel after each other, as `pointwise.c` has them.

    Attributes:
        features: of each of the one or two images that go in.
        widths: features before the first layer, that is of all images, and after each.
        kinds: of each layer, a sum of `RECTIFIED` and `RESIDUAL`.
    """

    features: tuple[int, ...]
    widths: tuple[int, ...]
    kinds: tuple[int, ...]

    RECTIFIED: ClassVar[int] = 1
    RESIDUAL: ClassVar[int] = 2

    def forward(self, images: Sequence[Tensor], parameters: Tensor) -> Tensor:
        """(T, N, outputs) of images (T, N, features), with parameters (T, weights and biases of all layers)."""
        out = images[0].new_empty(*images[0].shape[:2], self.widths[-1])
        calls = [
            (*_pairs([image[tile, part] for image in images]), parameters[tile], out[tile, part])
            for tile, part in _parts(images[0])
        ]
        self._run("geosr_chain", calls)
        return out

    def backward(
        self, images: Sequence[Tensor], parameters: Tensor, grad: Tensor
    ) -> tuple[list[Tensor | None], Tensor]:
        """Gradients in images (None in one of a single feature) and parameters; `grad` is that in the answer."""
        grads, parts = [torch.empty_like(image) for image in images], _parts(images[0])
        gradients = parameters.new_zeros(len(parts), parameters.shape[1])
        calls = [
            (
                *_pairs([image[tile, part] for image in images]),
                parameters[tile],
                grad[tile, part],
                *_pairs([image[tile, part] for image in grads]),
                gradients[index],
            )
            for index, (tile, part) in enumerate(parts)
        ]
        self._run("geosr_chain_backward", calls)
        total = gradients.view(len(parameters), -1, parameters.shape[1]).sum(1)
        return [None] if self.widths[0] == 1 else [*grads], total

    def _run(self, name: str, calls: Sequence[tuple[Tensor, *tuple[Tensor | None, ...]]]) -> None:
        kernel = _kernel(name)
        features, widths = (ctypes.c_int * 2)(*self.features), (ctypes.c_int * len(self.widths))(*self.widths)
        plan = features, widths, (ctypes.c_int * len(self.kinds))(*self.kinds), len(self.kinds)
        _share([partial(kernel, *_pointers(*call), *plan, len(call[0])) for call in calls])


def _parts(image: Tensor) -> list[tuple[int, slice]]:
    """Tiles, and pixels of (T, N, C) to treat at a time."""
    tiles, count, _ = image.shape
    return [(tile, slice(first, first + _PIXELS)) for tile in range(tiles) for first in range(0, count, _PIXELS)]


def _pairs(images: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    return images[0], images[1] if len(images) > 1 else None


def fits_flow(values: Tensor, conductivities: Sequence[Tensor]) -> bool:
    """Whether the kernels can tell what flows between such pixels."""
    return all(map(_plain, (values, *conductivities))) and library() is not None


def flow(values: Tensor, links: Sequence[tuple[int, int]], conductivities: Sequence[Tensor]) -> Tensor:
    """For each pixel the sum over its links of conductivity * (its value - the other's), on the calling thread.

    Args:
        values: (H, W) float32.
        links: rows and columns from one pixel to the other; rows are never negative.
        conductivities: of each link, (H - rows, W - |cols|) float32, for the pairs in the order of their first pixel.
    """
    values, numbers = values.contiguous(), [each.contiguous() for each in conductivities]
    out, count = torch.empty_like(values), len(links)
    steps = ((ctypes.c_int * count)(*step) for step in zip(*links, strict=True))
    places = (ctypes.c_void_p * count)(*(each.data_ptr() for each in numbers))
    _kernel("geosr_flow")(*_pointers(values, out), *values.shape, places, *steps, count)
    return out


def _kernel(name: str) -> Callable[..., int]:
    kernel: Callable[..., int] = getattr(library(), name)
    return kernel


def _pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]


def _share(calls: Sequence[Callable[[], int]]) -> None:
    """Calls of kernels, which may run at once, on torch's threads."""
    pool = _helpers.pool(torch.get_num_threads())
    if any(_at_once(pool, calls) if pool else [call() for call in calls]):
        raise RuntimeError("can't allocate memory for a kernel")


def _at_once(pool: ThreadPoolExecutor, calls: Sequence[Callable[[], int]]) -> list[int]:
    """What they return; none is at work any more when this ends, however it does: they know addresses only."""
    futures = [pool.submit(call) for call in calls]
    try:
        return [future.result() for future in futures]
    finally:
        wait(futures)


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

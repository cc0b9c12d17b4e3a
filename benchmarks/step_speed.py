"""One training step of MMSR: with the neighbourhoods unfolded, as the formula is usually written, and ours.

    python benchmarks/step_speed.py --side 320 --sizes 11 5 --rounds 3

Seconds of both in turns in one process with the same threads (the ratio is the median of the paired ones), of ours
without the compiled kernels as well; the share of the rate that torch's own 3 x 3 convolution of 64 channels
reaches on the same size, forward and backward; and each side's peak memory in a process of its own. The unfolding
needs some 14 GB at 320 x 320 with 11/5.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geosr.methods.base import Patch
from geosr.methods.compiled import library
from geosr.methods.mmsr_fit import fit
from geosr.methods.mmsr_settings import PRESETS
from geosr.methods.neighbourhood import neighbourhood_filter

Filter = Callable[[Tensor, Tensor, int], Tensor]


def unfolded_filter(values: Tensor, target: Tensor, size: int) -> Tensor:
    """The yardstick: Eq. 1 and 2 on all neighbourhoods at once."""
    batch, channels, height, width = values.shape
    unfolded = F.unfold(values, size, padding=size // 2)
    neighbours = unfolded.view(batch, channels, size * size, height, width)
    weights = (neighbours * target[:, :, None]).sum(1, keepdim=True).softmax(2)
    return (neighbours * weights).sum(2)


def random_patch(side: int, scale: int = 4) -> Patch:
    rng = np.random.default_rng(0)
    low = side // scale
    return Patch(
        guide=rng.normal(size=(3, low * scale, low * scale)).astype(np.float32),
        guide_valid=np.ones((low * scale, low * scale), bool),
        source=rng.normal(size=(low, low)).astype(np.float32),
        source_valid=np.ones((low, low), bool),
    )


def step_seconds(filter_: Filter, patch: Patch, sizes: list[int], *, compiled: bool = True) -> float:
    """Seconds of the fastest of three training steps after the first."""
    settings = replace(PRESETS["paper-depth"], source_to_guide=sizes[0], guide_to_source=sizes[1], epochs=4)
    moments: list[float] = []

    def look(*_: object) -> bool:
        moments.append(time.perf_counter())
        return False

    with (
        mock.patch("geosr.methods.mmsr_network.neighbourhood_filter", filter_),
        mock.patch("geosr.methods.compiled.library", library if compiled else lambda: None),
    ):
        fit([patch], settings, 0, "cpu", look)
    return min(later - earlier for earlier, later in pairwise(moments))


def step_flops(side: int, sizes: list[int], channels: int = 64, bands: int = 3) -> float:
    """Multiplications and additions of a step: three times those of the forward pass, as is usual."""
    guide = 9 * bands * channels + 5 * 9 * channels**2
    pointwise = channels + 5 * channels**2 + 2 * channels**2 + 2 * channels**2 + 6 * channels**2 + channels
    filters = 2 * channels * (sizes[0] ** 2 + sizes[1] ** 2)
    return 3.0 * 2 * (guide + pointwise + filters) * side**2


def convolution_rate(side: int) -> float:
    """Operations a second of a 3 x 3 convolution of 64 channels, forward and backward, the best of ten."""
    image = torch.randn(1, 64, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(64, 64, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(1, 64, side, side).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        torch.autograd.grad(F.conv2d(image, weight, padding=1), (image, weight), grad)
        seconds.append(time.perf_counter() - start)
    return 3 * 2 * 9 * 64 * 64 * side**2 / min(seconds)


def peak_memory(unfolded: bool, side: int, sizes: list[int]) -> float:
    """Bytes that a process needs that does nothing but such steps."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (unfolded, side, sizes))


def _peak(unfolded: bool, side: int, sizes: list[int]) -> float:
    step_seconds(unfolded_filter if unfolded else neighbourhood_filter, random_patch(side), sizes)
    status = Path("/proc/self/status").read_text()  # getrusage's peak would be the parent's if that was higher
    return 1024.0 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--side", type=int, default=320, help="high pixels a side")
    parser.add_argument("--sizes", type=int, nargs=2, default=[11, 5], help="n and m")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    side, sizes = arguments.side, arguments.sizes
    patch = random_patch(side)
    ratios, ours_seconds = [], []
    for _ in range(arguments.rounds):
        plain = step_seconds(unfolded_filter, patch, sizes)
        torch_only = step_seconds(neighbourhood_filter, patch, sizes, compiled=False)
        ours = step_seconds(neighbourhood_filter, patch, sizes)
        ratios.append(plain / ours)
        ours_seconds.append(ours)
        print(f"unfolding {plain:.2f} s, torch {torch_only:.2f} s, compiled {ours:.2f} s: {plain / ours:.1f} times")
    rate, conv = step_flops(side, sizes) / min(ours_seconds), convolution_rate(side)
    print(f"median {statistics.median(ratios):.1f} times, {torch.get_num_threads()} threads")
    print(f"{rate / 1e9:.0f} GFLOP/s, {rate / conv:.0%} of the 3 x 3 convolution's {conv / 1e9:.0f}")
    peaks = [peak_memory(unfolded, side, sizes) / 1e9 for unfolded in (True, False)]
    print(f"peak memory {peaks[0]:.2f} GB unfolded, {peaks[1]:.2f} GB ours")


if __name__ == "__main__":
    main()

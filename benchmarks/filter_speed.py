"""Time one MMSR training step with the neighbourhoods unfolded, as the formula is usually written, and ours.

    python benchmarks/filter_speed.py --side 320 --sizes 11 5 --rounds 3

Both run in turns in one process with the same threads; the ratio is the median of the paired ones. The
unfolding needs some 14 GB at 320 x 320 with 11/5.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geosr.methods.base import Patch
from geosr.methods.mmsr import PRESETS
from geosr.methods.mmsr_network import fit
from geosr.methods.neighbourhood import neighbourhood_filter


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


def step_seconds(filter_: Callable[[Tensor, Tensor, int], Tensor], patch: Patch, sizes: list[int]) -> float:
    """Seconds of the second of two training steps."""
    settings = replace(PRESETS["paper-depth"], source_to_guide=sizes[0], guide_to_source=sizes[1], epochs=2)
    moments: list[float] = []
    with mock.patch("geosr.methods.mmsr_network.neighbourhood_filter", filter_):
        fit([patch], settings, 0, "cpu", lambda *_: moments.append(time.perf_counter()))
    return moments[1] - moments[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--side", type=int, default=320, help="high pixels a side")
    parser.add_argument("--sizes", type=int, nargs=2, default=[11, 5], help="n and m")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    patch = random_patch(arguments.side)
    ratios = []
    for _ in range(arguments.rounds):
        plain = step_seconds(unfolded_filter, patch, arguments.sizes)
        ours = step_seconds(neighbourhood_filter, patch, arguments.sizes)
        ratios.append(plain / ours)
        print(f"unfolding {plain:.2f} s, ours {ours:.2f} s a step: {plain / ours:.1f} times", flush=True)
    print(f"median {statistics.median(ratios):.1f} times, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()

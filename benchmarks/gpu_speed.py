"""MMSR on a GPU: the unfolding formulation tile after tile, and the fused kernels on several tiles at once.

    python benchmarks/gpu_speed.py check peaks filter steps
    python benchmarks/gpu_speed.py accuracy --data ../shared/data/middlebury

Parts, in the order to run them (each stands alone; Markdown on standard output):

    check     the fused kernels against the formula in float64 on this card, and twice for the same bits
    peaks     what torch's own matrix product, copy and 3 x 3 convolution reach here, and the fused convolution
    filter    one adaptive filter, forward and backward: unfolding, torch's blocks, fused, and --tune other blocks
    steps     training steps in turns: tiles a second for a preset's epochs, FLOP/s, peak memory
    accuracy  RMSE on Middlebury of fits in float32, TF32 and bfloat16

Without CUDA it refuses: nothing here says anything about another device.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from step_speed import random_patch, step_flops, unfolded_filter
from torch import Tensor

from geosr import device
from geosr.errors import OutOfMemoryError, TileError
from geosr.methods import convolution, mmsr_fit, mmsr_network, neighbourhood, recorded
from geosr.methods.mmsr import Mmsr
from geosr.methods.mmsr_settings import PRESETS, MmsrSettings
from geosr.methods.neighbourhood import neighbourhood_filter

DEVICE = "cuda"
PRECISIONS = ("float32", "tf32", "bfloat16")
EXTENTS = tuple(itertools.product((2, 4, 8, 16), (16, 32, 64)))
"""Rows of a block of 8 columns, and pixels of its window at a time."""

Filter = Callable[[Tensor, Tensor, int], Tensor]


@contextmanager
def precision(name: str) -> Iterator[None]:
    """How torch and the kernels multiply float32; `float32` switches TF32 off, which convolutions have by default."""
    products: device.Products = "highest" if name == "float32" else "high"
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = name != "float32"
    chosen = mock.patch.object(device, "PRODUCTS", products)
    with chosen, torch.autocast(DEVICE, torch.bfloat16, cache_enabled=False) if name == "bfloat16" else nullcontext():
        yield


def seconds(work: Callable[[], object], rounds: int = 10) -> float:
    """The median time of some calls, after two that warm up."""
    times = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def features(tiles: int, channels: int, side: int, count: int = 2) -> list[Tensor]:
    """Random images, channels last."""
    draw = torch.Generator().manual_seed(0)
    images = (torch.randn(tiles, channels, side, side, generator=draw) for _ in range(count))
    return [image.to(DEVICE).contiguous(memory_format=torch.channels_last).requires_grad_() for image in images]


def gradients(filter_: Filter, values: Tensor, target: Tensor, size: int) -> list[Tensor]:
    """The answer and the gradients of half its square."""
    out = filter_(values, target, size)
    return [out, *torch.autograd.grad(out, (values, target), out.detach())]


def check() -> None:
    """The neighbourhoods and layers of the presets; the others are tests'."""
    print(f"kernels: {neighbourhood.kernels(DEVICE)}\n")
    print("| n | channels | " + " | ".join(PRECISIONS[:2]) + " | same bits |\n|---|---|---|---|---|")
    for size, channels in itertools.product((3, 5, 11), (32, 64)):
        values, target = (0.5 * image.detach()[:, :, :, :53] for image in features(2, channels, 67))
        values, target = values.requires_grad_(), target.requires_grad_()
        doubles = [x.detach().double().requires_grad_() for x in (values, target)]
        exact = gradients(unfolded_filter, doubles[0], doubles[1], size)
        worst = []
        for name in PRECISIONS[:2]:
            with precision(name):
                found = gradients(neighbourhood_filter, values, target, size)
                again = gradients(neighbourhood_filter, values, target, size)
            worst.append(_apart(found, exact))
        same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        print(f"| {size} | {channels} | {worst[0]:.1e} | {worst[1]:.1e} | {'yes' if same else 'NO'} |", flush=True)
        _believe(worst[0])
    print("\n| convolution | " + " | ".join(PRECISIONS[:2]) + " | same bits |\n|---|---|---|---|")
    for tiles, inputs, outputs, kernel, relu in ((3, 3, 32, 3, True), (1, 64, 64, 3, False), (2, 128, 64, 1, True)):
        (images,) = (image.detach()[:, :, :, :53].requires_grad_() for image in features(tiles, inputs, 67, 1))
        draw = torch.Generator().manual_seed(1)
        shapes = (tiles * outputs, inputs, kernel, kernel), (tiles * outputs,)
        weights = [torch.randn(shape, generator=draw).to(DEVICE).requires_grad_() for shape in shapes]
        with mock.patch.object(convolution, "_fused", return_value=None):
            doubles = [x.detach().double().requires_grad_() for x in (images, *weights)]
            exact = _layer_gradients(doubles, relu)
        worst = []
        for name in PRECISIONS[:2]:
            with precision(name):
                found, again = (_layer_gradients([images, *weights], relu) for _ in range(2))
            worst.append(_apart(found, exact))
        same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        label = f"{tiles} of {inputs} to {outputs}, {kernel} x {kernel}"
        print(f"| {label} | {worst[0]:.1e} | {worst[1]:.1e} | {'yes' if same else 'NO'} |", flush=True)
        _believe(worst[0])


def _apart(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, exact, strict=True))


def _believe(worst: float) -> None:
    if not worst <= 1e-4:
        raise SystemExit("the fused kernels are not the formula on this card: nothing else is worth measuring")


def _layer_gradients(given: Sequence[Tensor], relu: bool) -> list[Tensor]:
    out = convolution.convolve(given[0], given[1], given[2], relu=relu)
    return [out, *torch.autograd.grad(out, given, out.detach() + 1)]


def peaks() -> None:
    """TFLOP/s, convolutions forward and backward; and what memory does."""
    large = torch.empty(2**30, device=DEVICE)
    print(f"a copy moves {8 * 2**30 / seconds(large.clone) / 1e12:.2f} TB/s, read and written\n")
    print("| | " + " | ".join(PRECISIONS) + " |\n|---|---|---|---|")
    side, square = 320, 8192
    matrices = [torch.randn(square, square, device=DEVICE) for _ in range(2)]
    _peak_row(f"matrix product {square}", 2.0 * square**3, lambda: matrices[0] @ matrices[1])
    for tiles, channels, wide in ((1, 64, side), (16, 64, side), (64, 32, 64)):
        (image,) = features(tiles, channels, wide, 1)
        flops = 3 * 2.0 * 9 * channels**2 * wide**2 * tiles
        name = f"3 x 3, {tiles} images of {wide}, {channels} channels"
        weight = torch.randn(channels, channels, 3, 3, device=DEVICE, requires_grad=True)
        _peak_row(f"{name}, one weight", flops, partial(_there_and_back, _convolved, image, weight))
        weights = torch.randn(tiles, channels, channels, 3, 3, device=DEVICE, requires_grad=True)
        _peak_row(f"{name}, own weights, grouped", flops, partial(_there_and_back, _grouped, image, weights))
        _peak_row(f"{name}, own weights, fused", flops, partial(_there_and_back, _fused, image, weights))


def _peak_row(name: str, flops: float, work: Callable[[], object]) -> None:
    rates = []
    for kind in PRECISIONS:
        with precision(kind):
            rates.append(flops / seconds(work) / 1e12)
    print(f"| {name} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |", flush=True)


def _there_and_back(layer: Callable[[Tensor, Tensor], Tensor], images: Tensor, weight: Tensor) -> None:
    out = layer(images, weight)
    torch.autograd.grad(out, (images, weight), torch.ones_like(out))


def _convolved(images: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(images, weight, padding=1)


def _grouped(images: Tensor, weights: Tensor) -> Tensor:
    joined = images.reshape(1, -1, *images.shape[2:])
    return F.conv2d(joined, weights.flatten(0, 1), padding=1, groups=len(images)).reshape(images.shape)


def _fused(images: Tensor, weights: Tensor) -> Tensor:
    return convolution.convolve(images, weights.flatten(0, 1), images.new_zeros(weights.shape[:2].numel()), relu=False)


def one_filter(tune: bool) -> None:
    """Milliseconds and TFLOP/s of what the formula needs (2 products of n x n x channels, backward twice that)."""
    print("| tiles | side | channels | n | way | precision | ms | TFLOP/s |\n|---|---|---|---|---|---|---|---|")
    for tiles, side, channels, size in ((1, 320, 64, 11), (1, 320, 64, 5), (16, 320, 64, 11), (64, 64, 32, 11)):
        flops = 3 * 2 * 2.0 * size**2 * channels * side**2 * tiles
        images = features(tiles, channels, side)
        label = f"| {tiles} | {side} | {channels} | {size} |"
        _filter_row(f"{label} unfolding | float32 |", flops, unfolded_filter, images, size)
        with mock.patch.object(neighbourhood, "_fused", return_value=None):
            _filter_row(f"{label} torch's blocks | float32 |", flops, neighbourhood_filter, images, size)
        for kind in PRECISIONS:
            kept = [x.detach().bfloat16().requires_grad_() for x in images] if kind == "bfloat16" else images
            with precision(kind):
                _filter_row(f"{label} fused | {kind} |", flops, neighbourhood_filter, kept, size)
        for extent, warps, stages in itertools.product(EXTENTS, (4, 8), (1, 2, 3)) if tune else ():
            chosen: dict[str, Any] = {"_extent": lambda _, found=extent: found, "_WARPS": warps, "_STAGES": stages}
            with mock.patch.multiple("geosr.methods.neighbourhood_triton", **chosen):
                name = f"{extent[0]} x 8, chunk {extent[1]}, {warps} warps, {stages} stages"
                with precision("float32"):
                    _filter_row(f"{label} {name} | float32 |", flops, neighbourhood_filter, images, size, rounds=3)


def _filter_row(
    label: str, flops: float, filter_: Filter, images: Sequence[Tensor], size: int, rounds: int = 10
) -> None:
    try:
        took = seconds(lambda: gradients(filter_, images[0], images[1], size), rounds)
    except (torch.OutOfMemoryError, RuntimeError) as error:  # a block that the card has no room for
        print(f"{label} {type(error).__name__} | |", flush=True)
        return
    print(f"{label} {1e3 * took:.3f} | {flops / took / 1e12:.2f} |", flush=True)


def step_seconds(tiles: int, settings: MmsrSettings, side: int, steps: int) -> float:
    """Of a step on so many tiles, after five that compile, reserve memory and record."""
    moments: list[float] = []

    def look(epoch: int, _: object) -> bool:
        if epoch in (5, 5 + steps):
            torch.cuda.synchronize()
            moments.append(time.perf_counter())
        return False

    patches, seeds = [random_patch(side)] * tiles, range(tiles)
    mmsr_fit.fit_each(patches, replace(settings, epochs=5 + steps), seeds, DEVICE, enough=look)
    return (moments[1] - moments[0]) / steps


@contextmanager
def as_usual() -> Iterator[None]:
    """The yardstick: neighbourhoods unfolded, layers by torch, nothing recorded."""
    with (
        mock.patch.object(mmsr_network, "neighbourhood_filter", unfolded_filter),
        mock.patch.object(convolution, "_fused", return_value=None),
        mock.patch.object(recorded, "_FIRST", 1 << 30),
    ):
        yield


def steps(preset: str, side: int, batches: Sequence[int], rounds: int, count: int) -> None:
    """Every way once in each round; the ratio to the unfolding is the median of the rounds'."""
    settings = PRESETS[preset]
    seen = settings.crop or side
    sizes = [settings.source_to_guide, settings.guide_to_source]
    work = step_flops(seen, sizes, settings.channels)
    ways = [("unfolding", "float32", 1), *(("ours", kind, tiles) for tiles in batches for kind in PRECISIONS)]
    ways += [("unfolding", "float32", tiles) for tiles in batches if tiles > 1]
    found: dict[tuple[str, str, int], list[float]] = {way: [] for way in ways}
    memory = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for way in ways:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                with precision(way[1]), as_usual() if way[0] == "unfolding" else nullcontext():
                    found[way].append(step_seconds(way[2], settings, side, count) / way[2])
            except (OutOfMemoryError, RuntimeError) as error:  # unfolded images may have too many numbers for a kernel
                print(f"{way}: {error}", file=sys.stderr)
                found[way].append(float("inf"))
            memory[way] = torch.cuda.max_memory_allocated() / 1e9
    print(f"preset {preset}, {settings.epochs} epochs, steps on {seen} x {seen} of {side} x {side} pixels\n")
    print("| way | precision | tiles at once | ms a step and tile | tiles/s | times | TFLOP/s | GB |")
    print("|---|---|---|---|---|---|---|---|")
    for way in ways:
        ratio = statistics.median(a / b for a, b in zip(found[ways[0]], found[way], strict=True))
        took = statistics.median(found[way])
        tiles_a_second = 1 / (took * settings.epochs)
        print(
            f"| {way[0]} | {way[1]} | {way[2]} | {1e3 * took:.3f} | {tiles_a_second:.4f} | {ratio:.1f} "
            f"| {work / took / 1e12:.2f} | {memory[way]:.2f} |"
        )


def accuracy(data: Path, preset: str, epochs: int | None, scale: int, seeds: int) -> None:
    """Mean RMSE over images and seeds, all fitted at once.

    Two fits that differ in the last bit end apart; how far, the standard deviation of the seeds' means says.
    """
    from middlebury import Sample  # needs rasterio

    from geosr.datasets import middlebury

    settings = replace(PRESETS[preset], epochs=epochs or PRESETS[preset].epochs)
    samples = seeds * [Sample(image.read(scale)) for image in middlebury(data)]
    method, patches = Mmsr(settings), [sample.patch for sample in samples]
    method.fit_each(patches[:1], [0], DEVICE)  # compiles
    print(f"preset {preset}, {settings.epochs} epochs, {len(samples) // seeds} images, {seeds} seeds, x{scale}\n")
    print("| precision | raw | projected | seeds apart | seconds of all fits | of all predictions |")
    print("|---|---|---|---|---|---|")
    for kind in PRECISIONS:
        start = time.perf_counter()
        with precision(kind):
            states = method.fit_each(patches, range(len(patches)), DEVICE)
            took = time.perf_counter() - start
            rows = []
            for sample, state in zip(samples, states, strict=True):
                if isinstance(state, TileError):
                    raise state
                rows.append(sample.errors(method.predict(sample.patch, state, DEVICE).values))
        raw, exact = np.mean(rows, axis=0)
        apart = np.reshape(rows, (seeds, -1, 2)).mean(1).std(0)[1]
        predicted = time.perf_counter() - start - took
        print(f"| {kind} | {raw:.4f} | {exact:.4f} | {apart:.4f} | {took:.1f} | {predicted:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="+", choices=["check", "peaks", "filter", "steps", "accuracy"])
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--side", type=int, default=320, help="high pixels a side of a tile")
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 4, 16, 64], help="fitted at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="timed for each way and round")
    parser.add_argument("--tune", action="store_true", help="other blocks of the fused kernels, too")
    parser.add_argument("--data", type=Path, help="Middlebury: folder with guide/ and source_hr/")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1, help="of the fits for accuracy")
    parser.add_argument("--epochs", type=int, help="of the fits for accuracy; the preset's own if not given")
    arguments = parser.parse_args()
    if "accuracy" in arguments.parts and arguments.data is None:
        parser.error("accuracy needs --data")
    if not torch.cuda.is_available():
        parser.exit(4, f"no CUDA device is usable by this torch ({torch.__version__}); nothing was measured\n")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    if "check" in arguments.parts:
        check()
    if "peaks" in arguments.parts:
        peaks()
    if "filter" in arguments.parts:
        one_filter(arguments.tune)
    if "steps" in arguments.parts:
        steps(arguments.preset, arguments.side, arguments.tiles, arguments.rounds, arguments.steps)
    if "accuracy" in arguments.parts:
        accuracy(arguments.data, arguments.preset, arguments.epochs, arguments.scale, arguments.seeds)


if __name__ == "__main__":
    main()

"""RMSE on the Middlebury pairs, beside cubic convolution (a = -0.75) and the MMSR authors' own run.

    python benchmarks/middlebury.py --data ../shared/data/middlebury --scale 4 --preset default

The source is the true disparity's block mean in float64; the error is over all pixels, in disparity values.
`raw` is the method's answer, `projected` the same after the projection onto the source (the refined answer is so
already). Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from geosr_cli.options import read_settings

from geosr import datasets, methods
from geosr.consistency import project
from geosr.device import torch_threads
from geosr.methods import mmsr_fit
from geosr.methods.base import FloatArray, Method, Patch, State
from geosr.methods.mmsr import Mmsr
from geosr.methods.mmsr_fit import Enough
from geosr.methods.mmsr_settings import MmsrSettings
from geosr.methods.solve import interpolate
from geosr.metrics import score_arrays
from geosr.pair import Stats, normalise
from geosr.protocols import authors
from geosr.samples import TruePair


class Sample:
    """One image: the patch that a method sees, and the truth."""

    def __init__(self, true: TruePair) -> None:
        self.name, self._true, self._stats = true.name, true, Stats.measure([true.pair])
        self.patch = normalise(true.pair, self._stats)

    def errors(self, values: FloatArray) -> tuple[float, float]:
        """RMSE of a normalised answer as it is, and projected onto the source."""
        raw = self._stats.physical(values)
        pair = self._true.pair
        exact = project(raw, np.ones(raw.shape, bool), pair.source, pair.source_valid)
        found = [score_arrays(image, self._true.truth).rmse for image in (raw, exact)]
        return found[0] or 0.0, found[1] or 0.0


class Clock:
    """Seconds since it was made, but for those in which it was stopped."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._start

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done in the block takes no time."""
        seconds = self.seconds
        yield
        self._start = time.perf_counter() - seconds


def run(sample: Sample, method: Method, seed: int, trace: int) -> tuple[float, float, float]:
    """RMSE as answered and projected, and seconds for fit and prediction."""
    clock = Clock()
    with _traced(sample, clock, trace) if trace and isinstance(method, Mmsr) else nullcontext():
        state = method.fit([sample.patch], seed, "cpu")
    values = method.predict(sample.patch, state, "cpu").values
    return *sample.errors(values), clock.seconds


@contextmanager
def _traced(sample: Sample, clock: Clock, every: int) -> Iterator[None]:
    """A fit of MMSR's network in the block is told of, and that takes none of its time."""
    fit = mmsr_fit.fit

    def traced(
        patches: Sequence[Patch], settings: MmsrSettings, seed: int, device: str, enough: Enough | None = None
    ) -> State:
        def look(epoch: int, networks: Callable[[], list[State]]) -> bool:
            if epoch % every == 0:
                with clock.stopped():
                    raw, exact = sample.errors(mmsr_fit.predict(sample.patch, networks()[0], settings, device))
                    at = f"{clock.seconds:.1f} s"
                    print(f"{sample.name} {epoch}: network {raw:.3f} projected {exact:.3f} {at}", flush=True)
            return enough is not None and enough(epoch, networks)

        return fit(patches, settings, seed, device, look)

    with mock.patch.object(mmsr_fit, "fit", traced):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with guide/ and source_hr/")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--method", default="mmsr")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting")
    parser.add_argument("--only", nargs="*", help="names of images")
    parser.add_argument("--trace", type=int, default=0, help="print MMSR's errors every so many epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    images = [i for i in datasets.middlebury(arguments.data) if not arguments.only or i.name in arguments.only]
    method = methods.create(arguments.method, arguments.preset, read_settings(tuple(arguments.set)))
    published = authors(images, arguments.scale)
    print("| image | bicubic | authors | raw | projected | seconds |\n|---|---|---|---|---|---|")
    rows = []
    with torch_threads(arguments.threads):
        for image in images:
            sample = Sample(image.read(arguments.scale))
            bicubic = sample.errors(interpolate(sample.patch.source, arguments.scale))[0]
            result = run(sample, method, arguments.seed, arguments.trace)
            rows.append((bicubic, published.get(image.name, np.nan), *result))
            print(_line(image.name, rows[-1]), flush=True)
    print(_line("mean", np.mean(rows, axis=0)))


def _line(name: str, row: object) -> str:
    bicubic, published, raw, exact, seconds = np.asarray(row, dtype=np.float64).tolist()
    return f"| {name} | {bicubic:.3f} | {published:.3f} | {raw:.3f} | {exact:.3f} | {seconds:.1f} |"


if __name__ == "__main__":
    main()

"""MMSR's Tables 1 to 4, its ablations and its Fig. 9 on a folder of pairs, all methods side by side.

    python benchmarks/papers.py ../shared/data -o papers           # reduced: a crop of 160 x 160 a pair, 200 steps
    python benchmarks/papers.py samples/ --full -o papers          # as published; days on a CPU
    python benchmarks/papers.py samples/ --device cuda -o papers   # on a GPU: pairs of one shape are fitted at once

FOLDER is `shared/data`, or one laid out as geosr.datasets has it: `guide/` and `source_hr/` with images of the same
names (also in folders 2003, 2005, 2014), or DFC2019's Track 1. Sources are the truth's block means; RMSE over all
pixels, then the mean over the pairs, raw and projected onto the source; and that over bicubic's, pair by
pair, since pairs differ in their units. Every network is MMSR's own (64 channels) unless it says "default". Writes
papers.md and two pictures a scale, and prints every error as it comes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from real_pairs import real_pairs

from geosr import methods
from geosr.consistency import project
from geosr.datasets import middlebury
from geosr.device import torch_threads
from geosr.dfc2019 import dfc2019
from geosr.errors import TileError
from geosr.figures import draw_comparison, png_of
from geosr.methods import mmsr_batch, mmsr_network
from geosr.methods.base import Method, Patch, State
from geosr.methods.judgement import exact
from geosr.methods.mmsr import Mmsr
from geosr.metrics import score_arrays
from geosr.pair import Pair, Stats, normalise
from geosr.protocols import published
from geosr.samples import TruePair
from geosr.tables import Table

Array = NDArray[np.float64]

PAPER_STEPS = 1000
_DEPTH = "depth"

NOISE = 50 / 255
"""Standard deviation of the noise on the guide, as a share of the guide's range."""


@dataclass(frozen=True)
class Model:
    """A method with its settings, on the guide as it is or with noise on it."""

    method: str
    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    noisy: bool = False


def paper(**settings: Any) -> Model:
    """The paper's network for depth with some of its settings changed."""
    return Model("mmsr", "paper-depth", settings)


_BICUBIC = Model("bicubic")
MAIN = {
    "bicubic": _BICUBIC,
    "diffusion": Model("diffusion"),
    "MMSR (paper preset)": paper(),
    "default": Model("mmsr"),
}
_DEM = MAIN | {"MMSR (paper preset)": Model("mmsr", "paper-dem")}
_BOTH = {"guide_to_source": 11}
_MODEL3 = paper(**_BOTH)


@dataclass(frozen=True)
class Experiment:
    """One of the paper's tables: models by label, and what the paper has for them or for others."""

    title: str
    scale: int
    models: Mapping[str, Model]
    published: Mapping[str, float | None]
    heights: bool = False


def _sizes(*pairs: tuple[int, int]) -> dict[str, Model]:
    return {f"{n}/{m}": paper(source_to_guide=n, guide_to_source=m) for n, m in pairs}


# Published errors are Middlebury 2014's for Tables 2, 3 and the neighbourhoods, 2003's for the fusion.
EXPERIMENTS = (
    Experiment("Table 1: depth, x4", 4, MAIN, {}),
    Experiment("Table 1: depth, x8", 8, MAIN, {}),
    Experiment(
        "Table 2: modulation, x8",
        8,
        {
            "Model0: none": paper(variant="none"),
            "Model1: guide to source": paper(variant="guide-to-source", **_BOTH),
            "Model2: source to guide": paper(variant="source-to-guide"),
            "Model3: both, 11/11": _MODEL3,
        },
        {
            "Model0: none": 4.30,
            "Model1: guide to source": 4.08,
            "Model2: source to guide": 3.72,
            "Model3: both, 11/11": 3.67,
        },
    ),
    Experiment(
        "Table 3: filters, x8",
        8,
        {
            "Model4: convolutions": paper(variant="convolution", **_BOTH),
            "Model5: one convolution": paper(variant="joint-convolution"),
            "Model6: own domain": paper(variant="self", **_BOTH),
            "Model3: cross-domain": _MODEL3,
        },
        {
            "Model4: convolutions": 4.87,
            "Model5: one convolution": 4.88,
            "Model6: own domain": 3.84,
            "Model3: cross-domain": 3.67,
        },
    ),
    Experiment(
        "Fig. 10: neighbourhoods n/m, x8",
        8,
        _sizes((3, 3), (7, 7), (11, 11), (11, 9), (11, 7), (11, 5), (11, 3)),
        {"3/3": 4.23, "7/7": 3.91, "11/11": 3.665, "11/9": 3.638, "11/7": 3.655, "11/5": 3.597, "11/3": 3.613},
    ),
    Experiment(
        "Supplement, Table I: fusion, x4",
        4,
        {
            "sum": paper(fusion="sum"),
            "attention + sum": paper(fusion="attention-sum"),
            "attention + conv": paper(fusion="attention-conv"),
            "conv": paper(),
        },
        {"sum": 1.88, "attention + sum": 1.92, "attention + conv": 1.84, "conv": 1.78},
    ),
    Experiment(
        "Noise of 50/255 on the guide, x4", 4, {name: replace(model, noisy=True) for name, model in MAIN.items()}, {}
    ),
    Experiment("Table 4: heights, x4", 4, _DEM, published("dfc2019", 4), heights=True),
    Experiment("Table 4: heights, x8", 8, _DEM, published("dfc2019", 8), heights=True),
)


class Bench:
    """The pairs of a folder, and what each model makes of them; nothing is run twice."""

    def __init__(self, folder: Path, crop: int, steps: int, only: list[str], seed: int, device: str) -> None:
        self._folder, self._crop, self._steps, self._only, self._seed = folder, crop, steps, only, seed
        self.device = device
        self._pairs: dict[int, list[TruePair]] = {}
        self._answers: dict[tuple[object, ...], Array] = {}

    def pairs(self, scale: int, heights: bool) -> list[TruePair]:
        """Of depth or of heights, cropped."""
        if scale not in self._pairs:
            kept = (pair for pair in _read(self._folder, scale) if any(part in pair.name for part in self._only))
            self._pairs[scale] = [_cut(pair, self._crop) for pair in kept]
        return [pair for pair in self._pairs[scale] if heights != pair.name.startswith(_DEPTH)]

    def run(self, pairs: list[TruePair], scale: int, model: Model) -> list[Array]:
        """The answers in the truths' units."""
        method = self.method(model)
        keys = [(true.name, scale, method, model.noisy) for true in pairs]
        todo = [true for true, key in zip(pairs, keys, strict=True) if key not in self._answers]
        for together in self._together(method, todo):
            start = time.monotonic()
            answers = self._run(together, method, model.noisy)
            seconds = (time.monotonic() - start) / len(together)
            for true, found in zip(together, answers, strict=True):
                self._answers[true.name, scale, method, model.noisy] = found
                errors = f"{rmse(found, true):.4f}, consistent {rmse(consistent(found, true), true):.4f}"
                print(f"x{scale} {true.name}: {_describe(model)}: {errors}, {seconds:.1f} s", flush=True)
        return [self._answers[key] for key in keys]

    def _together(self, method: Method, pairs: list[TruePair]) -> list[list[TruePair]]:
        """What is fitted at once: on a GPU all pairs of one shape."""
        if self.device == "cpu" or not method.fits_together:
            return [[true] for true in pairs]
        groups: dict[tuple[int, ...], list[TruePair]] = {}
        for true in pairs:
            groups.setdefault(true.pair.guide.shape, []).append(true)
        return [*groups.values()]

    def _run(self, pairs: list[TruePair], method: Method, noisy: bool) -> list[Array]:
        given = [_with_noise(true.pair, self._seed) if noisy else true.pair for true in pairs]
        stats = [Stats.robust([pair]) if method.statistics == "scene" else Stats.measure([pair]) for pair in given]
        patches = [normalise(pair, measured) for pair, measured in zip(given, stats, strict=True)]
        fits: Sequence[State | TileError]
        if len(patches) > 1:
            fits = method.fit_each(patches, [self._seed] * len(patches), self.device)
        else:
            fits = [method.fit(patches, self._seed, self.device)]
        found = []
        for patch, state, measured in zip(patches, fits, stats, strict=True):
            if isinstance(state, TileError):
                raise state
            values = method.predict(patch, state, self.device).values
            answer = exact(values, patch) if method.consistency == "exact" else values.astype(np.float64)
            found.append(measured.physical(answer))
        return found

    def method(self, model: Model) -> Method:
        """The model's method; of the paper's network the optimiser's steps are cut.

        The default keeps its 1000 steps on squares of 64 x 64 by 32 channels: they are a fifth of the arithmetic of 200
        steps of the paper's on 160 x 160.
        """
        method = methods.create(model.method, model.preset, model.settings)
        if isinstance(method, Mmsr) and not method.settings.crop:
            method = replace(method, settings=replace(method.settings, epochs=self._steps))
        return method

    def table(self, experiment: Experiment) -> tuple[int, Table]:
        """On how many pairs, and errors by model beside the paper's."""
        pairs = self.pairs(experiment.scale, experiment.heights)
        plain = [
            rmse(found, pair) for found, pair in zip(self.run(pairs, experiment.scale, _BICUBIC), pairs, strict=True)
        ]
        rows = []
        for label, model in experiment.models.items():
            answers = zip(self.run(pairs, experiment.scale, model), pairs, plain, strict=True)
            found = [
                (rmse(v, pair), made := rmse(consistent(v, pair), pair), made / least) for v, pair, least in answers
            ]
            means = np.mean(found, axis=0).tolist() if found else (None, None, None)
            rows.append((label, *means, experiment.published.get(label)))
        theirs = ((name, None, None, None, error) for name, error in _others(experiment).items())
        names = "model", "mean RMSE", "projected", "over bicubic", "published"
        return len(pairs), Table(names, (*rows, *theirs))


def _others(experiment: Experiment) -> dict[str, float | None]:
    """Published methods that are not run here."""
    return {name: error for name, error in experiment.published.items() if name not in experiment.models and error}


def consistent(values: Array, true: TruePair) -> Array:
    """Values projected onto the source."""
    return project(values, np.ones(values.shape, bool), true.pair.source, true.pair.source_valid)


def rmse(values: Array, true: TruePair) -> float:
    """Over the pixels with a truth."""
    found = score_arrays(values, true.truth).rmse
    assert found is not None, true.name
    return found


def _read(folder: Path, scale: int) -> Iterator[TruePair]:
    """Every pair of depth or heights in the folder; those of depth have the word before their name."""
    if (folder / "middlebury").is_dir():
        for pair in real_pairs(folder, scale):
            if pair.name.startswith("middlebury"):
                yield replace(pair, name=f"{_DEPTH} {pair.name}")
            elif any(kind in pair.name for kind in ("heights", "canopy", "field")):
                yield pair
    elif next(folder.rglob("*_AGL.tif"), None):
        yield from (s.read(scale) for s in dfc2019(folder))
    else:
        samples = (sample.read(scale) for sample in middlebury(folder))
        yield from (replace(pair, name=f"{_DEPTH} {pair.name}") for pair in samples)


def _cut(true: TruePair, side: int) -> TruePair:
    """The middle of a pair, `side` pixels of it at most."""
    scale, pair = true.pair.scale, true.pair
    rows, cols = ((max(n - side // scale, 0) // 2, min(n, side // scale)) for n in pair.source.shape)
    low = slice(rows[0], sum(rows)), slice(cols[0], sum(cols))
    high = slice(rows[0] * scale, sum(rows) * scale), slice(cols[0] * scale, sum(cols) * scale)
    part = Pair(pair.guide[:, *high], pair.guide_valid[high], pair.source[low], pair.source_valid[low])
    return TruePair(true.name, part, true.truth[high])


def _with_noise(pair: Pair, seed: int) -> Pair:
    draw = np.random.default_rng(seed)
    spans = np.ptp(pair.guide[:, pair.guide_valid], axis=1)[:, None, None]
    noise = draw.normal(0, NOISE, pair.guide.shape) * spans
    return replace(pair, guide=(pair.guide + noise).astype(np.float32))


def _describe(model: Model) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in model.settings.items())
    return f"{model.method} {model.preset}" + (f" ({settings})" if settings else "") + (" noisy" if model.noisy else "")


def draw_features(bench: Bench, true: TruePair, scale: int) -> bytes:
    """Fig. 9: source and guide features before and after filtering, each as its first principal component."""
    patch = normalise(true.pair, Stats.measure([true.pair]))
    method = bench.method(_MODEL3)
    assert isinstance(method, Mmsr)
    features = _features(patch, method, method.fit([patch], 0, bench.device))
    panels = {"guide": patch.guide.mean(axis=0), "truth": true.truth} | features
    figure = Figure(figsize=(3.2 * len(panels), 3.5), layout="constrained")
    for axis, (title, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    figure.suptitle(f"{true.name}, x{scale}")
    return png_of(figure)


@torch.no_grad()
def _features(patch: Patch, method: Mmsr, state: dict[str, NDArray[Any]]) -> dict[str, Array]:
    """What goes into the network's mutual modulation and what comes out."""
    net = mmsr_network.build(len(patch.guide), method.settings, seeds=[0])
    net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    tensors = mmsr_batch.Batch.of([patch], "cpu")
    guide = net.guide_in(net.guide(tensors.guide))
    source = tensors.levels.spread(net.source_in(net.source(tensors.levels.values)))
    to_guide, to_source = net.modulate(source, guide)
    found = {
        "source, before (Fs)": source,
        "source, after (Fs2g)": to_guide,
        "guide, before (Fg)": guide,
        "guide, after (Fg2s)": to_source,
    }
    return {name: _first_component(feature[0].numpy().astype(np.float64)) for name, feature in found.items()}


def _first_component(features: Array) -> Array:
    """(C, H, W) to (H, W)."""
    pixels = features.reshape(len(features), -1)
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    direction = np.linalg.eigh(pixels @ pixels.T)[1][:, -1]
    return np.asarray((direction @ pixels).reshape(features.shape[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("papers"), help="folder for papers.md and pictures")
    parser.add_argument("--full", action="store_true", help="whole images and 1000 steps, as published")
    parser.add_argument("--crop", type=int, default=160, help="side of the crop of each pair")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps in place of the paper's 1000")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the pairs' names")
    parser.add_argument("--tables", nargs="*", default=[""], help="parts of the tables' titles")
    parser.add_argument("--models", nargs="*", default=[""], help="parts of the models' names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    crop, steps = (1 << 20, PAPER_STEPS) if arguments.full else (arguments.crop, arguments.steps)
    bench = Bench(arguments.folder, crop, steps, arguments.only, arguments.seed, arguments.device)
    kind = (
        "In full" if arguments.full else f"REDUCED: the middle {crop} x {crop} pixels of a pair, {steps} of 1000 steps"
    )
    text = f"{kind} of the paper's network; the default has its own.\n"
    arguments.output.mkdir(parents=True, exist_ok=True)
    with torch_threads(arguments.threads):
        for experiment in EXPERIMENTS:
            chosen = {n: m for n, m in experiment.models.items() if any(part in n for part in arguments.models)}
            if not chosen or not any(part in experiment.title for part in arguments.tables):
                continue
            experiment = replace(experiment, models=chosen)
            count, table = bench.table(experiment)
            text += f"\n### {experiment.title}, {count} pair{'' if count == 1 else 's'}\n\n{table.markdown()}"
            (arguments.output / "papers.md").write_text(text)
            _draw(bench, experiment, arguments.output)


def _draw(bench: Bench, experiment: Experiment, folder: Path) -> None:
    """The first pair's results; for Table 2 its features."""
    for true in bench.pairs(experiment.scale, experiment.heights)[:1]:
        results = {name: bench.run([true], experiment.scale, model)[0] for name, model in experiment.models.items()}
        known = np.where(true.pair.source_valid, true.pair.source, np.nan)
        name = "".join(c if c.isalnum() else "_" for c in experiment.title.partition(":")[0])
        path = folder / f"{name}_x{experiment.scale}.png"
        path.write_bytes(draw_comparison(true.pair.guide, known, true.truth, results))
        if experiment.title.startswith("Table 2"):  # its Model3 is what the figure shows
            (folder / "features.png").write_bytes(draw_features(bench, true, experiment.scale))


if __name__ == "__main__":
    main()

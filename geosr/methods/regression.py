"""Regression sharpening, as tools for thermal bands do it: what the guide tells of the source, and the rest smoothed.

At the source's resolution the source is regressed on the guide's bands (trees as in DMS, Gao et al. 2012; a line as in
TsHARP, Kustas et al. 2003), the regression is applied to the guide's own pixels, and what it leaves unexplained of each
source pixel is interpolated and added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geosr.consistency import pool
from geosr.errors import UsageError
from geosr.methods.base import FloatArray, Method, Patch, Prediction, State
from geosr.methods.settings import apply_settings, check_choices, check_ranges

_MODELS = ("ridge", "forest")
_COVERED = 0.5  # share of a source pixel that the guide must cover to be learnt from


@dataclass(frozen=True)
class RegressionSettings:
    """What is regressed, and on which pixels.

    Attributes:
        model: `ridge`, a linear regression, or a `forest` of regression trees. At x4 the line was better on eight of
            nine pairs, temperatures among them (0.587 against 0.729 K); trees were where it ran far beyond what it had
            learnt from.
        trees: of the forest.
        leaf: source pixels in a leaf at least.
        penalty: of the ridge regression.
        homogeneous: share of the source pixels to learn from, those in which the guide varies least.
    """

    model: str = "ridge"
    trees: int = 30
    leaf: int = 10
    penalty: float = 1.0
    homogeneous: float = 0.8

    def __post_init__(self) -> None:
        check_choices(self, {"model": _MODELS})
        check_ranges(self, {"trees": (1, 10_000), "leaf": (1, 10_000)})
        if not 0 <= self.penalty < math.inf:
            raise UsageError(f"penalty is {self.penalty}; it must not be negative")
        if not 0 < self.homogeneous <= 1:
            raise UsageError(f"homogeneous is {self.homogeneous}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Regression(Method):
    """Its state is what it learns from: a line is drawn through it at once, and trees need not be stored."""

    settings: RegressionSettings = field(default_factory=RegressionSettings)
    name: str = "regression"
    needs_fit: bool = True

    def halo(self, scale: int) -> int:
        """The residual's interpolation, two source pixels."""
        return 2 * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """The guide by pixels, and a few maps in float64."""
        return 8 * (2 * bands + 8) * shape[0] * shape[1]

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """The pixels to learn from: (n, bands) `guide` and (n,) `source`, and the seed."""
        samples = [_samples(patch, self.settings.homogeneous) for patch in patches]
        guide, source = (np.concatenate(parts) for parts in zip(*samples, strict=True))
        return {"guide": guide, "source": source, "seed": np.array(seed % 2**32, np.int64)}

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The regression's values with their residual added; the interpolated source if there was nothing to learn."""
        from geosr.methods.solve import interpolate
        from geosr.pair import fill

        if not len(state["source"]):
            return Prediction(interpolate(patch.source, patch.scale))
        values = self._regress(state, patch.guide.reshape(len(patch.guide), -1).T).reshape(patch.guide_valid.shape)
        pooled, known = pool(values, patch.guide_valid, patch.scale)
        residual = np.where(known, patch.source - pooled, 0).astype(np.float32)
        residual = fill(residual[None], known & patch.source_valid)[0]
        return Prediction((values + interpolate(residual, patch.scale)).astype(np.float32))

    def _regress(self, state: State, guide: FloatArray) -> NDArray[np.float64]:
        settings = self.settings
        if settings.model == "ridge":
            from sklearn.linear_model import Ridge

            model: Any = Ridge(alpha=settings.penalty)
        else:
            from sklearn.ensemble import RandomForestRegressor

            seed = int(state["seed"])
            model = RandomForestRegressor(settings.trees, min_samples_leaf=settings.leaf, random_state=seed)
        return cast("NDArray[np.float64]", model.fit(state["guide"], state["source"]).predict(guide))


def _samples(patch: Patch, homogeneous: float) -> tuple[FloatArray, FloatArray]:
    """Guide means and source values of the valid source pixels in which the guide varies least."""
    means, known = zip(*(pool(band, patch.guide_valid, patch.scale) for band in patch.guide), strict=True)
    squares = [pool(band.astype(np.float64) ** 2, patch.guide_valid, patch.scale)[0] for band in patch.guide]
    covered = pool(patch.guide_valid.astype(np.float64), np.ones_like(patch.guide_valid), patch.scale)[0]
    used = known[0] & patch.source_valid & (covered >= _COVERED)
    spread = (np.stack(squares) - np.stack(means) ** 2).sum(0)
    if used.any():
        used &= spread <= np.quantile(spread[used], homogeneous)
    guide = np.stack(means)[:, used].T
    return guide.astype(np.float32), patch.source[used]


def create(preset: str, settings: Mapping[str, Any]) -> Regression:
    """The method; `UsageError` for a preset or setting that does not exist."""
    return Regression(apply_settings("regression", {"default": RegressionSettings()}, preset, settings))

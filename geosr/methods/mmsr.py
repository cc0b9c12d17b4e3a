"""MMSR: a network fitted on one pair alone by mutual modulation (Dong et al., ECCV 2022).

`geosr.methods.mmsr_network` has the network and `geosr.methods.mmsr_fit` its fit, which need torch; here is what
decides whether a fit pays, and what becomes of the network's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from geosr.errors import TileError
from geosr.methods.base import FloatArray, Method, Patch, Prediction, ShortRuns, State
from geosr.methods.diffusion import HALO_BLOCKS
from geosr.methods.diffusion_settings import DiffusionSettings
from geosr.methods.mmsr_settings import PRESETS, MmsrSettings
from geosr.methods.settings import apply_settings

_BESIDE = "belief", "share", "sizes"
"""What a state holds beside the network's weights."""

_ERROR_FACTOR = 0.9
"""Errors beside the diffusion's: with it 0.75 and 0.90 of the truth lie within one and two standard deviations at x4,
mean of eighteen pairs (docs/accuracy.md)."""


def create(preset: str, settings: Mapping[str, Any]) -> Mmsr:
    """`Mmsr` with a preset's settings, some of them replaced; `UsageError` for what does not exist."""
    return Mmsr(apply_settings("mmsr", PRESETS, preset, settings))


@dataclass(frozen=True)
class Mmsr(Method):
    """The method: one network from random weights for the patches given, no outside data."""

    settings: MmsrSettings = PRESETS["default"]
    name: str = "mmsr"
    needs_fit: bool = True
    fits_together: bool = True

    def halo(self, scale: int) -> int:
        """Six 3x3 convolutions, half a neighbourhood, the interpolation's source pixel; then the refinement's."""
        widest = max(self.settings.source_to_guide, self.settings.guide_to_source)
        network = -(-(6 + widest // 2 + scale) // scale) * scale
        return network + HALO_BLOCKS * scale if self.settings.refine == "diffusion" else network

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """Some 28 feature maps at the peak of a step (64 channels, 320 x 320: the process had 0.92 GB)."""
        return 4 * shape[0] * shape[1] * (28 * self.settings.channels + 2 * bands)

    def slowness(self, device: str) -> str | None:
        """On the CPU, its filter where that was not compiled; on a GPU, its kernels where they cannot be."""
        from geosr.methods import compiled, gpu_kernels

        if device != "cpu":
            return gpu_kernels.slowness(device)
        if compiled.library():
            return None
        return (
            "geosr was installed without a C compiler: fits take about 1.7 times as long as with its compiled kernels"
        )

    def trial(self) -> ShortRuns:
        """Some steps, and some more: a step on a crop takes a thirtieth of one on a whole tile.

        Of those on crops a GPU does the first three as they are and records the fourth; the others take a tenth.
        """
        first, few = (4, 32) if self.settings.crop else (1, 2)
        less, more = (Mmsr(replace(self.settings, epochs=epochs)) for epochs in (first, first + few))
        return ShortRuns(less, more, (self.settings.epochs - first) / few, threaded=bool(self.settings.crop))

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """Fit a network to the patches, each seen once an epoch, for as long as it pays (`_Pays`).

        Whole patches make a step each. Squares of all patches make one step together, on the CPU worked on by a thread
        each, as far as there are threads: however many, the bits are the same.

        Raises:
            UsageError: the patches differ in their number of guide bands.
            TileError: the loss is not finite, or the memory does not suffice.
        """
        from geosr.methods import mmsr_fit

        if self.settings.refine == "none":
            return mmsr_fit.fit(patches, self.settings, seed, device)
        belief = self._belief(patches, device)
        settings = self._fitting(patches, belief)
        pays = _Pays(settings, [patches], [belief], device)
        return pays.judged(0, mmsr_fit.fit(patches, settings, seed, device, enough=pays.enough))

    def fit_each(self, patches: Sequence[Patch], seeds: Sequence[int], device: str) -> list[State | TileError]:
        """To each patch a fit of its own, at once on one device: as `fit` one by one, but for the order of sums.

        Those with the same neighbourhoods are fitted together.

        Returns:
            States, and where a loss was not finite the error in its state's place.

        Raises:
            UsageError: the patches differ in shape.
            OutOfMemoryError: the memory does not suffice for so many.
        """
        from geosr.methods import mmsr_fit

        if self.settings.refine == "none":
            return mmsr_fit.fit_each(patches, self.settings, seeds, device)
        beliefs = [self._belief([patch], device) for patch in patches]
        alike: dict[MmsrSettings, list[int]] = {}
        for place, belief in enumerate(beliefs):
            alike.setdefault(self._fitting([patches[place]], belief), []).append(place)
        fits: dict[int, State | TileError] = {}
        for settings, places in alike.items():
            some = [patches[place] for place in places]
            pays = _Pays(settings, [[patch] for patch in some], [beliefs[place] for place in places], device)
            found = mmsr_fit.fit_each(some, settings, [seeds[p] for p in places], device, enough=pays.enough)
            for index, place in enumerate(places):
                state = found[index]
                fits[place] = state if isinstance(state, TileError) else pays.judged(index, state)
        return [fits[place] for place in range(len(patches))]

    def _fitting(self, patches: Sequence[Patch], belief: float) -> MmsrSettings:
        """With the neighbourhoods for patches whose guide's edges are believed so far."""
        from geosr.methods.judgement import can_tell

        if self.settings.neighbourhoods == "fixed" or belief >= 0.5 or not can_tell(patches):
            return self.settings
        sizes = PRESETS["paper-dem"].source_to_guide, PRESETS["paper-dem"].guide_to_source
        return replace(self.settings, source_to_guide=sizes[0], guide_to_source=sizes[1])

    def _belief(self, patches: Sequence[Patch], device: str) -> float:
        from geosr.methods.judgement import judge_edges

        return float(judge_edges(patches, DiffusionSettings(belief=self.settings.belief), device))

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The network's answer, refined if the settings say so."""
        from geosr.methods import mmsr_fit
        from geosr.methods.judgement import answer

        if self.settings.refine == "none":
            return Prediction(mmsr_fit.predict(patch, state, self.settings, device))
        belief, share = float(state["belief"]), float(state["share"])
        hint = None
        if belief > 0 or share > 0:
            network = {name: array for name, array in state.items() if name not in _BESIDE}
            source_to_guide, guide_to_source = (int(size) for size in state["sizes"])
            settings = replace(self.settings, source_to_guide=source_to_guide, guide_to_source=guide_to_source)
            hint = mmsr_fit.predict(patch, network, settings, device)
        return Prediction(answer(patch, DiffusionSettings(), belief, device, hint, share), belief, _ERROR_FACTOR)


class _Pays:
    """Whether fitting still pays, judged without a truth.

    For each fit, by its own patches one scale lower: how far the guide's edges are believed (known from the start), and
    the share of the network's detail that proves itself. Where no edge is believed only that detail can count; where
    nothing of it proves itself after a quarter of the epochs, the fit is hopeless, and over when all that go with it
    are.
    """

    def __init__(
        self, settings: MmsrSettings, groups: Sequence[Sequence[Patch]], beliefs: Sequence[float], device: str
    ) -> None:
        self._settings, self._groups, self._beliefs, self._device = settings, groups, beliefs, device
        self._hopeless = [False] * len(groups)

    def enough(self, epoch: int, networks: Callable[[], Sequence[State]]) -> bool:
        """Looks once, after a quarter of the epochs."""
        if epoch != self._settings.epochs // 4 or all(self._beliefs):
            return False
        self._hopeless = [
            not self._beliefs[place] and not self._hopeful(place, network) for place, network in enumerate(networks())
        ]
        return all(self._hopeless)

    def judged(self, place: int, network: State) -> State:
        """A fitted network, and how far its refinement may believe the guide and the network."""
        share = np.array(0, np.float32) if self._hopeless[place] else self._share(place, network)
        sizes = np.array([self._settings.source_to_guide, self._settings.guide_to_source], np.float32)
        return {"belief": np.array(self._beliefs[place], np.float32), "share": share, "sizes": sizes, **network}

    def _hopeful(self, place: int, network: State) -> bool:
        from geosr.methods.judgement import proves_itself

        return proves_itself(self._groups[place], partial(self._predict, network), self._device)

    def _share(self, place: int, network: State) -> FloatArray:
        from geosr.methods.judgement import judge_prediction

        return judge_prediction(self._groups[place], partial(self._predict, network), self._device)

    def _predict(self, network: State, low: Patch) -> FloatArray:
        from geosr.methods import mmsr_fit

        return mmsr_fit.predict(low, network, self._settings, self._device)

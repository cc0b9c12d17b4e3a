"""The guided diffusion's settings, without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from geosr.methods.settings import check_choices, check_positive, check_ranges

BELIEFS = ("judged", "full")

_NOISY_VALUE_POWER, _NOISY_SCALES = 0.2, range(2, 6)
"""By how much b grows where all of a guide is noise, and at which scales. With noise of 50/255 on the seven Middlebury
guides the mean RMSE sinks by it from 0.812, 1.086, 1.379 and 1.573 to 0.771, 0.962, 1.242 and 1.511 (x2 to x5); at x6
it rises from 1.749 to 1.792, at x8 from 2.18 to 2.35 (docs/accuracy.md)."""


@dataclass(frozen=True)
class DiffusionSettings:
    """How the conductivity between two near pixels follows from how they differ.

    It is `c(d_G / K_G)^a * c(d_Y / K_Y)^b` with `c(t) = 1 / (1 + t^2)`; `d` are the differences of the guide (the
    largest over its bands; geometric mean of the pixels' own and of the 3 x 3 around them) and of the current values,
    in standard deviations. Where a hint (another method's prediction) is believed, `c(d_H / 0.05)^0.3` comes in and
    `a` sinks to 0.2, to 0.1 with a guide that was all noise.

    Attributes:
        rounds: times that the conductivities are recomputed from the current values.
        iterations: steps of the solver in each round.
        reach: pixels up to which two are near; 3 makes 36 neighbours. With 8 neighbours (1) the
            seven Middlebury samples have 1.224 and 1.804 (x4, x8) where 36 neighbours have 1.110 and 1.653.
        guide_contrast: K_G.
        guide_power: a.
        value_contrast: K_Y.
        value_power: b.
        belief: `judged` lets a test one scale lower decide how far the guide's edges are believed; where they are
            not, the answer is `MILD`'s. `full` believes them untested.
    """

    rounds: int = 24
    iterations: int = 10
    reach: int = 3
    guide_contrast: float = 0.05
    guide_power: float = 0.45
    value_contrast: float = 0.02
    value_power: float = 0.5
    belief: str = "judged"

    def __post_init__(self) -> None:
        check_choices(self, {"belief": BELIEFS})
        check_ranges(self, {"rounds": (1, 100_000), "iterations": (1, 100_000), "reach": (1, 16)})
        check_positive(self, "guide_contrast", "value_contrast")
        check_ranges(self, {"guide_power": (0, 10), "value_power": (0, 10)})

    def for_noise(self, noise: float, scale: int) -> DiffusionSettings:
        """The values' own edges count more where the guide's had to be made out in noise, and less is an edge to them.

        K_Y grows with the square of the noise, to twice as much: with 20, 50 and 80/255 on the Middlebury guides
        (0.44, 0.77 and 0.89) that takes 0, 2 and 1 % off the diffusion's mean RMSE (docs/accuracy.md).

        Args:
            noise: share of the guide's spread that was noise before that was removed, as far as the guide is
                believed, from 0 to 1.
            scale: high pixels to one source pixel along a side.
        """
        if scale not in _NOISY_SCALES:
            return self
        power, contrast = self.value_power + _NOISY_VALUE_POWER * noise, self.value_contrast * (1 + noise**2)
        return replace(self, value_power=power, value_contrast=contrast)

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns from a pixel to half of those near it, so that each pair is named once."""
        span = range(-self.reach, self.reach + 1)
        ahead = ((rows, cols) for rows in span for cols in span if (rows, cols) > (0, 0))
        return tuple(step for step in ahead if step[0] ** 2 + step[1] ** 2 < (self.reach + 0.5) ** 2)


MILD = DiffusionSettings(rounds=2, iterations=7, reach=1, guide_contrast=1.0, guide_power=1.0, value_power=0.0)
"""Smoothing that leans towards the guide only where it changes by a standard deviation: of the 18 pairs with a truth in
`shared/data` none came out more than 0.4 % worse than the interpolation, 16 better, temperatures by 5 and 10 %."""

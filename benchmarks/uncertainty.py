"""The table of `geosr.uncertainty`, and how well the standard deviations hold on pairs that had no part in it.

    python benchmarks/uncertainty.py ../shared/data                          # the diffusion, x2, x4 and x8
    python benchmarks/uncertainty.py ../shared/data --method mmsr --scales 4

The table is made from the diffusion's errors (the default's are alike where they were compared, at x4). Each pair is
judged by the table of the others: the share of its truth within one and two standard deviations, and their root mean
square over the root mean square error. Prints Markdown and the table of all pairs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_pairs import real_pairs

from geosr import methods, uncertainty
from geosr.consistency import EXACT, spread
from geosr.device import torch_threads
from geosr.methods.solve import prepare, solve
from geosr.pair import Stats
from geosr.samples import TruePair

Array = NDArray[np.float64]

RMS_SHARE = np.array([0.3, 0.3, 0.5, 1.0, 1.0, 1.0])
"""Of the root mean square in the logarithm of a knot's value, the rest is the quantile of 70 %. On smooth ground errors
are mostly far below their root mean square, and these pixels decide how many lie within one standard deviation; at
edges the few large errors decide the root mean square."""

FACTOR = 1.06


@dataclass(frozen=True)
class Errors:
    """One pair's answer: (n,) local spread and absolute error, in standard deviations of the source, and the belief.

    The errors are divided by what the method says of their size beside the diffusion's.
    The root mean square error is in the source's units.
    """

    name: str
    rmse: float
    local: Array
    error: Array
    belief: float


def measure(true: TruePair, method: str, scale: int) -> Errors:
    """A method's errors on a pair, normalised."""
    stats = Stats.measure([true.pair])
    patch = prepare(true.pair, stats, EXACT)
    chosen = methods.create(method)
    prediction = chosen.predict(patch, state := chosen.fit([patch], 0, "cpu"), "cpu")
    solution = solve(true.pair, chosen, stats=stats, consistency=EXACT, seed=0, device="cpu", state=state)
    valid = spread(true.pair.source_valid, scale)
    local = uncertainty.local_spread(solution.values, valid) / stats.source_spread
    error = np.abs(solution.values + solution.centre - true.truth) / stats.source_spread
    known = valid & np.isfinite(error)
    rmse = float(np.sqrt(np.mean(error[known] ** 2))) * stats.source_spread
    return Errors(true.name, rmse, local[known], error[known] / prediction.error_factor, prediction.belief)


def table(pairs: list[Errors], factor: float = FACTOR) -> Array:
    """(2, knots) logarithms, the mean over the pairs of each kind; a kind without pairs gets NaN."""
    rows = []
    for kind in (0, 1):
        logs = np.array([_knots(pair) for pair in pairs if round(pair.belief) == kind])
        rows.append(np.nanmean(logs, 0) if len(logs) else np.full(len(uncertainty.KNOTS), np.nan))
    found: Array = np.stack(rows) + np.log(factor)
    return found


def _knots(pair: Errors) -> Array:
    """A pair's own logarithms; NaN at knots that few pixels are near."""
    at = np.log(np.clip(pair.local, uncertainty.KNOTS[0], uncertainty.KNOTS[-1]))
    found = []
    for unit in np.eye(len(uncertainty.KNOTS)):
        weight = np.interp(at, np.log(uncertainty.KNOTS), unit)
        found.append(_value(pair.error, weight) if weight.sum() > 30 else (np.nan, np.nan))
    quantile, rms = np.log(np.transpose(found) + 1e-5)
    logs: Array = (1 - RMS_SHARE) * quantile + RMS_SHARE * rms
    return logs


def _value(error: Array, weight: Array) -> tuple[float, float]:
    """Weighted quantile of 70 % and root mean square."""
    order = np.argsort(error)
    place = np.searchsorted(np.cumsum(weight[order]), 0.7 * weight.sum())
    return float(error[order][place]), float(np.sqrt(np.average(error**2, weights=weight)))


def judge(pair: Errors, rows: Array) -> tuple[float, float, float]:
    """Shares of the truth within one and two standard deviations, and their root mean square over the error's."""
    at = np.log(np.maximum(pair.local, uncertainty.KNOTS[0]))
    smooth, sharp = (np.interp(at, np.log(uncertainty.KNOTS), row) for row in np.nan_to_num(rows))
    deviation = np.exp(smooth + pair.belief * (sharp - smooth))
    within = [float(np.mean(pair.error < times * deviation)) for times in (1, 2)]
    return within[0], within[1], float(np.sqrt(np.mean(deviation**2) / np.mean(pair.error**2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--method", default="diffusion", help="whose answers are judged")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4, 8])
    arguments = parser.parse_args()
    with torch_threads(1):
        for scale in arguments.scales:
            _print(arguments.data, arguments.method, scale)


def _print(data: Path, method: str, scale: int) -> None:
    pairs = [*real_pairs(data, scale)]
    makers = [measure(true, "diffusion", scale) for true in pairs]
    print(f"\n| x{scale}, {method} | RMSE | within 1 | within 2 | rms over RMSE |\n|---|---|---|---|---|")
    found = []
    for index, true in enumerate(pairs):
        judged = makers[index] if method == "diffusion" else measure(true, method, scale)
        found.append(judge(judged, table(makers[:index] + makers[index + 1 :])))
        print(
            f"| {true.name} | {judged.rmse:.4g} | " + " | ".join(f"{value:.2f}" for value in found[-1]) + " |",
            flush=True,
        )
    print("| mean | | " + " | ".join(f"{value:.2f}" for value in np.mean(found, 0)) + " |")
    print(f"\ntable of all pairs: {np.exp(table(makers)).round(4).tolist()}")


if __name__ == "__main__":
    main()

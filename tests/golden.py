"""What every method that needs no weights makes of one small scene, to be compared with the committed `golden.json`.

    python tests/golden.py > tests/golden.json

does it anew, where a change of results is meant; the commit says why. The scene is made of integers, so that it is the
same on every machine. Methods that learn do a few steps only: what is compared is that they still do the same, not
how well.
"""

from __future__ import annotations

import json

import numpy as np

from geosr import methods
from geosr.consistency import Consistency
from geosr.device import torch_threads
from geosr.methods.builtin import ENTRIES
from geosr.methods.solve import solve, stats_for
from geosr.pair import Pair, Stats

SIDE, SCALE = 64, 4
SHOWN = slice(3, None, 8), slice(3, None, 8)  # the pixels that are stored
# A change of 1e-6 in the guide changes CMSR by 0.02 standard deviations after 10 steps, by 0.07 after 30, and so does
# the matrix product of another processor: after 2 steps it is 2e-6.
STEPS = {"cmsr": {"steps": 2}, "mmsr": {"epochs": 20, "channels": 8}, "p2p": {"steps": 50, "hidden": 64}}
CASES = [f"{name} {preset}" for name, entry in ENTRIES.items() if not entry.needs_weights for preset in entry.presets]


def scene() -> tuple[Pair, np.ndarray]:
    """A slope with flat and raised blocks and a round hill, a guide that shows some of it, and the truth."""
    row, col = np.mgrid[:SIDE, :SIDE]
    blocks = (row // 11 * 7 + col // 13 * 5) % 6
    hill = np.maximum(300 - (row - 40) ** 2 - (col - 22) ** 2, 0)
    truth = (2 * row + col + 60 * blocks + hill).astype("float64")
    texture = (row * row * 31 + col * col * 17 + row * col * 7) % 23
    guide = np.stack([30 * blocks + texture, 200 - 25 * blocks + texture[::-1], hill // 2 + 40 * (blocks % 2)])
    source = truth.reshape(SIDE // SCALE, SCALE, SIDE // SCALE, SCALE).mean(axis=(1, 3))
    return Pair(guide.astype("float32"), np.ones(truth.shape, bool), source, np.ones(source.shape, bool)), truth


def result(case: str, threads: int = 1) -> dict:
    """RMSE against the truth, and every eighth pixel of every eighth row."""
    name, preset = case.split()
    pair, truth = scene()
    method = methods.create(name, preset, STEPS.get(name))
    stats = stats_for(method, pair, Stats.robust([pair]))
    consistency = Consistency.parse(method.consistency)
    with torch_threads(threads):
        found = solve(pair, method, stats=stats, consistency=consistency, seed=0, device="cpu")
    values = found.values.astype("float64") + found.centre
    rmse = float(np.sqrt(((values - truth) ** 2).mean()))
    return {"rmse": round(rmse, 4), "values": np.round(values[SHOWN], 3).tolist()}


def main() -> None:
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(result(case))}" for case in CASES)
    print(f"{{\n{lines}\n}}")


if __name__ == "__main__":
    main()

"""Weights for tests: small networks with values drawn at random, and small pairs to learn from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import rasters

from geosr.methods.supervised import Trainer
from geosr.methods.training_settings import training_settings
from geosr.methods.weights import Card, pack

NETWORKS = ("fdsr", "fdkn", "dkn")


def untrained(method="fdsr", scale=4, bands=3, features=8):
    """A small network's card and its module, with the first weights that a training would have."""
    settings = training_settings(method, "default", {"features": features})
    card = Card(method, scale, bands, settings.network(bands), {})
    return card, Trainer(card, settings, 5, "cpu")


def write_weights(path, **kind) -> Path:
    """A file of such weights."""
    card, trainer = untrained(**kind)
    path.write_bytes(pack(trainer.weights(), asdict(card)))
    return path


def write_truths(folder, count=3, side=64, bands=3):
    """Pairs whose truth (`truth0.tif`, ...) is flat patches that the guide shows, and their list `pairs.csv`."""
    rows = ["source,guide"]
    for seed in range(count):
        rng = np.random.default_rng(seed)
        levels = np.kron(rng.integers(0, 10, (side // 8, side // 8)), np.ones((8, 8))).astype("float32")
        levels = np.roll(levels, seed + 1, axis=1)
        image = np.stack([20 * levels, 200 - 15 * levels, 10 * levels + 40, levels][:bands]).astype("uint8")
        rasters.write(folder / f"truth{seed}.tif", 300 + levels, rasters.grid(500000, 5000000, 1))
        rasters.write(folder / f"guide{seed}.tif", image, rasters.grid(500000, 5000000, 1))
        rows.append(f"truth{seed}.tif,guide{seed}.tif")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"

"""Muon against its formulas in float64, through singular values in place of the iteration."""

import numpy as np
import pytest
import torch
from torch import nn

from geosr.methods.mmsr_fit import _optimisers
from geosr.methods.mmsr_network import build
from geosr.methods.mmsr_settings import PRESETS
from geosr.methods.muon import Muon, orthogonal


def by_singular_values(matrix):
    """What five iterations do to each singular value, divided by the Frobenius norm before."""
    left, values, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4), (1, 5)])
def test_singular_values_come_near_one(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(matrices).numpy()
    for mine, matrix in zip(found, matrices.numpy(), strict=True):
        np.testing.assert_allclose(mine, by_singular_values(matrix), atol=2e-5)
    values = np.linalg.svd(found[0], compute_uv=False)
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert not orthogonal(torch.zeros(2, 3)).any()


def test_three_steps_are_the_formulas_for_each_tile():
    """Weights of two tiles and two layers; one group decays."""
    rng, tiles, rate, decay = np.random.default_rng(2), 2, 0.03, 0.2
    plain, decayed, wide = (
        rng.normal(size=shape) for shape in [(tiles * 6, 5, 1, 1), (tiles * 6, 5, 1, 1), (8, 3, 3, 3)]
    )
    weights = [nn.Parameter(torch.from_numpy(values.astype(np.float32))) for values in (plain, decayed, wide)]
    weights[2].data = weights[2].data.contiguous(memory_format=torch.channels_last)
    groups = [{"params": [weights[1]], "weight_decay": decay}, {"params": [weights[0], weights[2]]}]
    optimiser = Muon(groups, rate, tiles)
    expected, momenta = [plain, decayed, wide], [0.0, 0.0, 0.0]
    for _ in range(3):
        for place, weight in enumerate(weights):
            gradient = rng.normal(size=weight.shape)
            weight.grad = torch.from_numpy(gradient.astype(np.float32))
            gradient = gradient + (decay if place == 1 else 0) * expected[place]
            momenta[place] = 0.95 * momenta[place] + 0.05 * gradient
            looked_ahead = 0.05 * gradient + 0.95 * momenta[place]
            for rows in np.split(np.arange(len(gradient)), tiles):
                matrix = looked_ahead[rows].reshape(len(rows), -1)
                move = rate * 0.2 * np.sqrt(max(matrix.shape)) * by_singular_values(matrix)
                expected[place][rows] -= move.reshape(expected[place][rows].shape)
        optimiser.step()
    for weight, values in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), values, atol=2e-5)


def test_matrices_between_features_are_its_and_everything_else_is_adams():
    settings = PRESETS["default"]
    net = build(3, settings, [0, 1])
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    adam, muon = (
        {names[id(weight)]: group.get("weight_decay") for group in optimiser.param_groups for weight in group["params"]}
        for optimiser in _optimisers(net, settings)
    )
    assert not adam.keys() & muon.keys()
    assert adam.keys() | muon.keys() == {*names.values()}
    assert {name for name in adam if name.endswith("weight")} == {
        "guide.0.weight",
        "source.0.weight",
        "head.3.weight",
    }
    assert {name for name, decay in (adam | muon).items() if decay} == {
        n for n in names.values() if n.startswith("guide.")
    }
    (only,) = _optimisers(net, PRESETS["paper-depth"])
    assert sum(len(group["params"]) for group in only.param_groups) == len(names)

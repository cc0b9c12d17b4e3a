"""The diffusion's solver against a dense minimiser, and what it does at edges, masks and far away."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from kernels import EVERY, use_kernels
from outputs import block_means

from geosr.methods import diffusion_solver as solver
from geosr.methods.base import Patch
from geosr.methods.diffusion_settings import DiffusionSettings
from geosr.methods.judgement import keep_near


def make_patch(rows=4, cols=3, scale=3, bands=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = rows * scale, cols * scale
    return Patch(
        rng.normal(size=(bands, *shape)).astype(np.float32),
        np.ones(shape, bool),
        rng.normal(size=(rows, cols)).astype(np.float32),
        np.ones((rows, cols), bool),
    )


@pytest.mark.parametrize("build", EVERY)
@pytest.mark.parametrize("shape", [(41, 37), (5, 4), (4, 70), (33, 5)])
def test_what_flows_along_links_is_the_sum_over_pairs_of_pixels(shape, build, monkeypatch):
    use_kernels(build, monkeypatch)
    draw = torch.Generator().manual_seed(0)
    links = tuple(solver._Link(*step) for step in DiffusionSettings().steps)
    values = torch.randn(shape, generator=draw)
    numbers = tuple(torch.rand(link.near(values).shape, generator=draw) for link in links)
    expected = np.zeros(shape)
    for link, number in zip(links, numbers, strict=True):
        for row, col in np.ndindex(*number.shape):
            near = row, col + max(-link.cols, 0)
            far = near[0] + link.rows, near[1] + link.cols
            along = float(number[row, col]) * (float(values[far]) - float(values[near]))
            expected[near] -= along
            expected[far] += along
    found = solver._Edges(links, numbers).flow(values)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    double = solver._Edges(links, tuple(number.double() for number in numbers)).flow(values.double())
    np.testing.assert_allclose(double.numpy(), expected, rtol=0, atol=1e-12)


def pooled(values, scale):
    rows, cols = values.shape
    return values.reshape(rows // scale, scale, cols // scale, scale).mean(axis=(1, 3))


def dense_minimum(start, pairs, scale):
    """Least energy with the block means of `start`, by the normal equations with multipliers, in float64.

    `pairs` are two pixels each, (row, col), and their conductivity.
    """
    rows, cols = start.shape
    matrix = np.zeros((rows * cols,) * 2)
    for a, b, weight in pairs:
        joined = [a[0] * cols + a[1], b[0] * cols + b[1]]
        matrix[np.ix_(joined, joined)] += weight * np.array([[1, -1], [-1, 1]])
    blocks = np.arange(rows // scale * (cols // scale)).reshape(rows // scale, cols // scale)
    member = np.kron(blocks, np.ones((scale, scale), int)).ravel()
    pool = np.zeros((blocks.size, rows * cols))
    pool[member, np.arange(rows * cols)] = 1 / scale**2
    system = np.block([[matrix, pool.T], [pool, np.zeros((blocks.size,) * 2)]])
    right_side = np.concatenate([np.zeros(rows * cols), pool @ start.ravel()])
    return np.linalg.lstsq(system, right_side, rcond=None)[0][: rows * cols].reshape(rows, cols)


def near_pairs(shape, reach):
    """Every two pixels whose distance rounds to at most `reach`, once."""
    pixels = list(np.ndindex(shape))
    return [
        (a, b)
        for n, a in enumerate(pixels)
        for b in pixels[n + 1 :]
        if round(np.hypot(a[0] - b[0], a[1] - b[1])) <= reach
    ]


def links_of(reach):
    return tuple(solver._Link(*step) for step in DiffusionSettings(reach=reach).steps)


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_the_iteration_ends_at_the_dense_minimum(reach):
    rng, scale, shape = np.random.default_rng(1), 3, (12, 9)
    start = rng.normal(size=shape)
    links = links_of(reach)
    numbers = tuple(
        torch.from_numpy(rng.uniform(0.2, 1, link.near(torch.empty(shape)).shape)).double() for link in links
    )
    between = {(link.rows, link.cols): weights for link, weights in zip(links, numbers, strict=True)}
    pairs = [
        (a, b, between[b[0] - a[0], b[1] - a[1]][a[0], min(a[1], b[1])].item()) for a, b in near_pairs(shape, reach)
    ]
    assert len(pairs) == sum(weights.numel() for weights in numbers)
    known = torch.ones(shape, dtype=torch.bool)
    edges = solver._Edges(links, numbers)
    values = solver._relax(torch.from_numpy(start), edges, known, solver._Blocks(scale), 400).numpy()
    np.testing.assert_allclose(values, dense_minimum(start, pairs, scale), atol=1e-4)
    np.testing.assert_allclose(pooled(values, scale), pooled(start, scale), atol=1e-12)


def test_the_guides_conductivity_is_the_formulas():
    """The geometric mean of that of the pixels and that of the 3 x 3 around them, over what both see."""
    rng, contrast = np.random.default_rng(3), 0.7
    patch = make_patch(4, 3, bands=3)
    patch.guide_valid[:] = rng.random(patch.guide_valid.shape) > 0.2
    patch.guide[:, ~patch.guide_valid] = np.nan
    guide, valid = patch.guide.astype(np.float64), patch.guide_valid
    edges = solver._guide_edges(patch, contrast, links_of(2), "cpu")

    def difference(row, col, link):
        other = row + link.rows, col + link.cols
        inside = 0 <= row < 12 and 0 <= col < 9 and other[0] < 12 and 0 <= other[1] < 9
        if not inside or not (valid[row, col] and valid[other]):
            return None
        return np.abs(guide[:, row, col] - guide[(slice(None), *other)]).max() / contrast

    for link, found in zip(edges.links, edges.numbers, strict=True):
        first = max(-link.cols, 0)
        for row, col in np.ndindex(*found.shape):
            own = difference(row, col + first, link)
            around = [difference(row + r, col + first + c, link) for r in (-1, 0, 1) for c in (-1, 0, 1)]
            mean = np.mean([d**2 for d in around if d is not None] or [0])
            expected = 1 if own is None else ((1 + own**2) * (1 + mean)) ** -0.5
            assert found[row, col].item() == pytest.approx(expected, rel=1e-4)


def test_a_step_that_the_guide_shows_comes_out_sharp_and_where_it_is():
    truth = np.where(np.arange(40)[None] < 18, -1.0, 1.0).repeat(40, 0)
    patch = Patch(
        truth[None].astype(np.float32),
        np.ones((40, 40), bool),
        pooled(truth, 4).astype(np.float32),
        np.ones((10, 10), bool),
    )
    values = solver.diffuse(patch, DiffusionSettings(), "cpu")
    assert np.abs(values - truth).max() < 0.02


@pytest.mark.parametrize("hinted", [False, True])
def test_the_result_pools_to_the_source_where_that_is_valid(hinted):
    patch = make_patch(8, 7)
    patch.source_valid[2:4, 3:] = False
    hint = np.random.default_rng(2).normal(size=(24, 21)).astype(np.float32) if hinted else None
    values = solver.diffuse(patch, DiffusionSettings(), "cpu", hint)
    np.testing.assert_allclose(pooled(values, 3)[patch.source_valid], patch.source[patch.source_valid], atol=1e-5)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 40), (2, 33), (3, 40), (40, 2), (2, 2)])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("hinted", [False, True])
def test_links_longer_than_a_narrow_patch_are_left_out(rows, cols, scale, hinted):
    patch = make_patch(rows, cols, scale)
    hint = patch.guide[0] if hinted else None
    for reach in (3, 16):
        found = solver.diffuse(patch, DiffusionSettings(reach=reach), "cpu", hint)
        np.testing.assert_allclose(pooled(found, scale), patch.source, atol=1e-5)


def test_a_hint_counts_where_it_explains_the_source():
    """Left a step that only the hint shows, right a hint of another scene."""
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(80)[None] < 18, -1.0, 1.0).repeat(40, 0)
    truth[:, 40:] += rng.normal(size=(10, 10)).repeat(4, 0).repeat(4, 1)
    source = pooled(truth, 4).astype(np.float32)
    patch = Patch(np.zeros((1, 40, 80), np.float32), np.ones((40, 80), bool), source, np.ones((10, 20), bool))
    hint = np.where(np.arange(80)[None] < 18, 0.2, 0.6).repeat(40, 0)
    hint[:, 40:] = rng.normal(size=(40, 40))
    plain, hinted = (solver.diffuse(patch, DiffusionSettings(), "cpu", h) for h in (None, hint.astype(np.float32)))
    left, right = np.s_[:, :28], np.s_[:, 60:]
    assert np.abs(hinted - truth)[left].mean() < 0.4 * np.abs(plain - truth)[left].mean()
    assert np.abs(hinted - plain)[right].mean() < 0.03 < 0.3 < np.abs(hint - plain)[right].mean()


def test_beside_a_hint_a_guide_that_was_noise_has_half_the_say(monkeypatch):
    patch, rng = make_patch(8, 7, scale=4), np.random.default_rng(2)
    hint = 0.5 * patch.source.repeat(4, 0).repeat(4, 1) + 0.01 * rng.normal(size=(32, 28))  # explains the source
    found = solver.diffuse(replace(patch, noise=1.0), DiffusionSettings(), "cpu", hint.astype(np.float32))
    usual = solver.diffuse(patch, DiffusionSettings(), "cpu", hint.astype(np.float32))
    monkeypatch.setattr(solver, "_HINTED_GUIDE_POWER", 0.1)
    expected = solver.diffuse(patch, DiffusionSettings(), "cpu", hint.astype(np.float32))
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - usual).max() > 1e-3


def test_an_invalid_guide_says_nothing_of_edges():
    patch = make_patch(8, 7)
    patch.guide_valid[:, :] = False
    blind = replace(patch, guide=np.zeros_like(patch.guide))
    results = [solver.diffuse(p, DiffusionSettings(), "cpu") for p in (patch, blind)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("seed", [0, 1])
def test_far_surroundings_have_no_influence(seed):
    rng, scale = np.random.default_rng(seed), 4
    guide = rng.normal(size=(1, 160, 32)).cumsum(axis=1).astype(np.float32)
    patch = Patch(guide, np.ones((160, 32), bool), rng.normal(size=(40, 8)).astype(np.float32), np.ones((40, 8), bool))
    part = Patch(guide[:, :120], patch.guide_valid[:120], patch.source[:30], patch.source_valid[:30])
    full, cropped = (solver.diffuse(p, DiffusionSettings(), "cpu") for p in (patch, part))
    assert np.abs(full[: 30 * scale - 16 * scale] - cropped[: 30 * scale - 16 * scale]).max() < 1e-3


@pytest.mark.parametrize("scale", [2, 4])
def test_values_keep_near_the_source_pixels_around_and_their_means_stay(scale):
    rng = np.random.default_rng(scale)
    source = rng.normal(0, 1, (9, 11)).astype(np.float32)
    high = (9 * scale, 11 * scale)
    patch = Patch(np.zeros((1, *high), np.float32), np.ones(high, bool), source, np.ones(source.shape, bool))
    values = np.kron(source, np.ones((scale, scale))) + rng.standard_t(1, high)
    values += np.kron(source - block_means(values, scale), np.ones((scale, scale)))
    found = keep_near(values.astype(np.float32), patch)
    low, top = np.empty_like(source), np.empty_like(source)
    for row, col in np.ndindex(source.shape):
        around = source[max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3]
        low[row, col], top[row, col] = 2 * around.min() - around.max(), 2 * around.max() - around.min()
    low, top = (np.kron(limit, np.ones((scale, scale))) for limit in (low, top))
    assert ((found >= low - 1e-4) & (found <= top + 1e-4)).all()
    np.testing.assert_allclose(block_means(found, scale), source, atol=1e-4)
    within = ((values >= low) & (values <= top)).reshape(9, scale, 11, scale).all(axis=(1, 3))
    assert 0 < within.sum() < within.size
    whole = np.kron(within, np.ones((scale, scale), bool))
    np.testing.assert_array_equal(found[whole], values.astype(np.float32)[whole])

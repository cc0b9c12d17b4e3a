"""What every method promises, through the wrapper that the pipeline calls it by.

A test class that inherits from `Conformance` and has a fixture `method` holds that method to all of it.
"""

import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest

from geosr import methods
from geosr.consistency import EXACT, Consistency, pool, spread
from geosr.methods.base import Patch, told_to
from geosr.methods.solve import interpolate, solve
from geosr.pair import Pair, Stats

OFF = Consistency.parse("off")


def make_pair(*, seed=0, rows=10, cols=9, scale=4, bands=3):
    rng = np.random.default_rng(seed)
    guide = rng.normal(120, 40, (bands, rows * scale, cols * scale)).astype(np.float32)
    source = 300 + rng.normal(0, 5, (rows, cols)).cumsum(axis=0)
    return Pair(guide, np.ones(guide.shape[1:], bool), source, np.ones(source.shape, bool))


def run(pair, method, **changes):
    options = {"stats": Stats.measure([pair]), "consistency": EXACT, "seed": 3, "device": "cpu"} | changes
    return solve(pair, method, **options)


class Conformance:
    """The tests; `method` is a fixture of the class that inherits."""

    @pytest.mark.parametrize(("rows", "cols", "scale"), [(5, 4, 2), (3, 9, 3), (10, 9, 4), (4, 4, 8), (2, 2, 32)])
    def test_any_size_and_number_of_bands_pools_to_the_source(self, method, rows, cols, scale):
        if scale not in method.scales:
            pytest.skip("it does not work at that scale")
        pair = make_pair(rows=rows, cols=cols, scale=scale, bands=method.bands or 1 + scale % 3)
        solution = run(pair, method)
        assert solution.values.shape == (rows * scale, cols * scale)
        pooled, _ = pool(solution.values, np.ones(solution.values.shape, bool), scale)
        np.testing.assert_allclose(pooled + solution.centre, pair.source, atol=1e-9)

    def test_a_prediction_is_float32_on_the_high_grid(self, method):
        rng, bands = np.random.default_rng(1), method.bands or 2
        guide, source = rng.normal(size=(bands, 24, 32)).astype(np.float32), rng.normal(size=(6, 8)).astype(np.float32)
        patch = Patch(guide, np.ones((24, 32), bool), source, np.ones((6, 8), bool))
        values = method.predict(patch, method.fit([patch], 0, "cpu"), "cpu").values
        assert values.shape == (24, 32)
        assert values.dtype == np.float32

    def test_what_it_declares(self, method):
        assert method.statistics in ("scene", "tile")
        assert method.consistency in ("exact", "off")
        assert method.fit_scope in ("scene", "tile")
        assert {2, 4, 32} & set(method.scales)
        assert method.bands in (None, 3)  # the number that the other tests' guides have
        assert method.weights is None or methods.entry(method.name).needs_weights
        assert method.memory(3, (320, 320), 4) > 4 * 3 * 320 * 320
        assert type(method.settings).__dataclass_params__.frozen
        assert all(isinstance(value, str | bool | int | float) for value in asdict(method.settings).values())
        assert pickle.loads(pickle.dumps(method)).settings == method.settings

    def test_inputs_are_left_alone_and_the_seed_decides_the_bits(self, method):
        pair = make_pair()
        for array in (pair.guide, pair.guide_valid, pair.source, pair.source_valid):
            array.setflags(write=False)
        first, again = run(pair, method), run(pair, method)
        np.testing.assert_array_equal(first.values, again.values)

    def test_a_state_is_arrays_that_can_be_stored(self, method):
        rng, bands = np.random.default_rng(2), method.bands or 2
        guide, source = rng.normal(size=(bands, 32, 32)).astype(np.float32), rng.normal(size=(8, 8)).astype(np.float32)
        patch = Patch(guide, np.ones((32, 32), bool), source, np.ones((8, 8), bool))
        state = method.fit([patch], 0, "cpu")
        assert bool(state) == method.needs_fit
        assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiu" for array in state.values())

    def test_what_a_fit_tells_of_itself_rises_to_one(self, method):
        rng, bands = np.random.default_rng(2), method.bands or 2
        guide, source = rng.normal(size=(bands, 32, 32)).astype(np.float32), rng.normal(size=(8, 8)).astype(np.float32)
        told = []
        with told_to(told.append):
            method.fit([Patch(guide, np.ones((32, 32), bool), source, np.ones((8, 8), bool))], 0, "cpu")
        assert told == sorted(told)
        assert not told or 0 < told[0] <= told[-1] <= 1
        steps = {"epochs", "steps"} & {*asdict(method.settings)}
        assert bool(told) == (method.needs_fit and bool(steps))
        count = len(told)
        method.fit([Patch(guide, np.ones((32, 32), bool), source, np.ones((8, 8), bool))], 0, "cpu")
        assert len(told) == count  # nobody listens any more

    def test_values_under_the_masks_have_no_influence(self, method):
        pair = make_pair(rows=8, cols=8)
        pair.source_valid[2:4, 5:] = False
        pair.guide_valid[:9, :7] = False
        bad = replace(
            pair,
            source=np.where(pair.source_valid, pair.source, -9999.0),
            guide=np.where(pair.guide_valid, pair.guide, np.float32(1e30)),
        )
        clean = replace(
            pair,
            source=np.where(pair.source_valid, pair.source, 0.0),
            guide=np.where(pair.guide_valid, pair.guide, np.float32(0)),
        )
        np.testing.assert_array_equal(run(bad, method).values, run(clean, method).values)

    def test_a_constant_source_is_the_answer(self, method):
        pair = replace(make_pair(), source=np.full((10, 9), 4.5e6))
        solution = run(pair, method)
        np.testing.assert_allclose(solution.values + solution.centre, 4.5e6, rtol=1e-12)

    def test_a_constant_guide_gives_finite_values(self, method):
        pair = replace(make_pair(), guide=np.full((3, 40, 36), 7, np.float32))
        assert np.isfinite(run(pair, method).values).all()

    def test_without_a_guide_the_source_is_interpolated(self, method):
        pair = make_pair()
        expected = run(pair, method, consistency=OFF).values
        pair.guide_valid[:] = False
        solution = run(pair, method, consistency=OFF)
        if method.uses_guide:
            expected = interpolate((pair.source - solution.centre).astype(np.float32), 4)
        np.testing.assert_allclose(solution.values, expected, atol=1e-3)

    def test_in_a_gap_of_the_guide_the_source_is_interpolated_and_beyond_its_rim_the_method_holds(self, method):
        pair = make_pair(rows=12, cols=12)
        pair.guide_valid[:, :20] = False
        stats = Stats.measure([pair])
        solution = run(pair, method, stats=stats, consistency=OFF)
        plain = run(replace(pair, guide_valid=np.zeros_like(pair.guide_valid)), method, stats=stats, consistency=OFF)
        np.testing.assert_allclose(solution.values[:, :20], plain.values[:, :20], atol=1e-9)
        assert (np.abs(solution.values - plain.values)[:, 24:].max() > 0) == method.uses_guide

    def test_the_surroundings_beyond_the_halo_change_nothing(self, method):
        """For one and the same state, as the halo promises; per-tile fits differ, and that is what blending is for."""
        if method.fit_scope == "tile":
            pytest.skip("its state is never carried to other pixels")
        scale, rng = 4, np.random.default_rng(5)
        margin = method.halo(scale) // scale
        low = 2 * margin + 8
        guide = rng.normal(size=(3, low * scale, low * scale)).astype(np.float32)
        source = rng.normal(size=(low, low)).astype(np.float32)

        def patch_of(rows):
            high = slice(rows.start * scale, rows.stop * scale)
            part = guide[:, high], source[rows]
            return Patch(part[0], np.ones(part[0].shape[1:], bool), part[1], np.ones(part[1].shape, bool))

        whole = patch_of(slice(0, low))
        state = method.fit([whole], 1, "cpu")
        full = method.predict(whole, state, "cpu").values
        part = method.predict(patch_of(slice(0, low - 4)), state, "cpu").values
        safe = part.shape[0] - margin * scale
        assert np.abs(full[:safe] - part[:safe]).max() < 1e-3
        assert margin == 0 or np.abs(full[: part.shape[0]] - part).max() > 1e-3

    def test_soft_consistency_bounds_every_block(self, method):
        pair = make_pair()
        solution = run(pair, method, consistency=Consistency.parse("soft:0.05"))
        pooled, _ = pool(solution.values, np.ones(solution.values.shape, bool), 4)
        assert np.abs(pooled + solution.centre - pair.source).max() <= 0.05 + 1e-9
        assert spread(pooled, 4).shape == solution.values.shape

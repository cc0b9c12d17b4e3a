"""What every method promises, through the wrapper that the pipeline calls it by."""

from dataclasses import replace

import numpy as np
import pytest

from geosr import methods
from geosr.consistency import EXACT, Consistency, pool, spread
from geosr.errors import TileError, UnavailableError, UsageError
from geosr.methods.base import Prediction
from geosr.methods.solve import interpolate, solve
from geosr.pair import Pair, Stats

OFF = Consistency.parse("off")
QUICK = {
    "mmsr": {"epochs": 2, "channels": 8, "source_to_guide": 5, "guide_to_source": 3},
    "diffusion": {},
    "bicubic": {},
}


@pytest.fixture(params=methods.names())
def method(request):
    return methods.create(request.param, "default", QUICK[request.param])


def make_pair(*, seed=0, rows=10, cols=9, scale=4, bands=3):
    rng = np.random.default_rng(seed)
    guide = rng.normal(120, 40, (bands, rows * scale, cols * scale)).astype(np.float32)
    source = 300 + rng.normal(0, 5, (rows, cols)).cumsum(axis=0)
    return Pair(guide, np.ones(guide.shape[1:], bool), source, np.ones(source.shape, bool))


def run(pair, method, **changes):
    options = {"stats": Stats.measure([pair]), "consistency": EXACT, "seed": 3, "device": "cpu"} | changes
    return solve(pair, method, **options)


@pytest.mark.parametrize(("rows", "cols", "scale"), [(5, 4, 2), (3, 9, 3), (10, 9, 4), (4, 4, 8), (2, 2, 32)])
def test_any_size_pools_to_the_source(method, rows, cols, scale):
    pair = make_pair(rows=rows, cols=cols, scale=scale, bands=1 + scale % 3)
    solution = run(pair, method)
    assert solution.values.shape == (rows * scale, cols * scale)
    pooled, _ = pool(solution.values, np.ones(solution.values.shape, bool), scale)
    np.testing.assert_allclose(pooled + solution.centre, pair.source, atol=1e-9)


def test_inputs_are_left_alone_and_the_seed_decides_the_bits(method):
    pair = make_pair()
    for array in (pair.guide, pair.guide_valid, pair.source, pair.source_valid):
        array.setflags(write=False)
    first, again = run(pair, method), run(pair, method)
    np.testing.assert_array_equal(first.values, again.values)


def test_values_under_the_masks_have_no_influence(method):
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


def test_a_constant_source_is_the_answer(method):
    pair = replace(make_pair(), source=np.full((10, 9), 4.5e6))
    solution = run(pair, method)
    np.testing.assert_allclose(solution.values + solution.centre, 4.5e6, rtol=1e-12)


def test_a_constant_guide_gives_finite_values(method):
    pair = replace(make_pair(), guide=np.full((3, 40, 36), 7, np.float32))
    assert np.isfinite(run(pair, method).values).all()


def test_without_a_guide_the_source_is_interpolated(method):
    pair = make_pair()
    pair.guide_valid[:] = False
    solution = run(pair, method, consistency=OFF)
    expected = interpolate((pair.source - solution.centre).astype(np.float32), 4)
    np.testing.assert_allclose(solution.values, expected, atol=1e-3)


def test_in_a_gap_of_the_guide_the_source_is_interpolated_and_beyond_its_rim_the_method_holds(method):
    pair = make_pair(rows=12, cols=12)
    pair.guide_valid[:, :20] = False
    stats = Stats.measure([pair])
    solution = run(pair, method, stats=stats, consistency=OFF)
    plain = run(replace(pair, guide_valid=np.zeros_like(pair.guide_valid)), method, stats=stats, consistency=OFF)
    np.testing.assert_allclose(solution.values[:, :20], plain.values[:, :20], atol=1e-9)
    if method.name != "bicubic":
        assert np.abs(solution.values - plain.values)[:, 24:].max() > 0


def test_the_surroundings_beyond_the_halo_change_nothing(method):
    """For one and the same state, as the halo promises; per-tile fits differ, and that is what blending is for."""
    from geosr.methods.base import Patch

    scale, rng = 4, np.random.default_rng(5)
    method = methods.create(
        method.name, "default", QUICK[method.name] | ({"channels": 16} if QUICK[method.name] else {})
    )
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
    assert np.abs(full[: part.shape[0]] - part).max() > 1e-3


class Broken:
    """A method whose answer is not one."""

    name, statistics, consistency = "broken", "scene", "exact"

    def __init__(self, values):
        self.values = values

    def fit(self, patches, seed, device):
        return {}

    def predict(self, patch, state, device):
        return Prediction(self.values)


@pytest.mark.parametrize("values", [np.full((40, 36), np.nan, np.float32), np.zeros((3, 3), np.float32)])
def test_an_answer_that_is_none_is_an_error(values):
    with pytest.raises(TileError, match="broken returned"):
        run(make_pair(), Broken(values))


def test_soft_consistency_bounds_every_block(method):
    pair = make_pair()
    solution = run(pair, method, consistency=Consistency.parse("soft:0.05"))
    pooled, _ = pool(solution.values, np.ones(solution.values.shape, bool), 4)
    assert np.abs(pooled + solution.centre - pair.source).max() <= 0.05 + 1e-9
    assert spread(pooled, 4).shape == solution.values.shape


@pytest.mark.parametrize("mode", ["soft:1", "off"])
def test_what_is_not_exact_makes_a_difference(method, mode):
    pair = make_pair()
    exact, other = (run(pair, method, consistency=Consistency.parse(text)).values for text in ("exact", mode))
    assert (
        np.abs(pool(exact, np.ones(exact.shape, bool), 4)[0] - pool(other, np.ones(exact.shape, bool), 4)[0]).max()
        > 0.01
    )


def test_unknown_names_say_what_there_is():
    with pytest.raises(UnavailableError, match=r"mmsr, diffusion, bicubic"):
        methods.create("magic")
    with pytest.raises(UsageError, match="preset"):
        methods.create("mmsr", "magic")
    with pytest.raises(UsageError, match="no setting 'magic'"):
        methods.create("mmsr", settings={"magic": 1})
    with pytest.raises(UsageError, match="bicubic has no preset"):
        methods.create("bicubic", "magic")


def test_without_compiled_kernels_a_run_says_so(tmp_path, monkeypatch):
    from pairs import make_pair, upscale

    from geosr.methods import compiled

    make_pair(tmp_path)
    quick = ("--set", "epochs=1", "--set", "channels=4")
    assert "C compiler" not in upscale(tmp_path, *quick, method="mmsr").err or compiled.library() is None
    monkeypatch.setattr(compiled, "library", lambda: None)
    slow = upscale(tmp_path, *quick, "--overwrite", method="mmsr")
    assert slow.code == 0
    assert "installed without a C compiler" in slow.err
